import { IDENTITY, Program } from "../../expr/program.ts";
import type { Device, ReduceKind, View } from "../device.ts";
import {
  agree,
  type DeviceTest,
  EXACT,
  INPUT_LAYOUTS,
  type Layout,
  numbers,
  type Operand,
  operand,
  type Result,
  result,
  valuesOf,
} from "./harness.ts";

const KINDS: readonly ReduceKind[] = ["sum", "max", "min"];

/** Shapes and the dimensions that are joined. */
const CASES: readonly (readonly [shape: readonly number[], dims: readonly number[]])[] = [
  [[1], [0]],
  [[7], [0]],
  [[1025], [0]],
  [[4, 9], [1]],
  [[4, 9], [0]],
  [
    [4, 9],
    [0, 1],
  ],
  [[4, 9], []],
  [[1, 9], [0]],
  [[3, 5, 7], [1]],
  [
    [3, 5, 7],
    [0, 2],
  ],
  [
    [2, 3, 4, 5],
    [1, 2],
  ],
  [
    [2, 1, 17],
    [0, 1, 2],
  ],
  [[33, 257], [1]],
  [[257, 33], [0]],
];

/** The result's view spread over the shape that is iterated: stride 0 in the joined dimensions. */
function spread(out: View, shape: readonly number[], dims: readonly number[]): View {
  return { ...out, shape, strides: out.strides.map((s, d) => (dims.includes(d) ? 0 : s)) };
}

const keptShape = (shape: readonly number[], dims: readonly number[]): number[] =>
  shape.map((n, d) => (dims.includes(d) ? 1 : n));

/** Σ|x| over the joined dimensions: what the error of a sum is a share of. */
function magnitudes(x: Operand, dims: readonly number[]): number[] {
  const kept = keptShape(x.shape, dims);
  const total = new Array<number>(kept.reduce((a, b) => a * b, 1)).fill(0);
  valuesOf(x).forEach((value, i) => {
    let at = 0;
    let rest = i;
    let step = 1;
    for (let d = x.shape.length - 1; d >= 0; d--) {
      if (kept[d] !== 1) at += (rest % x.shape[d]) * step;
      step *= kept[d];
      rest = Math.floor(rest / x.shape[d]);
    }
    total[at] += Math.abs(value);
  });
  return total;
}

/** Sums may be off by 2e-7 of the sum of magnitudes for each doubling of their length, at most 3e-6. */
const SUM_ERROR = 3e-6;

function toleranceOf(kind: ReduceKind, x: Operand, dims: readonly number[]): Result["tolerance"] {
  return kind === "sum" ? { abs: magnitudes(x, dims).map((m) => SUM_ERROR * (m + 1)) } : EXACT;
}

async function compare(device: Device, kind: ReduceKind, x: Operand, dims: readonly number[], layout: Layout) {
  for (const accumulate of [false, true]) {
    const out = result("f32", keptShape(x.shape, dims), toleranceOf(kind, x, dims), layout);
    await agree(device, { x }, { out }, (d, v) =>
      d.reduce(kind, IDENTITY, [], [v.x], spread(v.out, x.shape, dims), accumulate),
    );
  }
}

