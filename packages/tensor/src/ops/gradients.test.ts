// Every op of the registry: its gradient against central differences in f64. An op without a case does not compile.
import { describe, expect, test } from "bun:test";
import { numbers } from "../devices/conformance/harness.ts";
import { type DType, scope, Tensor } from "../index.ts";
import { isContiguous, type Shape, sizeOf } from "../shape.ts";
import * as ops from "./index.ts";
import { type OpName, registry } from "./index.ts";
import { apply, type Op } from "./op.ts";

/** Where an op is smooth, so that differences tell its derivative. */
type Domain =
  | "real"
  /** 0.3 to 2.3. */
  | "positive"
  /** At least 0.3 away from 0. */
  | "nonzero"
  /** No two values nearer to each other than 0.1, over all inputs. */
  | "distinct";

/** An input: drawn from a domain and differentiated, or given and left alone. */
type Input =
  | { readonly shape: Shape; readonly domain: Domain }
  | { readonly shape: Shape; readonly values: readonly number[]; readonly dtype?: DType };

interface Case<Args> {
  readonly inputs: readonly Input[];
  readonly args: () => Args;
}

type ArgsOf<K extends OpName> = (typeof registry)[K] extends Op<infer Args> ? Args : never;

type Cases = { readonly [K in OpName]: readonly Case<ArgsOf<K>>[] | "none" };

const random = numbers(20_261_124);
const pick = (n: number): number => Math.floor(n * random());

/** A shape, and for each further input one that broadcasts to it: sizes made 1, leading dimensions left out. */
function seededShapes(inputs: number): Shape[] {
  const full = Array.from({ length: 1 + pick(3) }, () => 1 + pick(3));
  return Array.from({ length: inputs }, (_, i) => {
    if (i === 0) return full;
    const shape = full.map((n) => (random() < 0.4 ? 1 : n));
    return shape.slice(pick(shape.length + 1));
  });
}

const UNARY_SHAPES: readonly Shape[][] = [[[]], [[1]], [[5]], [[0]], [[2, 0]], [[2, 3]], [[2, 1, 3]]];
const BINARY_SHAPES: readonly Shape[][] = [
  [[], []],
  [[1], [1]],
  [[5], [5]],
  [[0], [1]],
  [[0, 3], [3]],
  [
    [2, 3],
    [2, 3],
  ],
  [[2, 3], [3]],
  [
    [2, 1],
    [1, 3],
  ],
  [[], [2, 2]],
  [[4], [1]],
  [
    [2, 3, 2],
    [3, 1],
  ],
];

const seeded = (inputs: number): Shape[][] => Array.from({ length: 4 }, () => seededShapes(inputs));

function unary(domain: Domain = "real"): Case<readonly number[]>[] {
  return scalar(domain, []);
}
function scalar(domain: Domain, params: readonly number[]): Case<readonly number[]>[] {
  return [...UNARY_SHAPES, ...seeded(1)].map(([shape]) => ({ inputs: [{ shape, domain }], args: () => params }));
}
function binary(a: Domain = "real", b: Domain = a): Case<readonly number[]>[] {
  return [...BINARY_SHAPES, ...seeded(2)].map(([left, right]) => ({
    inputs: [
      { shape: left, domain: a },
      { shape: right, domain: b },
    ],
    args: () => [],
  }));
}
function where(): Case<readonly number[]>[] {
  const tests = (shape: Shape): Input => ({ shape, values: Array.from({ length: sizeOf(shape) }, () => pick(2)) });
  return [...BINARY_SHAPES, ...seeded(2)].flatMap(([a, b]) => [
    { inputs: [tests(a), { shape: a, domain: "real" }, { shape: b, domain: "real" }], args: () => [] },
    { inputs: [tests(b), { shape: a, domain: "real" }, { shape: b, domain: "real" }], args: () => [] },
  ]);
}

function reduction(domain: Domain, empty: boolean): Case<{ dims: readonly number[]; keepdim: boolean }>[] {
  const shapes: [Shape, number[]][] = [
    [[], []],
    [[1], [0]],
    [[5], [0]],
    [[2, 3], [0]],
    [[2, 3], [1]],
    [
      [2, 3],
      [0, 1],
    ],
    [[2, 3], []],
    [
      [2, 1, 3],
      [1, 2],
    ],
    [
      [2, 3, 2],
      [0, 2],
    ],
    ...(empty
      ? ([
          [[0], [0]],
          [[2, 0], [1]],
          [[0, 2], [0]],
        ] as [Shape, number[]][])
      : []),
    [[0, 2], [1]],
  ];
  return shapes.flatMap(([shape, dims]) =>
    [false, true].map((keepdim) => ({ inputs: [{ shape, domain }], args: () => ({ dims, keepdim }) })),
  );
}

