// Every op of the registry: its gradient against central differences in f64. An op without a case does not compile.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { numbers } from "../devices/conformance/harness.ts";
import type { Device } from "../devices/device.ts";
import { gpuHere } from "../devices/gpu/testing.ts";
import { type DType, reference, scope, setDefaultDevice, Tensor } from "../index.ts";
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

function softmaxCases(): Case<{ dim: number }>[] {
  return of(
    [[4], { dim: 0 }],
    [[2, 3], { dim: 1 }],
    [[2, 3, 2], { dim: 1 }],
    [[0, 3], { dim: 1 }],
    [[2, 0], { dim: 1 }],
  );
}
function scattered(shape: Shape, dim: number, indexShape: Shape, index: number[]): Case<{ dim: number }> {
  return {
    inputs: [
      { shape, domain: "real" },
      { shape: indexShape, values: index, dtype: "i32" },
      { shape: indexShape, domain: "real" },
    ],
    args: () => ({ dim }),
  };
}

const i32 = (values: number[], shape: Shape = [values.length]): Tensor => Tensor.from(values, shape, { dtype: "i32" });
/** f64 but on a device that has none. */
let floating: DType = "f64";
const f64 = (values: number[]): Tensor => Tensor.from(values, [values.length], { dtype: floating });
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
  clamp: scalar("nonzero", [-0.2, 0.1]),
  clampMin: scalar("nonzero", [0.1]),
  clampMax: scalar("nonzero", [-0.1]),
  maskedFill: [
    {
      inputs: [
        { shape: [2, 3], domain: "real" },
        { shape: [3], values: [1, 0, 1] },
      ],
      args: () => [7],
    },
    {
      inputs: [
        { shape: [0], domain: "real" },
        { shape: [1], values: [1] },
      ],
      args: () => [7],
    },
  ],
  reciprocal: unary("nonzero"),
  log2: unary("positive"),
  log10: unary("positive"),
  log1p: unary("positive"),
  exp2: unary(),
  expm1: unary(),
  tan: unary("distinct"),
  sinh: unary(),
  cosh: unary(),
  trunc: "none",
  // Values such as 0.25 and −1.55, of which none is whole.
  frac: unary("distinct"),
  remainder: [
    {
      inputs: [
        { shape: [3], domain: "distinct" },
        { shape: [3], values: [0.7, -0.9, 5] },
      ],
      args: () => [],
    },
    {
      inputs: [
        { shape: [2], values: [5.1, -5.1] },
        { shape: [2], domain: "positive" },
      ],
      args: () => [],
    },
  ],
  remainderScalar: scalar("distinct", [3]),
  fmod: [
    {
      inputs: [
        { shape: [3], domain: "distinct" },
        { shape: [3], values: [0.7, -0.9, 5] },
      ],
      args: () => [],
    },
  ],
  fmodScalar: scalar("distinct", [3]),
  floorDivide: "none",
  floorDivideScalar: "none",
  isnan: "none",
  isfinite: "none",
  isinf: "none",
  nanToNum: scalar("real", [0, 1, -1]),
  logicalNot: "none",
  logicalAnd: "none",
  logicalOr: "none",
  logicalXor: "none",
  geluTanh: unary(),
  leakyRelu: scalar("nonzero", [0.1]),
  elu: scalar("nonzero", [1.3]),
  selu: unary("nonzero"),
  softplus: scalar("real", [2]),
  logSigmoid: unary(),
  softsign: unary(),
  mish: unary(),
  relu6: unary("nonzero"),
  hardSigmoid: unary(),
  hardSwish: unary(),
  bceWithLogits: binary("nonzero", "real"),
  huber: scalar("distinct", [0.3]),
  xlogx: unary("positive"),
  root: unary("positive"),
  absPow: scalar("nonzero", [2.5]),
  softmax: softmaxCases(),
  logSoftmax: softmaxCases(),
  cumsum: of(
    [[5], { dim: 0, reverse: false }],
    [[5], { dim: 0, reverse: true }],
    [[2, 4, 2], { dim: 1, reverse: false }],
    [[2, 0], { dim: 1, reverse: false }],
    [[], { dim: 0, reverse: false }],
  ),
  argsort: "none",
  unfold: of(
    [[6], [{ dim: 0, size: 3, step: 1, dilation: 1 }]],
    [[7, 2], [{ dim: 0, size: 2, step: 2, dilation: 2 }]],
    [
      [2, 4, 5],
      [
        { dim: 1, size: 2, step: 1, dilation: 1 },
        { dim: 2, size: 2, step: 2, dilation: 2 },
      ],
    ],
    [[0, 3], [{ dim: 1, size: 2, step: 1, dilation: 1 }]],
  ),
  columns: of(
    [[2, 2, 6], [{ dim: 2, size: 3, step: 2, dilation: 1 }]],
    [
      [1, 2, 4, 5],
      [
        { dim: 2, size: 2, step: 1, dilation: 2 },
        { dim: 3, size: 3, step: 2, dilation: 1 },
      ],
    ],
    [
      [0, 2, 3, 3],
      [
        { dim: 2, size: 2, step: 1, dilation: 1 },
        { dim: 3, size: 2, step: 1, dilation: 1 },
      ],
    ],
  ),
  pad: of(
    [[3], { before: [1], after: [2], value: 4 }],
    [[2, 3], { before: [0, 1], after: [2, 0], value: 0 }],
    [[0, 2], { before: [1, 0], after: [0, 0], value: 1 }],
  ),
  maxPool: [
    { inputs: [{ shape: [6], domain: "distinct" }], args: () => [{ dim: 0, size: 3, step: 2, dilation: 1 }] },
    {
      inputs: [{ shape: [2, 5, 4], domain: "distinct" }],
      args: () => [
        { dim: 1, size: 2, step: 1, dilation: 2 },
        { dim: 2, size: 2, step: 2, dilation: 1 },
      ],
    },
  ],
  sumPool: of(
    [[6], [{ dim: 0, size: 3, step: 2, dilation: 1 }]],
    [
      [2, 5, 4],
      [
        { dim: 1, size: 2, step: 1, dilation: 1 },
        { dim: 2, size: 3, step: 1, dilation: 1 },
      ],
    ],
  ),
  diagonal: of(
    [[3, 3], { offset: 0, dims: [0, 1] as const }],
    [[2, 4], { offset: 1, dims: [0, 1] as const }],
    [[4, 2, 3], { offset: -1, dims: [2, 0] as const }],
    [[2, 2], { offset: 5, dims: [0, 1] as const }],
  ),
  gather: [
    {
      inputs: [
        { shape: [3, 2], domain: "real" },
        { shape: [2, 2], values: [2, 0, 2, 2], dtype: "i32" },
      ],
      args: () => ({ dim: 0 }),
    },
    {
      inputs: [
        { shape: [2, 3], domain: "real" },
        { shape: [1, 4], values: [2, 0, 2, 1], dtype: "i32" },
      ],
      args: () => ({ dim: 1 }),
    },
    {
      inputs: [
        { shape: [2, 2, 2], domain: "real" },
        { shape: [2, 1, 2], values: [1, 0, 0, 0], dtype: "i32" },
      ],
      args: () => ({ dim: 1 }),
    },
  ],
  scatter: [scattered([2, 3], 1, [2, 2], [0, 2, 1, 0]), scattered([3], 0, [2], [2, 0])],
  scatterAdd: [scattered([2, 3], 1, [2, 2], [0, 0, 1, 0]), scattered([3, 2], 0, [2, 1], [2, 2])],
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
  [
    "conv1d",
    (x, w, b) => ops.conv1d(x, w, b, { stride: 2, padding: 1 }),
    [[real([2, 2, 5]), real([3, 2, 3]), real([3])]],
  ],
  [
    "conv2d in groups, dilated",
    (x, w) => ops.conv2d(x, w, undefined, { groups: 2, dilation: [1, 2], padding: [1, 0] }),
    [[real([2, 4, 3, 5]), real([4, 2, 2, 2])]],
  ],
  [
    "avgPool2d",
    (x) => ops.avgPool2d(x, 2, { stride: 1, padding: 1, countIncludePad: false }),
    one("real", [1, 2, 3, 3]),
  ],
  ["maxPool2d", (x) => ops.maxPool2d(x, [2, 3], { padding: [1, 1] }), one("distinct", [2, 3, 4])],
  ["adaptiveAvgPool2d", (x) => ops.adaptiveAvgPool2d(x, [2, 3]), one("real", [2, 3, 4])],
  ["einsum, a batched product", (a, b) => ops.einsum("bij,bjk->kbi", a, b), [[real([2, 3, 2]), real([2, 2, 4])]]],
  [
    "einsum of three, one with a diagonal",
    (a, b, c) => ops.einsum("ii,ij,kj->k", a, b, c),
    [[real([3, 3]), real([3, 2]), real([2, 2])]],
  ],
  ["einsum, an outer product", (a, b) => ops.einsum("i,j", a, b), [[real([3]), real([2])]]],
  ["layerNorm", (x, w, b) => ops.layerNorm(x, [3], w, b), [[real([2, 3]), real([3]), real([3])]]],
  ["groupNorm", (x, w) => ops.groupNorm(x, 2, w), [[real([2, 4, 3]), real([4])]]],
  [
    "batchNorm",
    (x, m, v, w, b) => ops.batchNorm(x, m, v.exp(), w, b),
    [[real([3, 2, 2]), ...[1, 2, 3, 4].map(() => real([2]))]],
  ],
  ["variance", (x) => ops.variance(x, 1), one("real", [2, 3])],
  ["std", (x) => ops.std(x, 0, { correction: 0 }), one("real", [3, 2])],
  ["norm, p = 2", (x) => ops.norm(x, 2, 1), one("real", [2, 3])],
  ["norm, p = 3", (x) => ops.norm(x, 3), one("nonzero", [2, 3])],
  ["norm, p = ∞", (x) => ops.norm(x, Number.POSITIVE_INFINITY, 0), one("distinct", [2, 3])],
  ["normalize", (x) => ops.normalize(x), one("real", [2, 3])],
  ["cosineSimilarity", (a, b) => ops.cosineSimilarity(a, b), [[real([2, 3]), real([2, 3])]]],
  ["logsumexp", (x) => ops.logsumexp(x, 1), one("real", [2, 3])],
  ["prod", (x) => ops.prod(x, 1), one("real", [2, 5], [2, 0])],
  ["cumprod", (x) => ops.cumprod(x, 0), one("real", [5, 2])],
  ["max", (x) => ops.max(x, 0).values, one("distinct", [3, 2])],
  ["min", (x) => ops.min(x, 1).values, one("distinct", [3, 2])],
  ["cdist", (a, b) => ops.cdist(a, b), [[real([3, 2]), real([2, 2])]]],
  ["sort", (x) => ops.sort(x, 0).values, one("distinct", [5, 2])],
  ["topk", (x) => ops.topk(x, 2).values, one("distinct", [2, 5])],
  ["median", (x) => ops.median(x, 1).values, one("distinct", [2, 5])],
  ["indexSelect", (x) => ops.indexSelect(x, 1, i32([2, 0, 2])), one("real", [2, 3, 2])],
  ["flip", (x) => ops.flip(x, [0, 1]), one("real", [2, 3])],
  ["at", (x) => ops.at(x, "...", "::-2", null, i32([1, -1])), one("real", [2, 3, 3])],
  ["tril and triu", (x) => ops.tril(x, 1).add(ops.triu(x, 1)), one("real", [3, 3])],
  ["diag", (x) => ops.diag(x, -1), one("real", [2], [3, 3])],
  ["trace", (x) => ops.trace(x), one("real", [3, 3])],
  ["repeat", (x) => ops.repeat(x, [2, 1, 2]), one("real", [2, 3])],
  ["repeatInterleave", (x) => ops.repeatInterleave(x, 3, 0), one("real", [2, 3])],
  ["roll", (x) => ops.roll(x, -1, 1), one("real", [2, 3])],
  [
    "dropout of any rank",
    (x) => ops.dropout(x, 0.4, { seed: [1, 2], stream: 3 }),
    one("real", [5], [2, 2, 3], [2, 0, 3]),
  ],
  ["glu", (x) => ops.glu(x), one("real", [2, 4])],
  ["lerp", (a, b) => ops.lerp(a, b, 0.3), [[real([2, 3]), real([3])]]],
  [
    "scaledDotProductAttention with a mask",
    (q, k, v) => ops.scaledDotProductAttention(q, k, v, { mask: i32([1, 1, 0, 1, 0, 1], [2, 3]) }),
    [[real([2, 2, 2]), real([2, 3, 2]), real([2, 3, 4])]],
  ],
  [
    "scaledDotProductAttention, causal",
    (q, k, v) => ops.scaledDotProductAttention(q, k, v, { causal: true }),
    [
      [real([2, 2, 3, 2]), real([2, 2, 3, 2]), real([2, 2, 3, 2])],
      [real([3, 2]), real([3, 2]), real([3, 1])],
    ],
  ],
  [
    "crossEntropy with weights, smoothing and places",
    (x, w) =>
      ops.crossEntropy(x, i32([2, 0, 1, 1], [2, 2]), { ignoreIndex: 0, labelSmoothing: 0.2, weight: w.exp().detach() }),
    [[real([2, 3, 2]), { shape: [3], values: [0.1, 0.2, 0.3], dtype: "f64" }]],
  ],
  ["nllLoss", (x) => ops.nllLoss(x, i32([1, -100, 2]), { reduction: "sum" }), one("real", [3, 4])],
  [
    "l1Loss",
    (a, b) => ops.l1Loss(a, b),
    [
      [
        { shape: [6], domain: "distinct" },
        { shape: [6], domain: "distinct" },
      ],
    ],
  ],
  ["smoothL1Loss", (a, b) => ops.smoothL1Loss(a, b, { beta: 0.3 }), [[real([6]), real([6])]]],
  ["bceLoss", (x, y) => ops.bceLoss(x.sigmoid(), y), [[real([2, 3]), real([2, 3])]]],
  [
    "klDivLoss",
    (a, b) => ops.klDivLoss(a, b, { reduction: "batchmean" }),
    [[real([2, 3]), { shape: [2, 3], domain: "positive" }]],
  ],
  ["klDivLoss of logarithms", (a, b) => ops.klDivLoss(a, b, { logTarget: true }), [[real([2, 3]), real([2, 3])]]],
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

