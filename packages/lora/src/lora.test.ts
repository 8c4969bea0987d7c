import { afterEach, describe, expect, test } from "bun:test";
import { Generator, Linear, Module, memory, noGrad, scope, Tensor, tensor } from "@tslm/tensor";
import type { LoraConfigInput } from "./config.ts";
import { applyLora, type Lora } from "./lora.ts";
import { LoraLinear } from "./lora-linear.ts";
import { perturb, TinyModel, write } from "./testing.ts";
import { type PlacedPass, packPasses } from "./train/pass.ts";

const sequences = [
  { tokens: [1, 4, 2, 7, 3], targets: [4, 2, 7, 3, -1] },
  { tokens: [5, 9, 10], targets: [9, 10, -1] },
];
const pass: PlacedPass = packPasses(sequences, 100)[0];

/** Models and configurations, each with the number of parameters that the formula Σ r·(in + out) gives by hand. */
const models: Record<string, () => TinyModel> = {
  "two layers": () => new TinyModel(),
  "tied head": () => new TinyModel({ tied: true, layers: 1 }),
  "size 16": () => new TinyModel({ size: 16, layers: 3, seed: 2 }),
};
const configs: Record<string, LoraConfigInput> = {
  "q and v": { r: 4, lora_alpha: 32, target_modules: ["q_proj", "v_proj"] },
  "all linear, rank 1": { r: 1, lora_alpha: 1, target_modules: "all-linear" },
  "expression, rsLoRA": { r: 2, lora_alpha: 8, target_modules: ".*\\.[ko]_proj", use_rslora: true },
  patterns: {
    r: 2,
    lora_alpha: 4,
    target_modules: ["q_proj", "o_proj"],
    rank_pattern: { q_proj: 3 },
    alpha_pattern: { "layers.0.self_attn.o_proj": 16 },
  },
  gaussian: { r: 2, lora_alpha: 4, target_modules: ["q_proj"], init_lora_weights: "gaussian" },
  "rank above size": { r: 24, lora_alpha: 4, target_modules: ["k_proj"] },
};

async function output(model: TinyModel): Promise<number[]> {
  const hidden = scope(() => noGrad(() => model.hidden(pass)));
  const values = [...(await hidden.data())];
  hidden.dispose();
  return values;
}

function largestDifference(a: readonly number[], b: readonly number[]): number {
  return Math.max(...a.map((x, i) => Math.abs(x - b[i])));
}

let open: { lora: Lora; model: TinyModel }[] = [];
function make(model: TinyModel, config: LoraConfigInput): Lora {
  const lora = applyLora(model, config, new Generator(7));
  open.push({ lora, model });
  return lora;
}
afterEach(() => {
  for (const { lora, model } of open) {
    lora.remove();
    model.dispose();
  }
  open = [];
});

for (const [modelName, makeModel] of Object.entries(models)) {
  for (const [configName, config] of Object.entries(configs)) {
    describe(`${modelName} × ${configName}`, () => {
      test("B = 0 leaves the output as it was, bit for bit", async () => {
        const model = makeModel();
        const before = await output(model);
        make(model, config);
        expect(await output(model)).toEqual(before);
      });

      test("merged equals unmerged; unmerging and disabling restore bit for bit", async () => {
        const model = makeModel();
        const base = await output(model);
        const lora = make(model, config);
        await perturb(lora.parameters());
        const adapted = await output(model);
        expect(largestDifference(adapted, base)).toBeGreaterThan(1e-2);
        lora.merge();
        expect(lora.merged).toBe(true);
        const merged = await output(model);
        expect(largestDifference(merged, adapted)).toBeLessThan(1e-5);
        lora.enabled = false;
        expect(await output(model)).toEqual(base);
        lora.enabled = true;
        lora.unmerge();
        expect(await output(model)).toEqual(adapted);
        lora.enabled = false;
        expect(await output(model)).toEqual(base);
        lora.enabled = true;
        lora.detach();
        expect(await output(model)).toEqual(base);
        lora.attach();
        expect(await output(model)).toEqual(adapted);
      });

      test("only the adapter gets gradients", async () => {
        const model = makeModel();
        const lora = make(model, config);
        await perturb(lora.parameters());
        scope(() => model.loss(pass).backward());
        for (const [name, t] of model.namedParameters()) {
          const trained = /\.lora[AB]$/.test(name);
          expect([name, t.requiresGrad, t.grad !== undefined]).toEqual([name, trained, trained]);
        }
      });

      test("the number of parameters is Σ r·(in + out)", () => {
        const model = makeModel();
        const base = model.parameters().reduce((n, t) => n + t.size, 0);
        const lora = make(model, config);
        let expected = 0;
        for (const [name, layer] of lora.layers) {
          const rank = config.rank_pattern && name.endsWith("q_proj") ? 3 : config.r!;
          expect([name, layer.rank]).toEqual([name, rank]);
          expected += rank * (layer.inFeatures + layer.outFeatures);
        }
        expect(expected).toBeGreaterThan(0);
        expect(lora.count()).toEqual({ trainable: expected, all: base + expected });
        lora.detach();
        expect(lora.count()).toEqual({ trainable: expected, all: base + expected });
      });
    });
  }
}

