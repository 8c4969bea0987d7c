/** What every kind of adapter must do, on a small model. PEFT's numbers: test/variants.test.ts. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dropout, Generator, linear, memory, noGrad, rand, scope, type Tensor } from "@tslm/tensor";
import { loadAdapter, saveAdapter } from "../adapter.ts";
import type { LoraConfigInput } from "../config.ts";
import { type Lora, startLora } from "../lora.ts";
import { perturb, TinyModel } from "../testing.ts";
import { packPasses, type TrainingSequence } from "../train/pass.ts";
import type { SavedState, TrainingState } from "../train/state.ts";
import { train } from "../train/train.ts";
import type { DoraLora } from "./dora.ts";

const sequences: TrainingSequence[] = [
  [1, 4, 2, 7, 3],
  [5, 9, 10],
  [7, 6, 5, 4, 3, 2],
].map((tokens) => ({ tokens, targets: [...tokens.slice(1), -1] }));
const [pass] = packPasses(sequences, 1000);

const base = { r: 2, lora_alpha: 4, target_modules: ["q_proj", "v_proj", "o_proj"] };
const kinds: [name: string, config: Partial<LoraConfigInput>][] = [
  ["LoRA", {}],
  ["rsLoRA", { use_rslora: true }],
  ["DoRA", { use_dora: true }],
  ["PiSSA", { init_lora_weights: "pissa" }],
  [
    "OLoRA, rsLoRA, ranks and alphas of single layers",
    {
      ...{ init_lora_weights: "olora", use_rslora: true },
      ...{ rank_pattern: { "0.self_attn.q_proj": 3 }, alpha_pattern: { v_proj: 8 } },
    },
  ],
];

const start = (model: TinyModel, config: Partial<LoraConfigInput>): Promise<Lora> =>
  startLora(model, { ...base, ...config }, new Generator(1));
const hidden = async (model: TinyModel): Promise<number[]> => {
  using out = scope(() => noGrad(() => model.hidden(pass)));
  return [...(await out.data())];
};
const furthest = (a: readonly number[], b: readonly number[]): number => {
  expect(a.length).toBe(b.length);
  return Math.max(...a.map((x, i) => Math.abs(x - b[i])));
};
const weightsOf = async (lora: Lora): Promise<number[][]> =>
  Promise.all(lora.parameters().map(async (p) => [...(await p.data())]));

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "variants-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe.each(kinds)("%s", (_, config) => {
  test("adds itself to rows of what the base layers gave, as strongly as is asked", async () => {
    const model = new TinyModel();
    const lora = await start(model, config);
    await perturb(lora.parameters());
    for (const [, layer] of lora.layers) {
      const { baseLayer } = layer;
      using x = scope(() => rand([3, baseLayer.inFeatures], { seed: [1, 2], stream: 3 }));
      using addend = scope(() => rand([3, baseLayer.outFeatures], { seed: [1, 2], stream: 4 }));
      const numbers = async (make: () => Tensor): Promise<number[]> => {
        using out = scope(() => noGrad(make));
        return [...(await out.data())];
      };
      const plain = await numbers(() => baseLayer.forward(x, addend));
      const adapted = await numbers(() => layer.forward(x, addend));
      expect(furthest(plain, adapted)).toBeGreaterThan(0.01);
      lora.detach();
      // The middle row alone is adapted.
      const added = (strength?: number): Promise<number[]> =>
        numbers(() => {
          const y = baseLayer.forward(x, addend);
          lora.addTo(baseLayer, x.slice(0, 1, 2), y.slice(0, 1, 2), addend.slice(0, 1, 2), strength);
          return y;
        });
      const n = baseLayer.outFeatures;
      const expected = (strength: number): number[] =>
        plain.map((value, i) => (i >= n && i < 2 * n ? value + strength * (adapted[i] - value) : value));
      expect(furthest(await added(), expected(1))).toBeLessThan(1e-5);
      expect(furthest(await added(0.5), expected(0.5))).toBeLessThan(1e-5);
      expect(
        await numbers(() => {
          const y = baseLayer.forward(x, addend);
          lora.addTo(model.model.layers[0].input_layernorm, x, y);
          return y;
        }),
      ).toEqual(plain);
      lora.attach();
      expect(() => lora.addTo(baseLayer, x, x)).toThrow("detach() it");
    }
  });

  test("starts as no change; merges, unmerges and is taken off again", async () => {
    const model = new TinyModel();
    const before = await hidden(model);
    const lora = await start(model, config);
    expect(furthest(await hidden(model), before)).toBeLessThan(1e-5);
    await perturb(lora.parameters());
    const changed = await hidden(model);
    expect(furthest(changed, before)).toBeGreaterThan(0.05);
    lora.merge();
    expect(furthest(await hidden(model), changed)).toBeLessThan(1e-5);
    lora.unmerge();
    expect(await hidden(model)).toEqual(changed);
    lora.enabled = false;
    expect(await hidden(model)).toEqual(before);
    lora.remove();
    expect(await hidden(model)).toEqual(before);
  });

  test("only the adapter trains, and what was saved loads as what was trained", async () => {
    const model = new TinyModel();
    const frozen = await Promise.all(model.parameters().map((p) => p.data()));
    const parameters = model.parameters();
    const lora = await start(model, config);
    const options = { epochs: 6, lr: 0.02, batch: 3, gradAccum: 1 };
    const { steps } = await train({ model, lora, sequences, options });
    expect(steps[5].loss).toBeLessThan(steps[0].loss - 0.1);
    expect(await Promise.all(parameters.map((p) => p.data()))).toEqual(frozen);
    const trained = await hidden(model);
    await saveAdapter(folder, lora);
    lora.remove();
    using loaded = await loadAdapter(folder, model);
    expect(furthest(await hidden(model), trained)).toBeLessThan(1e-5);
    expect(loaded.config.init_lora_weights).toBe(true);
  });

  test("a run goes on from a saved state bit for bit, dropout and noise included", async () => {
    const options = { epochs: 6, lr: 0.02, batch: 3, gradAccum: 1, neftuneAlpha: 5, loraplusLrRatio: 4 };
    let saved: SavedState | undefined;
    const run = async (resume?: SavedState): Promise<number[][]> => {
      const model = new TinyModel();
      const lora = await start(model, { ...config, lora_dropout: 0.3 });
      const keeper = {
        async keep(state: TrainingState): Promise<void> {
          if (state.step !== 3) return;
          const all = [...state.tensors()].map(async ([name, t]) => [name, await t.bytes()] as const);
          const bytes = new Map(await Promise.all(all));
          saved = { progress: structuredClone(state.progress), bytes: (name) => bytes.get(name) };
        },
      };
      await train({ model, lora, sequences, options, keeper, resume });
      return weightsOf(lora);
    };
    const undisturbed = await run();
    expect(saved!.progress.steps).toHaveLength(3);
    expect(await run(saved)).toEqual(undisturbed);
  });

  test("gives all its memory back", async () => {
    const model = new TinyModel();
    const { storages } = memory();
    for (let i = 0; i < 20; i++) {
      using lora = await start(model, config);
      await train({ model, lora, sequences, options: { epochs: 1 } });
      lora.merge();
    }
    // The collector may free what earlier tests left, so the count can only be compared upwards.
    expect(memory().storages).toBeLessThanOrEqual(storages);
  });
});

test("DoRA drops what the change sees and not what the base sees, as PEFT does", async () => {
  const model = new TinyModel();
  using lora = await start(model, { use_dora: true, lora_dropout: 0.4 });
  await perturb(lora.parameters());
  const layer = lora.layers.get("model.layers.0.self_attn.q_proj")!;
  const { baseLayer, loraA, loraB, scaling } = layer;
  const input = model.model.embed_tokens.weight;
  const { magnitude } = layer.variant as DoraLora;
  Object.assign(lora.dropout, { training: true, step: 2 });
  const { p, key } = layer.inputDropout!;
  const wanted = scope(() =>
    noGrad(() => {
      const left = dropout(input, p, key);
      const merged = loraB.matmul(loraA).mul(scaling).add(baseLayer.weight);
      const factor = magnitude.div(merged.square().sum(1).sqrt());
      const change = linear(linear(left, loraA), loraB).mul(scaling);
      // result + (m/‖V‖ − 1)·W·x̃ + m/‖V‖·s·B·A·x̃: PEFT's DoraLinearLayer.
      const extra = linear(left, baseLayer.weight).mul(factor.sub(1)).add(change.mul(factor));
      return linear(input, baseLayer.weight, baseLayer.bias).add(extra);
    }),
  );
  const found = scope(() => noGrad(() => layer.forward(input)));
  expect(furthest([...(await found.data())], [...(await wanted.data())])).toBeLessThan(1e-5);
  lora.dropout.training = false;
  const still = scope(() => noGrad(() => layer.forward(input)));
  expect(furthest([...(await still.data())], [...(await wanted.data())])).toBeGreaterThan(0.01);
});
