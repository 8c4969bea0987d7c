import { type BinaryName, constant, type Expr, select, sigmoid, type UnaryName } from "../../expr/expr.ts";
import { FILL, IDENTITY, Program } from "../../expr/program.ts";
import type { Device } from "../device.ts";
import {
  agree,
  type DeviceTest,
  EXACT,
  INPUT_LAYOUTS,
  numbers,
  OUTPUT_LAYOUTS,
  operand,
  result,
  type Tolerance,
} from "./harness.ts";

const NOT_FINITE = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0];

interface UnaryCase {
  /** Arguments are drawn from −range to range (from 0 where `positive`). */
  range: number;
  positive?: boolean;
  /** Tried as well, beside what is not finite. */
  also?: readonly number[];
  tolerance: Tolerance;
}

/** Functions of the processor must be exact; those made of polynomials may be off by some units in the last place. */
const UNARY: { readonly [K in UnaryName]: UnaryCase } = {
  neg: { range: 1e3, tolerance: EXACT },
  abs: { range: 1e3, tolerance: EXACT },
  sign: { range: 1, tolerance: EXACT },
  floor: { range: 10, also: [2, -2, 2.5, -2.5, 1e9, 0.99999994, 16777217], tolerance: EXACT },
  ceil: { range: 10, also: [2, -2, 2.5, -2.5, 1e9, 1.0000001], tolerance: EXACT },
  round: { range: 10, also: [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 8388609, 1e9], tolerance: EXACT },
  sqrt: { range: 1e3, positive: true, also: [-1, 1e-30, 1e30], tolerance: EXACT },
  exp: { range: 80, also: [100, 1e9, -100, -1e9, 1e-8], tolerance: { rel: 1e-6, abs: 1e-37 } },
  log: { range: 1e3, positive: true, also: [1, 1.0000001, 1e-30, 1e30, -1], tolerance: { rel: 1e-6, abs: 1e-7 } },
  sin: { range: 1e3, also: [1e-8], tolerance: { rel: 1e-6, abs: 1e-6 } },
  cos: { range: 1e3, also: [1e-8], tolerance: { rel: 1e-6, abs: 1e-6 } },
  tanh: { range: 12, also: [1e-8, 100, -100], tolerance: { rel: 2e-6, abs: 1e-7 } },
  erf: { range: 5, also: [1e-8, 100, -100], tolerance: { rel: 2e-6, abs: 3e-7 } },
};

const BINARY: { readonly [K in BinaryName]: Tolerance } = {
  add: EXACT,
  sub: EXACT,
  mul: EXACT,
  div: EXACT,
  pow: { rel: 1e-5 },
  max: EXACT,
  min: EXACT,
  lt: EXACT,
  le: EXACT,
  eq: EXACT,
  ne: EXACT,
};

/** Pairs that try ties, signs, and every mix of what is not finite. */
const PAIRS: readonly (readonly [number, number])[] = [...NOT_FINITE, 1, -1, 2, -2, 0.5].flatMap((a) =>
  [...NOT_FINITE, 1, -1, 2, -2, 3, 0.5].map((b) => [a, b] as const),
);

async function unaryTest(device: Device, name: UnaryName): Promise<void> {
  const { range, positive = false, also = [], tolerance } = UNARY[name];
  const program = Program.of(1, 0, ([x]) => x[name]());
  const random = numbers(name.length);
  const drawn = Array.from({ length: 1003 }, () => (positive ? random() : 2 * random() - 1) * range);
  const x = [...NOT_FINITE, ...also, ...drawn].map(Math.fround);
  await agree(device, { x: operand("f32", [x.length], x) }, { out: result("f32", [x.length], tolerance) }, (d, v) =>
    d.elementwise(program, [], [v.x], v.out),
  );
}

async function binaryTest(device: Device, name: BinaryName): Promise<void> {
  const program = Program.of(2, 0, ([a, b]) => a[name](b));
  const random = numbers(name.length);
  const small = (): number => Math.round(8 * random() - 4) / 2;
  const wide = (): number => 20 * random() - 10;
  const positive = (): number => 10 * random() + 0.01;
  const pairs = [
    ...PAIRS,
    ...Array.from({ length: 200 }, () => [small(), small()] as const),
    ...Array.from(
      { length: 501 },
      () => (name === "pow" ? [positive(), wide()] : [wide(), wide()]) as [number, number],
    ),
  ].map((pair) => pair.map(Math.fround));
  const n = pairs.length;
  await agree(
    device,
    { a: operand("f32", [n], (i) => pairs[i][0]), b: operand("f32", [n], (i) => pairs[i][1]) },
    { out: result("f32", [n], BINARY[name]) },
    (d, v) => d.elementwise(program, [], [v.a, v.b], v.out),
  );
}