export const reduceTests: readonly DeviceTest[] = [
  ...KINDS.map((kind) => ({
    name: `reduce: ${kind} over any dimensions and layouts, set and accumulated`,
    async run({ device }: { device: Device }) {
      const random = numbers(21);
      for (const [i, [shape, dims]] of CASES.entries()) {
        for (const [j, layout] of INPUT_LAYOUTS.entries()) {
          const x = operand("f32", shape, () => 6 * random() - 3, layout);
          const layouts: Layout[] = ["dense", "offset", "padded", "stepped"];
          await compare(device, kind, x, dims, layouts[(i + j) % layouts.length]);
        }
      }
    },
  })),
  {
    name: "reduce: of nothing is 0, -inf and inf",
    async run({ device }) {
      for (const kind of KINDS) {
        for (const [shape, dims] of [
          [[0], [0]],
          [[3, 0], [1]],
          [[0, 3], [0]],
          [[0, 3], [1]],
        ] as const) {
          await compare(device, kind, operand("f32", shape, [], "dense"), dims, "offset");
        }
      }
    },
  },
  {
    name: "reduce: NaN and infinity come through",
    async run({ device }) {
      const random = numbers(22);
      for (const special of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        for (const place of [0, 1, 7, 8, 30, 36]) {
          const x = operand("f32", [3, 37], (i) => (i === 37 + place ? special : random() - 0.5));
          for (const kind of KINDS) {
            await compare(device, kind, x, [1], "dense");
            await compare(device, kind, x, [0], "dense");
          }
        }
      }
      const both = operand("f32", [2, 4], [Infinity, 1, -Infinity, 2, -Infinity, -Infinity, 0, -0]);
      for (const kind of KINDS) await compare(device, kind, both, [1], "dense");
    },
  },
  {
    name: "reduce: of a program over several inputs, with numbers",
    async run({ device }) {
      const program = Program.of(2, 1, ([a, b], [s]) => a.mul(b).mul(s));
      const random = numbers(23);
      const draw = (): number => 2 * random() - 1;
      for (const [shape, dims] of CASES) {
        const given = { a: operand("f32", shape, draw, "transposed"), b: operand("f32", shape, draw, "repeatedFirst") };
        const length = dims.reduce((n, d) => n * shape[d], 1);
        const out = result("f32", keptShape(shape, dims), { abs: SUM_ERROR * (length + 1) });
        await agree(device, given, { out }, (d, v) =>
          d.reduce("sum", program, [1.5], [v.a, v.b], spread(v.out, shape, dims)),
        );
      }
    },
  },
  {
    name: "reduce: bf16 widened, whole numbers exact",
    async run({ device }) {
      const random = numbers(24);
      for (const kind of KINDS) {
        const x = operand("bf16", [5, 83], () => random() - 0.5, "padded");
        await compare(device, kind, x, [1], "dense");
        await compare(device, kind, x, [0], "dense");
      }
      const whole = operand("i32", [9, 31], () => Math.round(1e4 * random()));
      for (const dims of [[0], [1], [0, 1]]) {
        await agree(device, { x: whole }, { out: result("i32", keptShape([9, 31], dims)) }, (d, v) =>
          d.reduce("sum", IDENTITY, [], [v.x], spread(v.out, [9, 31], dims)),
        );
      }
    },
  },
  {
    name: "reduce: enough for every thread",
    async run({ device }) {
      const random = numbers(25);
      for (const [shape, dims] of [
        [[400_003], [0]],
        [[1501, 211], [0]],
        [[1501, 211], [1]],
      ] as const) {
        const x = operand("f32", shape, () => 2 * random() - 1);
        for (const kind of KINDS) await compare(device, kind, x, dims, "dense");
      }
    },
  },
  {
    name: "argmax: the first of the largest, NaN before all",
    async run({ device }) {
      const random = numbers(26);
      const rows = [
        [1, 3, 3, 2, 3],
        [-1, -1, -1, -1, -1],
        [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
        [1, Number.NaN, Number.POSITIVE_INFINITY, Number.NaN, 0],
        [
          Number.NEGATIVE_INFINITY,
          Number.NEGATIVE_INFINITY,
          Number.NEGATIVE_INFINITY,
          Number.NEGATIVE_INFINITY,
          Number.NEGATIVE_INFINITY,
        ],
      ];
      for (const layout of ["dense", "padded", "stepped", "transposed"] as const) {
        await agree(device, { x: operand("f32", [5, 5], rows.flat(), layout) }, { out: result("i32", [5]) }, (d, v) =>
          d.argmax(v.x, v.out),
        );
      }
      for (const shape of [[1], [9], [3, 1], [2, 3, 67], [0, 4], [2, 5003], [1, 151_936]]) {
        const x = operand("f32", shape, () => Math.round(1000 * random()));
        await agree(device, { x }, { out: result("i32", shape.slice(0, -1)) }, (d, v) => d.argmax(v.x, v.out));
      }
    },
  },
];