/** Cases with one input drawn from the real numbers. */
function of<Args>(...cases: [shape: Shape, args: Args][]): Case<Args>[] {
  return cases.map(([shape, args]) => ({ inputs: [{ shape, domain: "real" }], args: () => args }));
}
function reals<Args>(args: () => Args, ...cases: Shape[][]): Case<Args>[] {
  return cases.map((shapes) => ({ inputs: shapes.map((shape) => ({ shape, domain: "real" })), args }));
}

const i32 = (values: number[], shape: Shape = [values.length]): Tensor => Tensor.from(values, shape, { dtype: "i32" });
const f64 = (values: number[]): Tensor => Tensor.from(values, [values.length], { dtype: "f64" });
const nothing = (): undefined => undefined;

const CASES: Cases = {
  add: binary(),
  addScalar: scalar("real", [1.5]),
  sub: binary(),
  mul: binary(),
  mulScalar: scalar("real", [-2.5]),
  div: binary("real", "nonzero"),
  divScalar: scalar("real", [-0.7]),
  pow: binary("positive", "real"),
  powScalar: [...scalar("positive", [2.5]), ...scalar("nonzero", [3]), ...scalar("nonzero", [-1])],
  maximum: binary("distinct"),
  maximumScalar: scalar("nonzero", [0]),
  minimum: binary("distinct"),
  minimumScalar: scalar("nonzero", [0]),
  lt: "none",
  ltScalar: "none",
  le: "none",
  leScalar: "none",
  gtScalar: "none",
  geScalar: "none",
  eq: "none",
  eqScalar: "none",
  ne: "none",
  neScalar: "none",
  where: where(),
  neg: unary(),
  abs: unary("nonzero"),
  sign: "none",
  floor: "none",
  ceil: "none",
  round: "none",
  square: unary(),
  sqrt: unary("positive"),
  rsqrt: unary("positive"),
  exp: unary(),
  log: unary("positive"),
  sin: unary(),
  cos: unary(),
  tanh: unary(),
  erf: unary(),
  sigmoid: unary(),
  silu: unary(),
  relu: unary("nonzero"),
  gelu: unary(),
  sum: reduction("real", true),
  amax: reduction("distinct", false),
  amin: reduction("distinct", false),
  argmax: "none",
  reshape: of<Shape>(
    [
      [2, 3],
      [3, 2],
    ],
    [[2, 3], [6]],
    [[6], [1, 2, 3]],
    [[1], []],
    [[0, 3], [0]],
    [
      [2, 3],
      [2, 1, 3, 1],
    ],
  ),
  permute: of<readonly number[]>(
    [
      [2, 3],
      [1, 0],
    ],
    [
      [2, 3, 2],
      [2, 0, 1],
    ],
    [[], []],
    [
      [0, 2],
      [1, 0],
    ],
    [[3], [0]],
  ),
  expand: of<Shape>(
    [[3], [2, 3]],
    [
      [2, 1],
      [2, 3],
    ],
    [[], [2]],
    [
      [1, 1],
      [2, 3],
    ],
    [
      [2, 3],
      [2, 3],
    ],
    [[1], [0]],
  ),
  slice: of(
    [[5], { dim: 0, start: 1, length: 3, step: 1 }],
    [[5], { dim: 0, start: 0, length: 3, step: 2 }],
    [[3, 4], { dim: 1, start: 1, length: 2, step: 2 }],
    [[3, 4], { dim: 0, start: 3, length: 0, step: 1 }],
    [[0, 4], { dim: 1, start: 1, length: 2, step: 1 }],
    [[2, 3, 2], { dim: 1, start: 2, length: 1, step: 1 }],
  ),
  cat: [
    ...reals(
      () => 0,
      [[2], [3]],
      [
        [2, 3],
        [1, 3],
      ],
      [[1]],
      [[0], [2]],
      [[2], [2], [2]],
    ),
    ...reals(
      () => 1,
      [
        [2, 3],
        [2, 1],
      ],
      [
        [2, 0],
        [2, 2],
      ],
    ),
  ],
  clone: reals(nothing, [[]], [[3]], [[0]], [[2, 3]]),
  cast: reals(() => "f64" as DType, [[]], [[3]], [[0]], [[2, 3]]),
  matmul: reals(
    nothing,
    [
      [1, 1],
      [1, 1],
    ],
    [
      [2, 3],
      [3, 4],
    ],
    [
      [1, 3],
      [3, 1],
    ],
    [
      [2, 0],
      [0, 2],
    ],
    [
      [0, 2],
      [2, 3],
    ],
    [
      [2, 2, 3],
      [2, 3, 2],
    ],
    [
      [2, 2, 3],
      [3, 2],
    ],
    [
      [2, 3],
      [2, 3, 2],
    ],
    [
      [2, 1, 2, 3],
      [3, 3, 2],
    ],
    [
      [1, 2, 3],
      [2, 3, 1],
    ],
  ),
  linear: [
    ...reals(
      () => ({ bias: false, addend: false }),
      [[3], [2, 3]],
      [
        [2, 3],
        [4, 3],
      ],
    ),
    ...reals(
      () => ({ bias: true, addend: false }),
      [[2, 3], [4, 3], [4]],
      [[2, 2, 3], [1, 3], [1]],
      [[0, 3], [2, 3], [2]],
      [[2, 0], [2, 0], [2]],
    ),
    ...reals(
      () => ({ bias: false, addend: true }),
      [
        [2, 3],
        [4, 3],
        [2, 4],
      ],
      [
        [2, 2, 3],
        [1, 3],
        [2, 2, 1],
      ],
    ),
    ...reals(() => ({ bias: true, addend: true }), [[2, 3], [4, 3], [4], [2, 4]]),
  ],
  swiglu: reals(
    nothing,
    [
      [2, 3],
      [2, 3],
    ],
    [[0], [0]],
    [[], []],
  ),
  loraLinear: [
    ...reals(
      () => ({ scaling: 0.7, dropout: undefined, bias: false, addend: false }),
      [
        [2, 3],
        [4, 3],
        [2, 3],
        [4, 2],
      ],
      [
        [2, 1, 3],
        [1, 3],
        [3, 3],
        [1, 3],
      ],
      [
        [0, 3],
        [2, 3],
        [1, 3],
        [2, 1],
      ],
    ),
    ...reals(
      () => ({
        ...{ scaling: 2, bias: true, addend: true },
        dropout: { p: 0.4, key: { seed: [1, 2] as const, stream: 3 }, rows: i32([0, 0, 0, 1], [2, 2]) },
      }),
      [[2, 6], [4, 6], [2, 6], [4, 2], [4], [2, 4]],
      [[1, 2, 6], [3, 6], [1, 6], [3, 1], [3], [1, 2, 3]],
    ),
  ],
  embedding: [
    {
      inputs: [
        { shape: [4, 3], domain: "real" },
        { shape: [5], values: [0, 3, 3, 1, 3], dtype: "i32" },
      ],
      args: nothing,
    },
    {
      inputs: [
        { shape: [4], domain: "real" },
        { shape: [2, 2], values: [0, 3, 3, 1], dtype: "i32" },
      ],
      args: nothing,
    },
    {
      inputs: [
        { shape: [2, 2, 2], domain: "real" },
        { shape: [3], values: [1, 1, 0], dtype: "i32" },
      ],
      args: nothing,
    },
    {
      inputs: [
        { shape: [2, 3], domain: "real" },
        { shape: [0], values: [], dtype: "i32" },
      ],
      args: nothing,
    },
  ],
  rmsNorm: reals(() => 1e-3, [[1], [1]], [[5], [5]], [[2, 3], [3]], [[2, 2, 4], [4]], [[0, 3], [3]]),
  rope: [
    {
      inputs: [{ shape: [3, 2, 4], domain: "real" }],
      args: () => ({ positions: i32([0, 5, 2]), frequencies: f64([1, 0.1]), inverse: false }),
    },
    {
      inputs: [{ shape: [1, 1, 2], domain: "real" }],
      args: () => ({ positions: i32([7]), frequencies: f64([0.7]), inverse: true }),
    },
    {
      inputs: [{ shape: [0, 2, 2], domain: "real" }],
      args: () => ({ positions: i32([]), frequencies: f64([1]), inverse: false }),
    },
  ],
  attention: [
    ...reals(
      () => ({ segments: [{ query: 0, queries: 3, key: 0, keys: 3 }], scale: 0.7 }),
      [
        [3, 1, 2],
        [3, 1, 2],
        [3, 1, 2],
      ],
    ),
    ...reals(
      () => ({ segments: [{ query: 0, queries: 3, key: 0, keys: 3 }], scale: 0.5 }),
      [
        [3, 4, 2],
        [3, 2, 2],
        [3, 2, 2],
      ],
    ),
    ...reals(
      () => ({
        segments: [
          { query: 1, queries: 2, key: 0, keys: 3 },
          { query: 0, queries: 1, key: 3, keys: 2 },
        ],
        scale: 1,
      }),
      [
        [3, 2, 2],
        [5, 1, 2],
        [5, 1, 2],
      ],
    ),
    ...reals(
      () => ({ segments: [], scale: 1 }),
      [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
      ],
    ),
  ],
  dropout: reals(
    () => ({ p: 0.4, key: { seed: [1, 2] as const, stream: 3 }, rows: i32([0, 0, 0, 1], [2, 2]) }),
    [[2, 5]],
    [[2, 0]],
  ),
  linearCrossEntropy: [
    ...reals(
      () => ({ targets: i32([1, -1, 4]), scale: f64([0.5, 2, 0.25]) }),
      [
        [3, 4],
        [5, 4],
      ],
    ),
    ...reals(
      () => ({ targets: i32([0]), scale: f64([1]) }),
      [
        [1, 1],
        [2, 1],
      ],
    ),
    ...reals(
      () => ({ targets: i32([]), scale: f64([]) }),
      [
        [0, 2],
        [3, 2],
      ],
    ),
  ],
};