test("gradients of A and B equal central differences in f64", async () => {
  const model = new TinyModel({ dtype: "f64", layers: 1 });
  const lora = make(model, { r: 2, lora_alpha: 8, lora_dropout: 0.25, target_modules: ["q_proj", "v_proj", "o_proj"] });
  await perturb(lora.parameters());
  Object.assign(lora.dropout, { training: true, step: 3, seed: [1, 2] });
  const loss = (): Tensor =>
    scope(() => {
      lora.dropout.rows = Tensor.from(pass.rows, [pass.rows.length / 2, 2], { dtype: "i32" });
      return model.loss(pass);
    });
  scope(() => loss().backward());
  for (const [key, param] of lora.namedParameters()) {
    const values = [...(await param.data())];
    const gradient = [...(await param.grad!.data())];
    const differences = [];
    for (let i = 0; i < values.length; i++) {
      const at = async (h: number): Promise<number> => {
        write(param, values.with(i, values[i] + h));
        const value = scope(() => noGrad(loss));
        const number = await value.item();
        value.dispose();
        return number;
      };
      differences.push(((await at(1e-4)) - (await at(-1e-4))) / 2e-4);
    }
    write(param, values);
    expect([key, largestDifference(gradient, differences) < 1e-7]).toEqual([key, true]);
    expect(Math.max(...gradient.map(Math.abs))).toBeGreaterThan(1e-4);
  }
});

test("y = W·x + bias + (α/r)·B·A·x by hand", async () => {
  class One extends Module {
    proj: Module & { forward(x: Tensor): Tensor } = new Linear(tensor([[1, 2]]).keep(), tensor([10]).keep());
  }
  const model = new One();
  const lora = applyLora(model, { r: 1, lora_alpha: 3, target_modules: ["proj"] }, new Generator(1));
  const layer = lora.layers.get("proj")!;
  expect(model.proj).toBe(layer);
  write(layer.loraA, [0.5, -1]);
  write(layer.loraB, [2]);
  // 1·4 + 2·3 + 10 + 3·2·(0.5·4 − 1·3)
  expect(await model.proj.forward(tensor([[4, 3]])).tolist()).toEqual([[14]]);
  expect(layer.scaling).toBe(3);
  lora.merge();
  expect(await model.proj.forward(tensor([[4, 3]])).tolist()).toEqual([[14]]);
});

test("a mapped bf16 base: merged in f32, the base untouched", async () => {
  const bits = new Uint16Array(8 * 4).map((_, i) => 0x3f80 + i);
  const bytes = new Uint8Array(bits.buffer.slice(0));
  class One extends Module {
    proj: Module & { forward(x: Tensor): Tensor } = new Linear(Tensor.map(bytes, [8, 4], "bf16"));
  }
  const model = new One();
  const lora = applyLora(model, { r: 2, lora_alpha: 2, target_modules: ["proj"] }, new Generator(1));
  expect(lora.parameters().map((t) => t.dtype)).toEqual(["f32", "f32"]);
  await perturb(lora.parameters());
  const x = tensor([[0.1, 0.2, 0.3, 0.4]]);
  const run = async (): Promise<number[]> => [...(await model.proj.forward(x).data())];
  const adapted = await run();
  const { bytes: before } = memory();
  lora.merge();
  expect(memory().bytes - before).toBe(8 * 4 * 4);
  expect(largestDifference(await run(), adapted)).toBeLessThan(1e-6);
  const [{ loraB }] = lora.layers.values();
  const b = await loraB.data();
  write(loraB, new Float32Array(b.length));
  expect(largestDifference(await run(), adapted)).toBeLessThan(1e-6);
  write(loraB, b);
  lora.unmerge();
  expect(await run()).toEqual(adapted);
  expect([...new Uint16Array(bytes.buffer)]).toEqual([...bits]);
});

