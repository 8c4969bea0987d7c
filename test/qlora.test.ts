/**
 * LoRA on a frozen base of 8- and 4-bit blocks (QLoRA: Dettmers et al., 2023), ours and a GGUF file's: losses, gradients
 * and what training makes of the adapter are those of the same base with its blocks written out as numbers, which
 * variants.test.ts holds against PEFT.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Lora, type LoraConfigInput, startLora, train } from "../packages/lora/src/index.ts";
import fixture from "../packages/lora/src/testdata/variants-peft-0.21.2.json" with { type: "json" };
import { writeTinyGguf } from "../packages/qwen/src/gguf/testdata.ts";
import { ggufWeights, loadModel, parseModelConfig, passOf, QwenModel } from "../packages/qwen/src/index.ts";
import {
  createDevice,
  type Device,
  defaultDevice,
  Generator,
  isBlocks,
  noGrad,
  openGguf,
  scope,
  setDefaultDevice,
} from "../packages/tensor/src/index.ts";

const modelConfig = parseModelConfig(JSON.parse(fixture.config));
const sequences = fixture.sequences.map((tokens) => ({ tokens, targets: [...tokens.slice(1), -1] }));

const kinds: Record<string, Partial<LoraConfigInput>> = {
  LoRA: { lora_dropout: 0.2 },
  DoRA: { use_dora: true },
  PiSSA: { init_lora_weights: "pissa" },
};

let device: Device;
let before: Device;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "qlora-"));
  device = await createDevice("cpu");
  before = defaultDevice();
  setDefaultDevice(device);
  await writeFile(join(folder, "model.safetensors"), Buffer.from(fixture.weights, "base64"));
});
const opened: QwenModel[] = [];
/** Gives the model's memory back after the test. */
function keep(model: QwenModel): QwenModel {
  opened.push(model);
  return model;
}
afterEach(() => {
  for (const model of opened.splice(0)) model.dispose();
});
afterAll(async () => {
  setDefaultDevice(before);
  await device?.dispose();
  await rm(folder, { recursive: true, force: true });
});

const load: Record<string, () => Promise<QwenModel>> = {
  "8 bits": () => loadModel(folder, modelConfig, { quantize: "q8", quantizedCache: join(folder, "cache") }),
  "4 bits": () => loadModel(folder, modelConfig, { quantize: "q4", quantizedCache: join(folder, "cache") }),
  "a GGUF file's blocks": async () => {
    const plain = keep(await loadModel(folder, modelConfig));
    const path = join(folder, "model.gguf");
    await writeTinyGguf(path, plain, (tensors) => {
      for (const [name, t] of tensors)
        if (t.rank === 2)
          tensors.set(
            name,
            noGrad(() => t.to("q4_1")),
          );
    });
    using file = await openGguf(path);
    const tensors = await ggufWeights(file, modelConfig, device);
    return new QwenModel(modelConfig, (name) => tensors.get(name)!);
  },
};

/** The same model, its blocks written out as the numbers they stand for. */
function writtenOut(model: QwenModel): QwenModel {
  const parameters = model.stateDict();
  return new QwenModel(modelConfig, (name) => noGrad(() => parameters.get(name)!.to("f32").clone()).keep());
}

const furthest = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);

describe.each(Object.keys(load))("on %s", (name) => {
  test.each(Object.entries(kinds))("%s learns as on the numbers that the blocks stand for", async (_, kind) => {
    const blocks = keep(await load[name]());
    const numbers = keep(writtenOut(blocks));
    const matrices = [...blocks.namedParameters()].filter(([key]) => key.includes("_proj.weight"));
    expect(matrices.every(([, t]) => isBlocks(t.dtype))).toBe(true);
    const run = async (model: QwenModel) => {
      const config = { r: 2, lora_alpha: 4, target_modules: "all-linear", ...kind };
      using lora: Lora = await startLora(model, config, new Generator(1));
      // The adapter of the first layer learns through the blocks of all that follow.
      const pass = passOf(
        fixture.sequences,
        sequences.map(({ targets }) => targets),
      );
      scope(() => model.loss(pass).backward());
      const gradients = await Promise.all(lora.parameters().map(async (p) => [...(await p.grad!.data())]));
      const options = { epochs: 4, lr: 0.02, batch: 3, gradAccum: 1, seed: 3 };
      const { steps } = await train({ model, lora, sequences, options });
      const weights = await Promise.all(lora.parameters().map(async (p) => [...(await p.data())]));
      return { gradients, weights, losses: steps.map(({ loss }) => loss) };
    };
    const [ours, wanted] = [await run(blocks), await run(numbers)];
    expect(furthest(ours.losses, wanted.losses)).toBeLessThan(1e-4);
    expect(wanted.losses[3]).toBeLessThan(wanted.losses[0] - 0.1);
    expect(
      furthest(
        ours.gradients[1],
        ours.gradients[1].map(() => 0),
      ),
    ).toBeGreaterThan(0.01);
    for (const [i, gradient] of wanted.gradients.entries()) {
      expect(furthest(ours.gradients[i], gradient)).toBeLessThan(
        1e-5 *
          (1 +
            furthest(
              gradient,
              gradient.map(() => 0),
            )),
      );
      expect(furthest(ours.weights[i], wanted.weights[i])).toBeLessThan(1e-3);
    }
    // The frozen blocks are what they were.
    expect(matrices.every(([, t]) => !t.requiresGrad && t.grad === undefined)).toBe(true);
  });
});
