/**
 * Every kind of adapter against PEFT, on a small random model of the Qwen2 architecture: it begins with PEFT's logits, the
 * first step has PEFT's gradients, training has PEFT's losses and ends at PEFT's logits and weights, and what PEFT saved
 * loads. The fixture and the script that makes it lie in packages/lora/src/testdata. Real weights: peft.test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  applyLora,
  type Lora,
  type LoraConfigInput,
  loadAdapter,
  parseLoraConfig,
  saveAdapter,
  startLora,
  type TrainResult,
  train,
} from "../packages/lora/src/index.ts";
import fixture from "../packages/lora/src/testdata/variants-peft-0.21.2.json" with { type: "json" };
import { loadModel, parseModelConfig, passOf, type QwenModel } from "../packages/qwen/src/index.ts";
import {
  createDevice,
  type Device,
  defaultDevice,
  Generator,
  noGrad,
  parseSafetensors,
  scope,
  setDefaultDevice,
  type Tensor,
} from "../packages/tensor/src/index.ts";

interface Files {
  config: string;
  weights: string;
}
interface Case {
  start: Files;
  start_logits: number[];
  gradients: string;
  losses: number[];
  norms: number[];
  end_logits: number[];
  end: Files;
  converted?: Files;
  label_smoothing: number;
  loraplus_lr_ratio?: number;
}
const cases: readonly (readonly [string, Case])[] = Object.entries<Case>(fixture.cases);
const begunFromBase = cases.filter(([, { converted }]) => converted !== undefined);
const sequences = fixture.sequences.map((tokens) => ({ tokens, targets: [...tokens.slice(1), -1] }));

let device: Device;
let before: Device;
let model: QwenModel;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "variants-"));
  device = await createDevice("cpu");
  before = defaultDevice();
  setDefaultDevice(device);
  await writeFile(join(folder, "config.json"), fixture.config);
  await writeFile(join(folder, "model.safetensors"), Buffer.from(fixture.weights, "base64"));
  model = await loadModel(folder, parseModelConfig(JSON.parse(fixture.config)), { device });
});
afterAll(async () => {
  model?.dispose();
  setDefaultDevice(before);
  await device?.dispose();
  await rm(folder, { recursive: true, force: true });
});

async function folderOf({ config, weights }: Files): Promise<string> {
  const dir = await mkdtemp(join(folder, "adapter-"));
  await writeFile(join(dir, "adapter_config.json"), config);
  await writeFile(join(dir, "adapter_model.safetensors"), Buffer.from(weights, "base64"));
  return dir;
}

/** Logits after the first sequence. */
async function logits(): Promise<number[]> {
  const [ids] = fixture.sequences;
  using out = scope(() => noGrad(() => model.logits(model.hidden(passOf([ids])))));
  return [...(await out.data())].slice(-model.config.vocabSize);
}

const furthest = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length);
  return Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
};

/** @param limit of the difference, in parts of the largest number of a tensor */
async function expectTensors(found: Iterable<[string, Tensor]>, safetensors: string, limit: number): Promise<void> {
  using file = parseSafetensors(Buffer.from(safetensors, "base64"));
  const all = [...found];
  expect(all.map(([key]) => key).sort()).toEqual([...file.names()].sort());
  for (const [key, tensor] of all) {
    using wanted = file.tensor(key);
    expect([key, tensor.shape]).toEqual([key, wanted.shape]);
    const values = await wanted.data();
    const largest = furthest(values, new Float32Array(values.length)) || 1;
    expect(furthest(await tensor.data(), values) / largest).toBeLessThan(limit);
  }
}

/** Trains as the script does: all sequences in one step, the rate falling linearly. */
function run(lora: Lora, { losses, label_smoothing, loraplus_lr_ratio }: Case): Promise<TrainResult> {
  const options = {
    ...{ epochs: losses.length, lr: fixture.lr, batch: sequences.length, gradAccum: 1, shuffle: false },
    labelSmoothing: label_smoothing,
    loraplusLrRatio: loraplus_lr_ratio,
  };
  return train({ model, lora, sequences, options });
}