test("a quantised base: gradients as of its decoded numbers, merged in f32", async () => {
  const weight = tensor(Float32Array.from({ length: 8 * 32 }, (_, i) => Math.sin(i)))
    .reshape(8, 32)
    .to("q8_0");
  class One extends Module {
    proj: Module & { forward(x: Tensor): Tensor };
    constructor(w: Tensor) {
      super();
      this.proj = new Linear(w);
    }
  }
  const x = tensor(Float32Array.from({ length: 32 }, (_, i) => Math.cos(i))).reshape(1, 32);
  const both = [weight, weight.to("f32")].map((w) => {
    const model = new One(w);
    return { model, lora: applyLora(model, { r: 2, target_modules: ["proj"] }, new Generator(1)) };
  });
  const gradients: number[][] = [];
  for (const { model, lora } of both) {
    await perturb(lora.parameters());
    model.proj.forward(x).square().sum().backward();
    gradients.push((await Promise.all(lora.parameters().map((t) => t.grad!.data()))).flatMap((g) => [...g]));
  }
  expect(largestDifference(gradients[0], gradients[1])).toBeLessThan(1e-5);
  const [{ model, lora }] = both;
  const adapted = [...(await model.proj.forward(x).data())];
  lora.merge();
  expect(largestDifference([...(await model.proj.forward(x).data())], adapted)).toBeLessThan(1e-5);
  lora.unmerge();
  expect([...(await model.proj.forward(x).data())]).toEqual(adapted);
});

test("A is uniform within ±1/√in, the same for the same seed and another for another", async () => {
  const [a, b, c] = await Promise.all(
    [3, 3, 4].map(async (seed) => {
      const model = new TinyModel({ size: 64 });
      const lora = applyLora(model, { r: 16, target_modules: ["q_proj"] }, new Generator(seed));
      const [layer] = lora.layers.values();
      return [...(await layer.loraA.data())];
    }),
  );
  expect(a).toEqual(b);
  expect(a).not.toEqual(c);
  const bound = 1 / Math.sqrt(64);
  expect(a.every((v) => Math.abs(v) <= bound)).toBe(true);
  const mean = a.reduce((s, v) => s + v, 0) / a.length;
  const variance = a.reduce((s, v) => s + v * v, 0) / a.length;
  expect(Math.abs(mean)).toBeLessThan(0.05 * bound);
  expect(variance / (bound ** 2 / 3)).toBeWithin(0.9, 1.1);
});

test("PEFT's line", () => {
  const model = new TinyModel({ size: 64, vocabulary: 1000 });
  const lora = make(model, { r: 8, target_modules: ["q_proj", "v_proj"] });
  const { all } = lora.count();
  expect(lora.summary()).toBe(
    `trainable params: 3,584 || all params: ${all.toLocaleString("en-US")} || trainable%: ${((358400 / all) as number).toFixed(4)}`,
  );
  expect(Object.getPrototypeOf(lora).summary.call({ count: () => ({ trainable: 540672, all: 494573440 }) })).toBe(
    "trainable params: 540,672 || all params: 494,573,440 || trainable%: 0.1093",
  );
});

test("several adapters of one model, one attached at a time", async () => {
  const model = new TinyModel();
  const base = await output(model);
  const first = make(model, { r: 2, target_modules: ["q_proj"] });
  await perturb(first.parameters());
  const withFirst = await output(model);
  expect(() => applyLora(model, { r: 2, target_modules: ["q_proj"] }, new Generator(1))).toThrow(
    "model.layers.0.self_attn.q_proj carries an adapter already; detach() or remove() that one first",
  );
  first.detach();
  const second = make(model, { r: 3, target_modules: ["v_proj"] });
  await perturb(second.parameters());
  expect(() => first.attach()).toThrow("carries an adapter already");
  second.detach();
  expect(await output(model)).toEqual(base);
  first.attach();
  expect(await output(model)).toEqual(withFirst);
});

test("removing frees the adapter and restores what was trainable", () => {
  const model = new TinyModel();
  model.lm_head.weight.requiresGrad = false;
  const names = (): string[] => [...model.namedParameters()].flatMap(([name, t]) => (t.requiresGrad ? [name] : []));
  const before = names();
  const { storages, bytes } = memory();
  const lora = applyLora(model, { r: 2, target_modules: "all-linear" }, new Generator(1));
  lora.merge();
  lora.remove();
  expect(names()).toEqual(before);
  expect([memory().storages, memory().bytes]).toEqual([storages, bytes]);
  expect([...model.namedModules()].some(([, m]) => m instanceof LoraLinear)).toBe(false);
  model.dispose();
});
