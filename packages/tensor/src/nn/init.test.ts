import { describe, expect, test } from "bun:test";
import {
  BatchNorm,
  Conv2d,
  Dropout,
  GELU,
  Generator,
  gain,
  kaimingNormal,
  kaimingUniform,
  Linear,
  MultiheadAttention,
  memory,
  relu,
  Sequential,
  SGD,
  ShapeError,
  type Tensor,
  xavierNormal,
  xavierUniform,
  zeros,
} from "../index.ts";

const key = new Generator(5).next();

describe("initialisers have PyTorch's bounds and deviations", () => {
  const shape = [64, 32, 3, 3];
  const largest = async (t: Tensor): Promise<number> => await t.abs().max().item();
  const deviation = async (t: Tensor): Promise<number> => await t.std().item();

  test("kaiming", async () => {
    // torch.nn.init.kaiming_uniform_: bound = gain·√(3/fan), fan in = 32·9.
    const uniform = await largest(kaimingUniform(shape, key, { slope: Math.sqrt(5) }));
    expect(uniform).toBeLessThanOrEqual(1 / Math.sqrt(288));
    expect(uniform).toBeGreaterThan(0.999 / Math.sqrt(288));
    const normal = await deviation(kaimingNormal(shape, key, { mode: "fanOut", nonlinearity: "relu" }));
    expect(Math.abs(normal * Math.sqrt(576 / 2) - 1)).toBeLessThan(0.02);
  });
  test("xavier", async () => {
    const uniform = await largest(xavierUniform(shape, key, { gain: gain("tanh") }));
    expect(uniform).toBeLessThanOrEqual((5 / 3) * Math.sqrt(6 / 864));
    expect(uniform).toBeGreaterThan(0.999 * (5 / 3) * Math.sqrt(6 / 864));
    const normal = await deviation(xavierNormal(shape, key));
    expect(Math.abs(normal * Math.sqrt(864 / 2) - 1)).toBeLessThan(0.02);
  });
  test("gain", () => {
    // torch.nn.init.calculate_gain
    expect(gain("leakyRelu", 0.2)).toBeCloseTo(1.3867504905630728, 14);
    expect([gain("linear"), gain("relu"), gain("selu")]).toEqual([1, Math.SQRT2, 0.75]);
  });
  test("layers start within their bounds", async () => {
    const conv = Conv2d.init(4, 64, [3, 2], new Generator(1), { groups: 2, bias: false });
    expect(conv.weight.shape).toEqual([64, 2, 3, 2]);
    expect(conv.bias).toBeUndefined();
    expect(await largest(conv.weight)).toBeLessThanOrEqual(1 / Math.sqrt(12));
    const attention = MultiheadAttention.init(8, 2, new Generator(1));
    expect(await largest(attention.in_proj_weight)).toBeLessThanOrEqual(Math.sqrt(6 / 32));
    expect(await largest(attention.in_proj_bias!)).toBe(0);
    expect(await largest(attention.out_proj.bias!)).toBe(0);
  });
});

describe("buffers", () => {
  const net = (): Sequential => new Sequential(Linear.init(2, 3, new Generator(1)), BatchNorm.init(3), relu);

  test("are in the state, but no parameters", () => {
    const names = ["0.weight", "0.bias", "1.weight", "1.bias"];
    expect([...net().namedParameters()].map(([name]) => name)).toEqual(names);
    expect([...net().namedBuffers()].map(([name]) => name)).toEqual(["1.running_mean", "1.running_var"]);
    expect([...net().stateDict().keys()]).toEqual([...names, "1.running_mean", "1.running_var"]);
  });
  test("do not ask for a gradient, nor move with the parameters", () => {
    const model = net().requiresGrad(true);
    expect(model.stateDict().get("1.running_var")?.requiresGrad).toBe(false);
    expect(new SGD(model.parameters()).params.length).toBe(4);
  });
  test("are loaded, and disposed of", async () => {
    const [a, b] = [net(), net()];
    a.forward(zeros([4, 2]).add(1));
    b.loadStateDict(a.stateDict());
    for (const [name, t] of b.stateDict()) expect(await t.tolist()).toEqual(await a.stateDict().get(name)!.tolist());
    const before = memory().storages;
    b.dispose();
    expect(memory().storages).toBeLessThanOrEqual(before - 6);
  });
  test("loading without strict takes what there is and tells the rest", async () => {
    const [a, b] = [net(), net()];
    const state = a.stateDict();
    state.delete("0.bias");
    state.set("1.num_batches_tracked", zeros([]));
    expect(b.loadStateDict(state, { strict: false })).toEqual({
      missing: ["0.bias"],
      unexpected: ["1.num_batches_tracked"],
    });
    expect(await b.stateDict().get("0.weight")!.tolist()).toEqual(await state.get("0.weight")!.tolist());
    state.set("0.weight", zeros([1]));
    expect(() => b.loadStateDict(state, { strict: false })).toThrow(
      new ShapeError("loadStateDict", "0.weight is [1], not [3,2]"),
    );
  });
});

test("Sequential takes modules and functions, and hands training on", async () => {
  const model = new Sequential(
    Linear.init(2, 2, new Generator(1)),
    relu,
    new GELU(),
    new Dropout(0.5, new Generator(2)),
  );
  expect(model.forward(zeros([3, 2])).shape).toEqual([3, 2]);
  model.eval();
  const x = zeros([1, 2]).add(1);
  expect(await model.forward(x).tolist()).toEqual(await model.forward(x).tolist());
  expect(model.length).toBe(4);
});

test("MultiheadAttention drops weights in training alone, each time others", async () => {
  const attention = MultiheadAttention.init(4, 2, new Generator(1), { dropout: 0.5 });
  const x = zeros([1, 6, 4]).add(1);
  const run = async (): Promise<string> => JSON.stringify(await attention.forward(x).tolist());
  expect(await run()).not.toBe(await run());
  attention.eval();
  expect(await run()).toBe(await run());
});