/** Functions made of ops: by name, what they do to their inputs. */
const COMPOSED: readonly [name: string, run: (...x: Tensor[]) => Tensor, inputs: Input[][]][] = [
  ["mean", (x) => ops.mean(x, 0), one("real", [3], [2, 3], [2, 1])],
  ["softmax", (x) => ops.softmax(x), one("real", [3], [2, 3], [1, 1])],
  ["softmax over the first dimension", (x) => ops.softmax(x, 0), one("real", [3], [2, 3])],
  ["logSoftmax", (x) => ops.logSoftmax(x), one("real", [3], [2, 3])],
  ["crossEntropy", (x) => ops.crossEntropy(x, i32([2, 0])), one("real", [2, 3])],
  [
    "linearCrossEntropy, labels smoothed",
    (h, w) => ops.linearCrossEntropy(h, w, i32([1, -1, 4]), f64([0.5, 2, 0.25]), { labelSmoothing: 0.2 }),
    [[real([3, 4]), real([5, 4])]],
  ],
  ["mseLoss", (a, b) => ops.mseLoss(a, b), [[real([2, 3]), real([2, 3])]]],
  [
    "vector product",
    (a, b) => ops.matmul(a, b),
    [
      [real([3]), real([3])],
      [real([3]), real([3, 2])],
      [real([2, 3]), real([3])],
    ],
  ],
  ["transpose", (x) => ops.transpose(x, 0, -1), one("real", [2, 3], [2, 3, 2])],
  ["select", (x) => ops.select(x, 1, -1), one("real", [2, 3])],
  ["unsqueeze and squeeze", (x) => ops.squeeze(ops.unsqueeze(x, 1), 1), one("real", [2, 3])],
  ["stack", (a, b) => ops.stack([a, b], 1), [[real([2, 3]), real([2, 3])]]],
  ["gt, as a mask", (x) => ops.mul(x, ops.gt(x, 0)), one("nonzero", [5])],
  [
    "gradients that add up in place",
    (x, w) =>
      ops
        .linear(x, w)
        .add(ops.linear(x, w))
        .add(ops.matmul(x, ops.transpose(w, 0, 1))),
    [[real([2, 3]), real([4, 3])]],
  ],
  ["two uses of one tensor", (x) => x.mul(x.exp()).add(x), one("real", [4])],
];

