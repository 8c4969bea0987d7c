// Modules and optimisers against PyTorch's numbers: fixtures/pytorch_nn.json, written by fixtures/pytorch_nn.py.
import { describe, expect, test } from "bun:test";
import fixture from "../../fixtures/pytorch_nn.json" with { type: "json" };
import {
  Adam,
  AdamW,
  BatchNorm,
  Conv2d,
  clipGradNorm,
  Flatten,
  GELU,
  Generator,
  LayerNorm,
  Linear,
  Lion,
  MaxPool2d,
  type Module,
  MultiheadAttention,
  type Optimizer,
  Sequential,
  SGD,
  SiLU,
  scope,
  Tensor,
} from "../index.ts";
import { type Shape, sizeOf } from "../shape.ts";

const f64 = { dtype: "f64" } as const;

/** The numbers that pytorch_nn.py's `fill` makes. */
function fill(shape: Shape, seed: number): Tensor {
  const values = Array.from({ length: sizeOf(shape) }, (_, i) => ((37 * i + 11 * seed) % 41) / 10 - 2);
  return Tensor.from(values, shape, f64);
}
async function near(got: Tensor | undefined, want: readonly number[]): Promise<void> {
  if (!got) throw new Error("no tensor");
  const values = await got.data();
  expect(values.length).toBe(want.length);
  want.forEach((w, i) => {
    if (!(Math.abs(values[i] - w) <= 1e-11 * (1 + Math.abs(w))))
      throw new Error(`element ${i} is ${values[i]}, PyTorch has ${w}`);
  });
}
const sorted = (module: Module): [string, Tensor][] =>
  [...module.namedParameters()].sort(([a], [b]) => (a < b ? -1 : 1));
/** As pytorch_nn.py fills a module's parameters. */
function filled<M extends Module>(module: M): M {
  const state = new Map(sorted(module).map(([name, t], i) => [name, fill(t.shape, i + 1)]));
  module.loadStateDict(state, { strict: false });
  return module;
}
async function sameGradients(module: Module, want: readonly (readonly number[])[]): Promise<void> {
  const parameters = sorted(module);
  expect(parameters.length).toBe(want.length);
  for (const [i, [, t]] of parameters.entries()) await near(t.grad, want[i]);
}

describe("modules give PyTorch's numbers", () => {
  test("MultiheadAttention, of itself and of others", async () => {
    const attention = filled(MultiheadAttention.init(4, 2, new Generator(1), f64));
    const [x, memory] = [fill([2, 3, 4], 10), fill([2, 5, 4], 11)];
    const same = attention.forward(x, x, x, { causal: true });
    const other = attention.forward(x, memory, memory);
    await near(same, fixture.MultiheadAttention.causal);
    await near(other, fixture.MultiheadAttention.cross);
    same.add(other).backward(fill([2, 3, 4], 12));
    await sameGradients(attention, fixture.MultiheadAttention.grads);
  });

  test("BatchNorm, in training and in evaluation", async () => {
    const norm = filled(BatchNorm.init(2, f64));
    const want = fixture.BatchNorm;
    norm.forward(fill([2, 2, 3, 2], 20));
    const y = norm.forward(fill([2, 2, 3, 2], 21));
    await near(y, want.trained);
    y.backward(fill(y.shape, 22));
    await sameGradients(norm, want.grads);
    await near(norm.running_mean, want.mean);
    await near(norm.running_var, want.var);
    await near(norm.eval().forward(fill([2, 2, 3, 2], 23)), want.evaluated);
  });

  test("a network of many layers, named as there", async () => {
    const random = new Generator(1);
    const net = filled(
      new Sequential(
        Conv2d.init(1, 2, 3, random, { padding: 1, ...f64 }),
        new GELU(),
        new MaxPool2d(2),
        new Flatten(),
        Linear.init(8, 3, random, f64),
        LayerNorm.init(3, f64),
        new SiLU(),
      ),
    );
    expect([...net.namedParameters()].map(([name]) => name)).toEqual(fixture.Sequential.names);
    const y = net.forward(fill([2, 1, 4, 4], 30));
    await near(y, fixture.Sequential.value);
    y.backward(fill(y.shape, 31));
    await sameGradients(net, fixture.Sequential.grads);
  });
});

const OPTIMIZERS: { readonly [K in keyof typeof fixture.optimizers]: (params: Tensor[]) => Optimizer } = {
  SGD: (params) => new SGD(params, { lr: 0.05 }),
  "SGD with decay": (params) => new SGD(params, { lr: 0.05, weightDecay: 0.1 }),
  "SGD with momentum": (params) => new SGD(params, { lr: 0.05, momentum: 0.9, dampening: 0.2, weightDecay: 0.1 }),
  "SGD with Nesterov's": (params) => new SGD(params, { lr: 0.05, momentum: 0.9, nesterov: true, weightDecay: 0.1 }),
  Adam: (params) => new Adam(params, { lr: 0.05 }),
  "Adam with decay": (params) => new Adam(params, { lr: 0.05, betas: [0.8, 0.9], eps: 1e-6, weightDecay: 0.1 }),
  AdamW: (params) => new AdamW(params, { lr: 0.05, weightDecay: 0.1 }),
  Lion: (params) => new Lion(params, { lr: 0.05, weightDecay: 0.1 }),
};

/** Steps `from` to `to` of pytorch_nn.py's training, clipped by the global norm. */
function train(optimizer: Optimizer, from: number, to: number): void {
  const [p, q] = optimizer.params;
  for (let step = from; step < to; step++) {
    optimizer.zeroGrad();
    scope(() => {
      const first = p
        .mul(fill([2, 3], 50 + step))
        .sum()
        .square();
      const second = q
        .exp()
        .mul(fill([4], 60 + step))
        .sum();
      first.add(second).div(10).backward();
      optimizer.step(clipGradNorm(optimizer.params, 2).gradScale);
    });
  }
}
function leaves(): Tensor[] {
  const shapes: Shape[] = [[2, 3], [4]];
  return shapes.map((shape, i) => {
    const t = fill(shape, 40 + i);
    t.requiresGrad = true;
    return t;
  });
}

describe("four clipped steps are PyTorch's:", () => {
  for (const [name, make] of Object.entries(OPTIMIZERS)) {
    const want = fixture.optimizers[name as keyof typeof fixture.optimizers];
    test(name, async () => {
      const params = leaves();
      train(make(params), 0, 4);
      for (const [i, p] of params.entries()) await near(p, want[i]);
    });

    test(`${name}, gone on with from a saved state`, async () => {
      const params = leaves();
      const first = make(params);
      train(first, 0, 2);
      const saved = new Map([...first.stateDict()].map(([key, t]) => [key, t.clone()]));
      const again = params.map((p) => {
        const copy = p.detach().clone();
        copy.requiresGrad = true;
        return copy;
      });
      const second = make(again);
      await second.loadStateDict(saved);
      train(second, 2, 4);
      for (const [i, p] of again.entries()) await near(p, want[i]);
    });
  }
});