/** Numbers of f32, and sums of a few of them. */
const NEAR = 2e-5;

/** The result of an op and its gradients on the default device, of `floating` numbers. */
async function resultsOf(
  run: () => (...x: Tensor[]) => Tensor,
  inputs: readonly Input[],
  values: readonly (readonly number[])[],
  arrangement: Arrangement,
): Promise<number[][]> {
  const leaves = inputs.map((input, i) => {
    const given = "values" in input ? input.dtype : undefined;
    return leaf(values[i], input.shape, given && given !== "f64" ? given : floating, arrangement);
  });
  leaves.forEach((t, i) => {
    t.requiresGrad = "domain" in inputs[i];
  });
  const out = run()(...leaves);
  const weights = Array.from({ length: out.size }, (_, i) => 0.5 + (i % 5) / 4);
  out.backward(Tensor.from(weights, out.shape, { dtype: floating }));
  const grads = leaves.map((t) => t.grad).filter((grad) => grad !== undefined);
  return Promise.all([out, ...grads].map(async (t) => [...(await t.data())]));
}

const { missing, open } = await gpuHere();
if (missing) test.skip(`results and gradients on gpu (${missing})`, () => {});
describe.skipIf(missing !== undefined)("results and gradients on gpu are those of the reference", () => {
  let gpu: Device;
  beforeAll(async () => {
    gpu = await open();
  });
  afterAll(() => gpu?.dispose());

  const compare = async (run: () => (...x: Tensor[]) => Tensor, inputs: readonly Input[], arrangement: Arrangement) => {
    const values = draw(inputs);
    const want = await resultsOf(run, inputs, values, arrangement);
    setDefaultDevice(gpu);
    floating = "f32";
    try {
      const got = await resultsOf(run, inputs, values, arrangement);
      expect(got.map((list) => list.length)).toEqual(want.map((list) => list.length));
      for (const [i, list] of want.entries()) {
        for (const [j, w] of list.entries()) {
          const near = Number.isFinite(w)
            ? Math.abs(got[i][j] - w) <= NEAR * (1 + Math.abs(w))
            : Object.is(got[i][j], w);
          if (!near) throw new Error(`${i === 0 ? "result" : `gradient ${i}`}, element ${j}: ${got[i][j]}, not ${w}`);
        }
      }
    } finally {
      floating = "f64";
      setDefaultDevice(reference);
    }
  };
  for (const name of Object.keys(registry) as OpName[]) {
    const cases = CASES[name];
    // A cast to f64 is for the reference alone.
    if (cases === "none" || name === "cast") continue;
    test(name, async () => {
      const op = registry[name] as Op<unknown>;
      for (const [i, { inputs, args }] of (cases as readonly Case<unknown>[]).entries()) {
        // Everything that args() makes lives on the device of the moment.
        const run = () => {
          const fixed = args();
          return (...x: Tensor[]) => apply(op, x, fixed);
        };
        await compare(run, inputs, ARRANGEMENTS[i % ARRANGEMENTS.length]);
      }
    }, 60_000);
  }
  for (const [name, run, cases] of COMPOSED) {
    test(`composed: ${name}`, async () => {
      for (const inputs of cases) await compare(() => run, inputs, "dense");
    }, 60_000);
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
