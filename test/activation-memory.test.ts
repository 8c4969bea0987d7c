/**
 * What the model says that a training pass takes in memory, against what it takes: whichever layers train, whatever stands in their
 * place, and with layers computed again. Frozen layers below the first that trains keep nothing.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type LoraConfigInput, startLora } from "../packages/lora/src/index.ts";
import { parseModelConfig, QwenModel } from "../packages/qwen/src/index.ts";
import {
  createDevice,
  type Device,
  Generator,
  memory,
  resetPeakMemory,
  scope,
  Tensor,
} from "../packages/tensor/src/index.ts";

// Shares of attention and feed-forward as in the 0.5B model; rows enough that ids and single numbers do not count.
const config = parseModelConfig({
  ...{ model_type: "qwen2", architectures: ["Qwen2ForCausalLM"], hidden_act: "silu", tie_word_embeddings: true },
  ...{ hidden_size: 56, intermediate_size: 304, num_hidden_layers: 4, vocab_size: 64 },
  ...{ num_attention_heads: 7, num_key_value_heads: 1, max_position_embeddings: 512 },
});
const ROWS = 1024;
const ATTENTION = ["q_proj", "v_proj"];
const ALL = [...ATTENTION, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

let device: Device;
beforeAll(async () => {
  device = await createDevice("cpu", { threads: 1 });
});
afterAll(() => device.dispose());

/** Bytes that are said and that a pass takes at its most, beside gradients of the weights. */
function measured(model: QwenModel, recompute: boolean): { said: number; taken: number } {
  const ids = Int32Array.from({ length: ROWS }, (_, i) => i % config.vocabSize);
  const positions = ids.map((_, i) => i % 64);
  const segments = Array.from({ length: ROWS / 64 }, (_, i) => ({ query: 64 * i, queries: 64, key: 64 * i, keys: 64 }));
  model.recompute = recompute;
  const before = memory().bytes;
  resetPeakMemory();
  scope(() => model.loss({ tokens: ids, positions, segments, targets: ids }).backward());
  const taken = memory().peakBytes - before;
  const parameters = model.trainableParameters();
  for (const { grad } of parameters) grad?.dispose();
  for (const parameter of parameters) parameter.grad = undefined;
  return { said: model.activationBytes(ROWS), taken };
}

const LAYERS: readonly (readonly [string, number[] | null])[] = [
  ["all layers", null],
  ["the first layer", [0]],
  ["layers in the middle", [1, 2]],
  ["the last layer", [3]],
];
const KINDS: Readonly<Record<string, LoraConfigInput>> = {
  "query and value": { target_modules: ATTENTION },
  "every projection": { target_modules: ALL },
  "output projection": { target_modules: ["o_proj"] },
  "gate alone": { target_modules: ["gate_proj"] },
  "down alone": { target_modules: ["down_proj"] },
  "no dropout": { target_modules: ATTENTION, lora_dropout: 0 },
  "DoRA of the output projection": { target_modules: ["o_proj"], use_dora: true, lora_dropout: 0 },
  DoRA: { target_modules: ALL, use_dora: true, lora_dropout: 0 },
  "DoRA with dropout": { target_modules: ALL, use_dora: true },
  PiSSA: { target_modules: ALL, init_lora_weights: "pissa" },
};

describe.each(LAYERS)("a pass takes the memory that is said: %s", (_, layers) => {
  test.each(Object.entries(KINDS))("%s", async (_, kind) => {
    const model = QwenModel.init(config, new Generator(1), { device });
    try {
      const lora = { r: 2, lora_dropout: 0.1, layers_to_transform: layers, ...kind };
      using adapter = await startLora(model, lora, new Generator(2));
      const rows = Tensor.from(new Int32Array(2 * ROWS), [ROWS, 2], { dtype: "i32", device });
      Object.assign(adapter.dropout, { training: true, step: 1, rows });
      for (const recompute of [false, true]) {
        const { said, taken } = measured(model, recompute);
        expect([recompute, Math.abs(said / taken - 1) < 0.006]).toEqual([recompute, true]);
      }
      rows.dispose();
    } finally {
      model.dispose();
    }
  });
});

test("embeddings that train: a gradient flows through every layer", () => {
  const model = QwenModel.init(config, new Generator(1), { device });
  for (const [name, parameter] of model.namedParameters())
    parameter.requiresGrad = name === "model.embed_tokens.weight";
  const { said, taken } = measured(model, false);
  expect(Math.abs(said / taken - 1)).toBeLessThan(0.006);
  model.dispose();
});