describe.each(cases)("%s", (_, golden) => {
  test("begins, trains and ends as with PEFT", async () => {
    using lora = await loadAdapter(await folderOf(golden.start), model);
    expect(furthest(await logits(), golden.start_logits)).toBeLessThan(1e-4);
    const { steps } = await run(lora, golden);
    const closest = (found: number[], wanted: number[]) =>
      furthest(
        found.map((x, i) => x / wanted[i]),
        wanted.map(() => 1),
      );
    expect(
      closest(
        steps.map(({ loss }) => loss),
        golden.losses,
      ),
    ).toBeLessThan(1e-4);
    expect(
      closest(
        steps.map(({ grad_norm }) => grad_norm),
        golden.norms,
      ),
    ).toBeLessThan(1e-3);
    expect(furthest(await logits(), golden.end_logits)).toBeLessThan(5e-3);
    await expectTensors(lora.namedParameters(), golden.end.weights, 1e-3);
  });

  test("has PEFT's gradients, matrix by matrix", async () => {
    using lora = await loadAdapter(await folderOf(golden.start), model);
    const pass = passOf(
      fixture.sequences,
      sequences.map(({ targets }) => targets),
    );
    scope(() => model.loss({ ...pass, labelSmoothing: golden.label_smoothing }).backward());
    const gradients = [...lora.namedParameters()].map(([key, t]): [string, Tensor] => [key, t.grad!]);
    await expectTensors(gradients, golden.gradients, 1e-4);
    for (const [, gradient] of gradients) gradient.dispose();
  });

  test("what PEFT saved at the end loads; merged and unmerged give the same, and unmerging restores the layer", async () => {
    const before = await logits();
    using lora = await loadAdapter(await folderOf(golden.end), model);
    const apart = await logits();
    expect(furthest(apart, golden.end_logits)).toBeLessThan(1e-4);
    expect(furthest(apart, before)).toBeGreaterThan(0.1);
    lora.merge();
    expect(furthest(await logits(), apart)).toBeLessThan(1e-4);
    lora.unmerge();
    expect(await logits()).toEqual(apart);
    lora.detach();
    expect(await logits()).toEqual(before);
  });
});

describe.each(begunFromBase)("%s from the base weights alone", (_, golden) => {
  const start = (): Promise<Lora> => {
    const config = parseLoraConfig(JSON.parse(golden.start.config)) as LoraConfigInput;
    return startLora(model, config, new Generator(1));
  };

  test("begins as no change, with the change that PEFT begins with", async () => {
    const before = await logits();
    using lora = await start();
    expect(furthest(await logits(), before)).toBeLessThan(1e-4);
    const deltas = async (adapter: Lora): Promise<number[][]> => {
      const all = [...adapter.layers.values()].map(({ loraA, loraB }) => loraB.matmul(loraA).data());
      return (await Promise.all(all)).map((values) => [...values]);
    };
    const ours = await deltas(lora);
    lora.detach();
    using theirs = await loadAdapter(await folderOf(golden.start), model);
    for (const [i, delta] of (await deltas(theirs)).entries()) expect(furthest(ours[i], delta)).toBeLessThan(1e-5);
  });

  test("trains as with PEFT, and is saved as PEFT's conversion: a plain adapter on the unchanged base", async () => {
    using lora = await start();
    const { steps } = await run(lora, golden);
    for (const [i, { loss }] of steps.entries()) expect(Math.abs(loss / golden.losses[i] - 1)).toBeLessThan(1e-4);
    const saved = await mkdtemp(join(folder, "saved-"));
    await saveAdapter(saved, lora);
    const trained = await logits();
    lora.detach();
    using plain = await loadAdapter(saved, model);
    expect(furthest(await logits(), trained)).toBeLessThan(1e-4);
    expect(furthest(trained, golden.end_logits)).toBeLessThan(5e-3);
    const config = (text: string) => {
      const { lora_alpha, base_model_name_or_path: _, ...rest } = parseLoraConfig(JSON.parse(text));
      return { ...rest, lora_alpha: lora_alpha.toFixed(9), target_modules: [rest.target_modules].flat().sort() };
    };
    const written = await readFile(join(saved, "adapter_config.json"), "utf8");
    expect(config(written)).toEqual(config(golden.converted!.config));
    plain.detach();
    using theirs = await loadAdapter(await folderOf(golden.converted!), model);
    expect(furthest(await logits(), golden.end_logits)).toBeLessThan(1e-4);
    expect(theirs.config.init_lora_weights).toBe(true);
  });
});

test("a start that reads the base weights is refused where nothing waits for them; a rank above the weight's as well", async () => {
  const config = { r: 40, target_modules: ["q_proj"], init_lora_weights: "pissa" };
  expect(() => applyLora(model, config, new Generator(1))).toThrow(
    'init_lora_weights "pissa" reads the base weights: await startLora()',
  );
  await expect(startLora(model, config, new Generator(1))).rejects.toThrow(
    "r is 40, but the weight of model.layers.0.self_attn.q_proj has only 32 components; take a lower one",
  );
});
