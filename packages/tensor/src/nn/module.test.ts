import { describe, expect, test } from "bun:test";
import { ReferenceDevice } from "../devices/reference/index.ts";
import {
  DeviceError,
  Dropout,
  DTypeError,
  Embedding,
  Generator,
  Linear,
  Module,
  memory,
  RMSNorm,
  ShapeError,
  Tensor,
  TensorError,
  tensor,
  zeros,
} from "../index.ts";

class Block extends Module {
  norm: RMSNorm;
  proj: Linear;
  constructor(random: Generator) {
    super();
    this.norm = RMSNorm.init(2);
    this.proj = Linear.init(2, 2, random);
  }
}

class Net extends Module {
  layers: Block[];
  embed: Embedding;
  head: Linear;
  scale: Tensor;
  drop: Dropout;
  constructor() {
    super();
    const random = new Generator(1);
    this.layers = [new Block(random), new Block(random)];
    this.embed = Embedding.init(3, 2, random, { std: 0.02 });
    this.head = new Linear(this.embed.weight);
    this.scale = zeros([1]);
    this.drop = new Dropout(0.5, random);
  }
}

describe("Module", () => {
  test("names parameters as PyTorch does: own ones first, then by field; tied ones once", () => {
    expect([...new Net().namedParameters()].map(([name]) => name)).toEqual([
      "scale",
      "layers.0.norm.weight",
      "layers.0.proj.weight",
      "layers.0.proj.bias",
      "layers.1.norm.weight",
      "layers.1.proj.weight",
      "layers.1.proj.bias",
      "embed.weight",
    ]);
  });

  test("a module that stands in two places, or in itself, comes once", () => {
    const net = new Net();
    net.layers.push(net.layers[0]);
    (net as unknown as Record<string, Module>).self = net;
    const names = [...net.namedModules()].map(([name]) => name);
    expect(names.filter((name) => name.startsWith("layers.2"))).toEqual([]);
    expect(names).not.toContain("self");
  });

  test("train, eval and requiresGrad reach every module", () => {
    const net = new Net();
    expect(net.trainableParameters().length).toBe(7);
    net.requiresGrad(false).eval();
    expect(net.trainableParameters()).toEqual([]);
    expect([...net.namedModules()].every(([, m]) => !m.training)).toBe(true);
    net.layers[1].requiresGrad(true);
    expect(net.trainableParameters().length).toBe(3);
  });

  test("replaces a module by name", () => {
    const net = new Net();
    const other = Linear.init(2, 2, new Generator(2), { bias: false });
    net.replace("layers.1.proj", other);
    expect(net.layers[1].proj).toBe(other);
    for (const name of ["layers.9.proj", "nothing.at.all", "scale"]) {
      expect(() => net.replace(name, other)).toThrow(new TensorError("replace", `there is no module ${name} in Net`));
    }
  });

  test("loads what stateDict gave, in any type", async () => {
    const [a, b] = [new Net(), new Net()];
    const state = new Map([...a.stateDict()].map(([name, t]) => [name, t.to("bf16").to("f64")]));
    b.loadStateDict(state);
    for (const [name, t] of b.stateDict()) expect(await t.tolist()).toEqual(await state.get(name)!.tolist());
    expect(b.embed.weight.dtype).toBe("f32");
  });

  test("names every missing, unexpected and mis-shaped tensor", () => {
    const net = new Block(new Generator(1));
    const state = net.stateDict();
    state.set("norm.weight", zeros([3]));
    state.set("other", zeros([1]));
    state.delete("proj.bias");
    expect(() => net.loadStateDict(state)).toThrow(ShapeError);
    expect(() => net.loadStateDict(state)).toThrow(
      "[loadStateDict] missing proj.bias; unexpected other; norm.weight is [3], not [2]",
    );
  });

  test("does not write into a mapped file, nor from another device", () => {
    const layer = new Linear(Tensor.map(new Uint8Array(8), [1, 2], "f32"));
    expect(() => layer.loadStateDict(new Map([["weight", zeros([1, 2])]]))).toThrow(DTypeError);
    const other = new Linear(zeros([1, 2]));
    const state = new Map([["weight", zeros([1, 2], { device: new ReferenceDevice() })]]);
    expect(() => other.loadStateDict(state)).toThrow(DeviceError);
  });

  test("dispose gives all memory back", () => {
    const before = memory().storages;
    const net = new Net();
    expect(memory().storages).toBeGreaterThan(before);
    net.dispose();
    expect(memory().storages).toBe(before);
  });
});

describe("layers", () => {
  test("Linear starts within ±1/√in, and adds its bias to rows of any rank", async () => {
    const layer = Linear.init(16, 300, new Generator(3));
    const all = [...(await layer.weight.data()), ...(await layer.bias!.data())];
    expect(Math.max(...all.map(Math.abs))).toBeLessThanOrEqual(0.25);
    expect(Math.max(...all.map(Math.abs))).toBeGreaterThan(0.24);
    expect([layer.inFeatures, layer.outFeatures]).toEqual([16, 300]);
    expect(layer.forward(zeros([2, 3, 16])).shape).toEqual([2, 3, 300]);
    const small = new Linear(tensor([[1, 2]]), tensor([10]));
    expect(await small.forward(tensor([3, 4])).tolist()).toEqual([21]);
  });

  test("Embedding picks rows, in any shape of indices", async () => {
    const table = new Embedding(
      tensor([
        [1, 2],
        [3, 4],
      ]),
    );
    const index = tensor([[1], [0]], { dtype: "i32" });
    expect(await table.forward(index).tolist()).toEqual([[[3, 4]], [[1, 2]]]);
  });

  test("RMSNorm gives rows of unit mean square", async () => {
    const rows = await RMSNorm.init(3, 0)
      .forward(
        tensor([
          [1, 2, 2],
          [0, 0, 5],
        ]),
      )
      .tolist();
    for (const row of rows as number[][]) expect(row.reduce((a, b) => a + b * b, 0) / 3).toBeCloseTo(1, 5);
  });

  test("Dropout draws anew for every call, keeps the mean, and does nothing in evaluation", async () => {
    const layer = new Dropout(0.25, new Generator(4));
    const x = zeros([4, 5, 200]).add(1);
    const [a, b] = [layer.forward(x), layer.forward(x)];
    expect(await a.tolist()).not.toEqual(await b.tolist());
    expect(new Set(await a.data())).toEqual(new Set([0, Math.fround(4 / 3)]));
    expect(Math.abs((await a.mean().item()) - 1)).toBeLessThan(0.05);
    expect(layer.eval().forward(x)).toBe(x);
    expect(layer.train().forward(zeros([0, 3])).shape).toEqual([0, 3]);
  });
});
