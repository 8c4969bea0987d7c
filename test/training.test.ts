/**
 * LoRA training on real weights against PyTorch's run with PEFT from the same adapter: losses, gradients, weights and
 * the trained model's logits. Needs the golden values beside the checkout and the weights; says so when absent.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readExamples } from "../packages/data/src/index.ts";
import {
  CONFIG_FILE,
  type Lora,
  loadAdapter,
  promptFormat,
  saveAdapter,
  type TrainResult,
  train,
  trainingSequences,
  WEIGHTS_FILE,
} from "../packages/lora/src/index.ts";
import { Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, memory } from "../packages/tensor/src/index.ts";
import { findGolden, findWeights, titleOf } from "./support/golden.ts";

interface GoldenRun {
  config: { r: number; lr: number; epochs: number };
  trainable: number;
  sequences: number[][];
  steps: { loss: number; grad_norm: number; lr: number; first_grad_norms?: Record<string, number> }[];
  final_param_norms: Record<string, number>;
  after_top10_ids: number[];
  after_top10: number[];
}

const folder = findGolden();
const weights = findWeights();
const golden: { logits: { ids: number[] }[]; train: GoldenRun[] } | undefined =
  folder && (await Bun.file(join(folder, "golden.json")).json());
const { title, skip } = titleOf("golden training", { "golden values": golden, "real weights": weights });

/** PyTorch names a living adapter in its keys, files do not. */
const fileKey = (key: string): string => key.replace(".default.weight", ".weight");
const relative = (got: number, want: number): number => Math.abs(got - want) / Math.max(Math.abs(want), 1e-12);

describe.skipIf(skip)(title, () => {
  const want = golden?.train[0] as GoldenRun;
  let device: Device;
  let qwen: Qwen;
  let lora: Lora;
  let result: TrainResult;
  let storages: number;

  beforeAll(async () => {
    device = await createDevice("cpu");
    qwen = await Qwen.load(weights!, { device });
    lora = await loadAdapter(join(folder!, "r8_qv_init"), qwen.model);
    storages = memory().storages;
    const sequences = want.sequences.map((tokens) => ({ tokens, targets: [...tokens.slice(1), -1] }));
    const { epochs, lr } = want.config;
    result = await train({ model: qwen.model, lora, sequences, options: { epochs, lr, shuffle: false } });
  }, 3_600_000);
  afterAll(async () => {
    lora?.remove();
    qwen?.dispose();
    await device?.dispose();
  });

  test("the seed's rows become PyTorch's token ids", async () => {
    const { tokenizer } = qwen;
    const data = join(folder!, "..", "seed-data", "lora_train_data.csv");
    const { sequences } = trainingSequences(await readExamples(data), {
      prompt: promptFormat("base"),
      encode: (text) => tokenizer.encode(text),
      endTokenId: tokenizer.encode("<|im_end|>")[0],
    });
    expect(sequences.map(({ tokens }) => tokens)).toEqual(want.sequences);
  });

  test("540,672 trainable parameters", () => {
    expect(lora.summary()).toBe("trainable params: 540,672 || all params: 494,573,440 || trainable%: 0.1093");
    expect(lora.count().trainable).toBe(want.trainable);
  });

  test("losses within 1e-3 relative, gradient norms within 1e-2, rates exact", () => {
    expect(result.steps.length).toBe(want.steps.length);
    for (const [i, { loss, grad_norm, lr }] of want.steps.entries()) {
      const got = result.steps[i];
      expect([i, relative(got.loss, loss) < 1e-3]).toEqual([i, true]);
      expect([i, relative(got.grad_norm, grad_norm) < 1e-2]).toEqual([i, true]);
      expect(got.lr).toBeCloseTo(lr, 12);
    }
  });

  test("the first step's gradient norm of every matrix within 1e-2 relative", () => {
    const got = result.steps[0].first_grad_norms!;
    const expected = Object.entries(want.steps[0].first_grad_norms!);
    expect(Object.keys(got).length).toBe(expected.length);
    for (const [key, norm] of expected) {
      const near = norm === 0 ? got[fileKey(key)] === 0 : relative(got[fileKey(key)], norm) < 1e-2;
      expect([key, got[fileKey(key)], norm, near]).toEqual([key, got[fileKey(key)], norm, true]);
    }
  });

  test("norms of the trained matrices within 5e-3 relative at most and 1e-4 in the median", async () => {
    const got = await lora.norms();
    const errors = Object.entries(want.final_param_norms)
      .map(([key, norm]) => relative(got[fileKey(key)], norm))
      .sort((a, b) => a - b);
    expect(errors.length).toBe(Object.keys(got).length);
    expect(errors.at(-1)!).toBeLessThan(5e-3);
    expect(errors[errors.length >> 1]).toBeLessThan(1e-4);
  });

  test("logits afterwards within 1e-2, also merged and of PyTorch's own adapter", async () => {
    const [{ ids }] = golden!.logits;
    const check = async (): Promise<void> => {
      const { logits } = await qwen.score(ids);
      for (const [i, id] of want.after_top10_ids.entries()) {
        expect([id, Math.abs(logits[id] - want.after_top10[i]) < 1e-2]).toEqual([id, true]);
      }
    };
    await check();
    lora.merge();
    await check();
    lora.unmerge();
    lora.detach();
    const theirs = await loadAdapter(join(folder!, "r8_qv_final"), qwen.model);
    await check();
    theirs.remove();
    lora.attach();
  }, 600_000);

  test("training left no memory behind", () => {
    expect(memory().storages).toBeLessThanOrEqual(storages);
  });

  test.each(["r8_qv_init", "r8_qv_final", "tuned_15gb"])(
    "%s, as PEFT wrote it, is written again byte for byte",
    async (name) => {
      lora.detach();
      const theirs = await loadAdapter(join(folder!, name), qwen.model);
      const out = await mkdtemp(join(tmpdir(), "golden-"));
      await saveAdapter(out, theirs);
      for (const file of [CONFIG_FILE, WEIGHTS_FILE]) {
        expect((await readFile(join(out, file))).equals(await readFile(join(folder!, name, file)))).toBe(true);
      }
      await rm(out, { recursive: true });
      theirs.remove();
      lora.attach();
    },
  );
});