/** Compound expressions as ops have them, and their gradients. */
const COMPOUND: readonly Program[] = [
  Program.of(1, 0, ([x]) => sigmoid(x)),
  Program.of(1, 0, ([x]) => x.mul(sigmoid(x))),
  Program.of(1, 0, ([x]) => x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5)),
  Program.of(2, 0, ([gate, up]) => gate.mul(sigmoid(gate)).mul(up)),
  Program.of(1, 0, ([x]) => constant(1).div(x.mul(x).add(1).sqrt())),
  Program.of(1, 0, ([x]) => select(x.le(0), 0, x)),
];

const SHAPES: readonly (readonly number[])[] = [
  [],
  [1],
  [7],
  [0],
  [3, 1],
  [1, 5],
  [4, 9],
  [2, 0, 3],
  [2, 3, 17],
  [2, 1, 3, 2, 5],
];

const ADD = Program.of(2, 0, ([a, b]) => a.add(b));

export const elementwiseTests: readonly DeviceTest[] = [
  ...(Object.keys(UNARY) as UnaryName[]).map((name) => ({
    name: `elementwise: ${name}`,
    run: ({ device }: { device: Device }) => unaryTest(device, name),
  })),
  ...(Object.keys(BINARY) as BinaryName[]).map((name) => ({
    name: `elementwise: ${name}`,
    run: ({ device }: { device: Device }) => binaryTest(device, name),
  })),
  {
    name: "elementwise: select takes one side, whatever the other is",
    async run({ device }) {
      const program = Program.of(3, 0, ([test, a, b]) => select(test, a, b));
      const test = [0, -0, 1, -1, Number.NaN, 0.5, 0, 1];
      const a = [Number.NaN, Number.POSITIVE_INFINITY, 1, 2, 3, 4, Number.NaN, 5];
      const b = [1, 2, Number.NaN, Number.NaN, 7, Number.POSITIVE_INFINITY, 3, Number.NaN];
      await agree(
        device,
        { test: operand("f32", [8], test), a: operand("f32", [8], a), b: operand("f32", [8], b) },
        { out: result("f32", [8]) },
        (d, v) => d.elementwise(program, [], [v.test, v.a, v.b], v.out),
      );
    },
  },
  {
    name: "elementwise: compound expressions and their gradients",
    async run({ device }) {
      const random = numbers(11);
      for (const program of COMPOUND) {
        const gradients = Array.from({ length: program.inputs }, (_, i) => program.gradient(i)!.program);
        const programs = [program, ...gradients];
        for (const p of programs) {
          const n = 333;
          const draw = (): number => 16 * random() - 8;
          const given = { a: operand("f32", [n], draw), b: operand("f32", [n], draw), c: operand("f32", [n], draw) };
          await agree(device, given, { out: result("f32", [n], { rel: 1e-5, abs: 1e-5 }) }, (d, v) =>
            d.elementwise(p, [], [v.a, v.b, v.c].slice(0, p.inputs), v.out),
          );
        }
      }
    },
  },
  {
    name: "elementwise: every shape and layout, set and accumulated",
    async run({ device }) {
      const random = numbers(2);
      const draw = (): number => 8 * random() - 4;
      for (const shape of SHAPES) {
        for (const [i, layout] of INPUT_LAYOUTS.entries()) {
          for (const [j, outLayout] of OUTPUT_LAYOUTS.entries()) {
            const other = INPUT_LAYOUTS[(3 * i + j) % INPUT_LAYOUTS.length];
            const given = { a: operand("f32", shape, draw, layout), b: operand("f32", shape, draw, other) };
            for (const accumulate of [false, true]) {
              const tolerance = accumulate ? { abs: 2e-6 } : EXACT;
              await agree(device, given, { out: result("f32", shape, tolerance, outLayout) }, (d, v) =>
                d.elementwise(ADD, [], [v.a, v.b], v.out, accumulate),
              );
            }
          }
        }
      }
    },
  },
  {
    name: "elementwise: numbers given at the call, and no tensors at all",
    async run({ device }) {
      const scale = Program.of(1, 2, ([x], [a, b]) => x.mul(a).add(b));
      for (const n of [1, 8, 33]) {
        await agree(device, { x: operand("f32", [n], (i) => i) }, { out: result("f32", [n]) }, (d, v) =>
          d.elementwise(scale, [2, -0.5], [v.x], v.out),
        );
        for (const dtype of ["f32", "bf16", "i32"] as const) {
          await agree(device, {}, { out: result(dtype, [3, n], EXACT, "padded") }, (d, v) =>
            d.elementwise(FILL, [-3], [], v.out),
          );
        }
      }
    },
  },
  {
    name: "elementwise: written over one of its inputs",
    async run({ device }) {
      for (const layout of OUTPUT_LAYOUTS) {
        const b = operand("f32", [5, 13], (i) => i / 4);
        const out = { into: operand("f32", [5, 13], (i) => 3 - i / 2, layout), tolerance: EXACT };
        await agree(device, { b }, { out }, (d, v) => d.elementwise(ADD, [], [v.out, v.b], v.out));
      }
    },
  },
  {
    name: "elementwise: between all element types",
    async run({ device }) {
      const types = (["f32", "bf16", "i32", "f64"] as const).filter((t) => device.dtypes.includes(t));
      const random = numbers(3);
      // Ties of the rounding to bf16, to both sides, and what is not finite.
      const ties = [1.00390625, 1.01171875, -1.00390625, 1.0039063, 3.3895314e38, 1e-40, ...NOT_FINITE];
      for (const from of types) {
        for (const to of types) {
          const special = to === "i32" || from === "i32" ? [] : ties;
          const draw = (i: number): number =>
            special[i] ?? (from === "i32" ? Math.round : Math.fround)(2e4 * random() - 1e4);
          for (const layout of ["dense", "stepped", "transposed"] as const) {
            await agree(
              device,
              { x: operand(from, [9, 11], draw, layout) },
              { out: result(to, [9, 11], EXACT, layout) },
              (d, v) => d.elementwise(IDENTITY, [], [v.x], v.out),
            );
          }
        }
      }
    },
  },
  {
    name: "elementwise: bf16 accumulated within one rounding",
    async run({ device }) {
      const random = numbers(4);
      const given = { x: operand("bf16", [77], () => random() - 0.5) };
      await agree(device, given, { out: result("bf16", [77], { rel: 2 ** -8 }) }, (d, v) =>
        d.elementwise(IDENTITY, [], [v.x], v.out, true),
      );
    },
  },
  {
    name: "elementwise: whole numbers stay exact",
    async run({ device }) {
      const programs: ((a: Expr, b: Expr) => Expr)[] = [
        (a, b) => a.add(b),
        (a, b) => a.sub(b),
        (a, b) => a.mul(b),
        (a, b) => a.max(b),
        (a, b) => a.lt(b),
        (a, b) => a.eq(b),
      ];
      const random = numbers(5);
      const draw = (): number => Math.round(4000 * random() - 2000);
      for (const body of programs) {
        const program = Program.of(2, 0, ([a, b]) => body(a, b));
        const given = { a: operand("i32", [61], draw), b: operand("i32", [61], draw) };
        await agree(device, given, { out: result("i32", [61]) }, (d, v) =>
          d.elementwise(program, [], [v.a, v.b], v.out),
        );
      }
      const large = { x: operand("i32", [5], [2 ** 31 - 1, -(2 ** 31), 16777217, -16777217, 0]) };
      await agree(device, large, { out: result("i32", [5]) }, (d, v) => d.elementwise(IDENTITY, [], [v.x], v.out));
    },
  },
  {
    name: "elementwise: numbers too small for a normal f32 are kept",
    async run({ device }) {
      const tiny = [1e-40, -1e-40, 1.4e-45, 1.1754942e-38];
      const given = { a: operand("f32", [4], tiny), b: operand("f32", [4], [1e-40, 0, 1.4e-45, -1e-45]) };
      await agree(device, given, { out: result("f32", [4]) }, (d, v) => d.elementwise(ADD, [], [v.a, v.b], v.out));
    },
  },
  {
    name: "elementwise: enough for every thread",
    async run({ device }) {
      const random = numbers(6);
      const draw = (): number => random();
      for (const [shape, layout] of [
        [[300_007], "dense"],
        [[611, 503], "transposed"],
        [[3, 100_003], "repeatedFirst"],
      ] as const) {
        const given = { a: operand("f32", shape, draw), b: operand("f32", shape, draw, layout) };
        await agree(device, given, { out: result("f32", shape) }, (d, v) => d.elementwise(ADD, [], [v.a, v.b], v.out));
      }
    },
  },
  {
    name: "elementwise: f64, where the device has it",
    async run({ device }) {
      if (!device.dtypes.includes("f64")) return;
      const program = Program.of(2, 0, ([a, b]) => a.mul(b).add(0.1));
      const given = {
        a: operand("f64", [5, 3], (i) => i / 3),
        b: operand("f64", [5, 3], (i) => 1 / (i + 1), "transposed"),
      };
      await agree(device, given, { out: result("f64", [5, 3], { rel: 1e-15 }) }, (d, v) =>
        d.elementwise(program, [], [v.a, v.b], v.out),
      );
    },
  },
];