function real(shape: Shape): Input {
  return { shape, domain: "real" };
}
function one(domain: Domain, ...shapes: Shape[]): Input[][] {
  return shapes.map((shape) => [{ shape, domain }]);
}

/** Host values for inputs; "distinct" ones differ over all inputs. */
function draw(inputs: readonly Input[]): number[][] {
  const total = inputs.reduce((n, input) => n + sizeOf(input.shape), 0);
  const ladder = Array.from({ length: total }, (_, i) => (i - total / 2) * 0.2 + 0.05);
  for (let i = total - 1; i > 0; i--) {
    const j = pick(i + 1);
    [ladder[i], ladder[j]] = [ladder[j], ladder[i]];
  }
  return inputs.map((input) => {
    const n = sizeOf(input.shape);
    if ("values" in input) return [...input.values];
    if (input.domain === "distinct") return ladder.splice(0, n);
    return Array.from({ length: n }, () => {
      const x = 4 * random() - 2;
      if (input.domain === "positive") return 0.3 + Math.abs(x);
      return input.domain === "nonzero" ? x + 0.3 * Math.sign(x) : x;
    });
  });
}

type Arrangement = "dense" | "transposed" | "stepped";

/** A leaf of these values that lies in memory in the given way. */
function leaf(values: readonly number[], shape: Shape, dtype: DType, arrangement: Arrangement): Tensor {
  const dense = Tensor.from(values, shape, { dtype });
  if (shape.length === 0 || arrangement === "dense") return dense;
  const order = shape.map((_, d) => shape.length - 1 - d);
  if (arrangement === "transposed")
    return dense
      .permute(...order)
      .clone()
      .permute(...order)
      .detach();
  return ops.stack([dense, dense], shape.length).select(-1, 1).detach();
}

/** Compares the gradient of Σ weight·result to every drawn input with central differences. */
async function check(
  run: (...x: Tensor[]) => Tensor,
  inputs: readonly Input[],
  arrangement: Arrangement,
): Promise<void> {
  const values = draw(inputs);
  const build = (host: readonly (readonly number[])[]): Tensor[] =>
    inputs.map(({ shape, ...input }, i) =>
      leaf(host[i], shape, ("values" in input && input.dtype) || "f64", arrangement),
    );
  const leaves = build(values);
  leaves.forEach((t, i) => {
    t.requiresGrad = "domain" in inputs[i];
  });
  const out = run(...leaves);
  expect(out.dtype).toBe("f64");
  const weights = Array.from({ length: out.size }, () => random() + 0.5);
  out.backward(Tensor.from(weights, out.shape, { dtype: "f64" }));

  const value = async (host: readonly (readonly number[])[]): Promise<number> => {
    const result = scope(() => run(...build(host)));
    const data = [...(await result.data())];
    result.dispose();
    return data.reduce((sum, x, i) => sum + weights[i] * x, 0);
  };
  const step = 1e-5;
  for (const [i, t] of leaves.entries()) {
    if (!("domain" in inputs[i])) {
      expect(t.grad).toBeUndefined();
      continue;
    }
    const { grad } = t;
    if (!grad) throw new Error(`input ${i} got no gradient`);
    expect([grad.shape, grad.dtype, isContiguous(grad.shape, grad.strides)]).toEqual([t.shape, "f64", true]);
    const analytic = await grad.data();
    for (let at = 0; at < analytic.length; at++) {
      const moved = (by: number): number[][] =>
        values.map((v, j) => (j === i ? v.map((x, k) => (k === at ? x + by : x)) : v));
      const numeric = ((await value(moved(step))) - (await value(moved(-step)))) / (2 * step);
      const off = Math.abs(analytic[at] - numeric);
      if (!(off <= 1e-7 * (1 + Math.abs(numeric)))) {
        const shapes = inputs.map(({ shape }) => `[${shape}]`).join(" ");
        throw new Error(
          `input ${i}, element ${at}: gradient ${analytic[at]}, differences ${numeric}; ${shapes} ${arrangement}`,
        );
      }
    }
  }
}

const ARRANGEMENTS: readonly Arrangement[] = ["dense", "transposed", "stepped"];

describe("gradients agree with central differences", () => {
  for (const name of Object.keys(registry) as OpName[]) {
    const cases = CASES[name];
    if (cases === "none") continue;
    test(name, async () => {
      expect(cases.length).toBeGreaterThan(0);
      const op = registry[name] as Op<unknown>;
      for (const { inputs, args } of cases as readonly Case<unknown>[]) {
        const fixed = args();
        for (const arrangement of ARRANGEMENTS) await check((...x) => apply(op, x, fixed), inputs, arrangement);
      }
    }, 60_000);
  }
  for (const [name, run, cases] of COMPOSED) {
    test(`composed: ${name}`, async () => {
      for (const inputs of cases) for (const arrangement of ARRANGEMENTS) await check(run, inputs, arrangement);
    });
  }
});

describe("ops without a gradient", () => {
  test("are those listed", () => {
    const none = Object.entries(registry).filter(([, op]) => op.backward === "none");
    const listed = Object.entries(CASES).filter(([, cases]) => cases === "none");
    expect(none.map(([name]) => name).sort()).toEqual(listed.map(([name]) => name).sort());
    expect(Object.keys(CASES).sort()).toEqual(Object.keys(registry).sort());
  });

  test("give results that need none", () => {
    const x = Tensor.from([1, 2], [2], { requiresGrad: true });
    for (const t of [x.sign(), x.floor(), x.lt(1.5), x.argmax()]) expect(t.requiresGrad).toBe(false);
  });

  test("every op is named as the registry has it", () => {
    for (const [name, op] of Object.entries(registry)) expect(op.name).toBe(name);
  });
});
