import { expect } from "bun:test";
import type { DType } from "../../dtype.ts";
import type { Device, MatmulOptions, View } from "../device.ts";
import { reference } from "../registry.ts";
import {
  agree,
  type Bench,
  type DeviceTest,
  type Layout,
  numbers,
  type Operand,
  OUTPUT_LAYOUTS,
  operand,
  result,
  values,
  valuesOf,
} from "./harness.ts";

interface Case {
  a: Operand;
  b: Operand;
  bias?: Operand;
  addend?: Operand;
  options?: MatmulOptions;
  layout?: Layout;
}

/** Σ|a·b|·|alpha| of every element of the result: what the error of a product is a share of. */
async function magnitudes({ a, b, options }: Case, shape: readonly number[]): Promise<number[]> {
  const positive = (o: Operand): Operand => operand("f32", o.shape, valuesOf(o).map(Math.abs));
  const { out } = await values(reference, { a: positive(a), b: positive(b) }, { out: result("f32", shape) }, (d, v) =>
    d.matmul(spread(v.a, shape), spread(v.b, shape), v.out),
  );
  return out.map((m) => m * Math.abs(options?.alpha ?? 1));
}

/** Batch dimensions repeated to the result's. */
function spread(view: View, shape: readonly number[]): View {
  const batch = shape.slice(0, -2);
  const lead = shape.length - view.shape.length;
  return {
    ...view,
    shape: [...batch, ...view.shape.slice(-2)],
    strides: [
      ...batch.map((n, d) => (d < lead || (view.shape[d - lead] === 1 && n !== 1) ? 0 : view.strides[d - lead])),
      ...view.strides.slice(-2),
    ],
  };
}

async function compare({ device, bounds }: Pick<Bench, "device" | "bounds">, c: Case): Promise<void> {
  const batch = Array.from({ length: Math.max(c.a.shape.length, c.b.shape.length) - 2 }, (_, i) =>
    Math.max(c.a.shape.at(-3 - i) ?? 1, c.b.shape.at(-3 - i) ?? 1),
  ).reverse();
  const shape = [...batch, c.a.shape.at(-2)!, c.b.shape.at(-1)!];
  const abs = (await magnitudes(c, shape)).map((m) => bounds.product * m + 1e-6);
  const { bias = operand("f32", [1], [0]), addend = bias } = c;
  const out = result("f32", shape, { abs, rel: 3e-7 }, c.layout);
  await agree(device, { a: c.a, b: c.b, bias, addend }, { out }, (d, v) =>
    d.matmul(spread(v.a, shape), spread(v.b, shape), v.out, {
      ...c.options,
      ...(c.bias && { bias: v.bias }),
      ...(c.addend && { addend: v.addend }),
    }),
  );
}

/** [m, k, n]: odd ends of every block size, single rows and columns. */
const SIZES: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [1, 7, 5],
  [5, 1, 7],
  [3, 8, 1],
  [2, 3, 4],
  [6, 16, 16],
  [7, 17, 19],
  [13, 33, 65],
  [16, 64, 31],
  [1, 129, 97],
  [1, 896, 128],
  [33, 100, 47],
  [67, 259, 131],
];

/** b as it lies for a product with a weight [n, k]: the transpose of rows. */
function weight(dtype: DType, k: number, n: number, draw: () => number): Operand {
  return operand(dtype, [k, n], draw, "transposed");
}

export const matmulTests: readonly DeviceTest[] = [
  ...(["f32", "bf16"] as const).flatMap((dtype) => [
    {
      name: `matmul: every size, b ${dtype}, as it lies and transposed`,
      async run(bench: Bench) {
        const random = numbers(31);
        const draw = (): number => 2 * random() - 1;
        for (const [m, k, n] of SIZES) {
          await compare(bench, { a: operand("f32", [m, k], draw), b: operand(dtype, [k, n], draw) });
          await compare(bench, { a: operand("f32", [m, k], draw), b: weight(dtype, k, n, draw) });
        }
      },
    },
    {
      name: `matmul: every layout, b ${dtype}`,
      async run(bench: Bench) {
        const random = numbers(32);
        const draw = (): number => 2 * random() - 1;
        const layouts: Layout[] = [
          "dense",
          "offset",
          "padded",
          "stepped",
          "transposed",
          "repeatedFirst",
          "repeatedLast",
        ];
        for (const [i, a] of layouts.entries()) {
          for (const [j, b] of layouts.entries()) {
            const layout = OUTPUT_LAYOUTS[(i + j) % OUTPUT_LAYOUTS.length];
            await compare(bench, { a: operand("f32", [9, 21], draw, a), b: operand(dtype, [21, 18], draw, b), layout });
          }
        }
      },
    },
    {
      name: `matmul: alpha, accumulate and bias, or an addend, b ${dtype}`,
      async run(bench: Bench) {
        const random = numbers(33);
        const draw = (): number => 2 * random() - 1;
        for (const [m, k, n] of [
          [1, 40, 33],
          [8, 19, 16],
          [37, 70, 50],
        ]) {
          for (const alpha of [undefined, 1, 0.5, -2, 0]) {
            for (const accumulate of [false, true]) {
              for (const bias of [undefined, operand("f32", [n], draw), operand("f32", [n], draw, "stepped")]) {
                const a = operand("f32", [m, k], draw);
                const layout = accumulate ? "padded" : "dense";
                await compare(bench, { a, b: weight(dtype, k, n, draw), bias, options: { alpha, accumulate }, layout });
              }
            }
            for (const layout of ["dense", "padded", "stepped"] as const) {
              const [a, b] = [operand("f32", [m, k], draw), weight(dtype, k, n, draw)];
              const addend = operand("f32", [m, n], draw, layout);
              await compare(bench, { a, b, addend, options: { alpha }, layout: "offset" });
              await compare(bench, { a, b, addend, bias: operand("f32", [n], draw), options: { alpha } });
            }
          }
        }
      },
    },
  ]),
  {
    name: "matmul: batches, repeated on either side",
    async run(bench) {
      const random = numbers(34);
      const draw = (): number => 2 * random() - 1;
      for (const [a, b] of [
        [
          [3, 5, 7],
          [3, 7, 4],
        ],
        [
          [3, 5, 7],
          [7, 4],
        ],
        [
          [5, 7],
          [3, 7, 4],
        ],
        [
          [2, 1, 5, 7],
          [3, 7, 4],
        ],
        [
          [0, 5, 7],
          [0, 7, 4],
        ],
        [
          [2, 3, 9, 6],
          [2, 3, 6, 9],
        ],
      ]) {
        for (const layout of ["dense", "transposed"] as const) {
          await compare(bench, { a: operand("f32", a, draw, layout), b: operand("f32", b, draw), layout });
        }
      }
    },
  },
  {
    name: "matmul: of nothing gives nothing, or the bias",
    async run(bench) {
      const none = (): number => 0;
      const bias = operand("f32", [4], [1, 2, 3, 4]);
      for (const [m, k, n] of [
        [0, 3, 4],
        [3, 0, 4],
        [3, 4, 0],
        [0, 0, 0],
      ]) {
        const [a, b] = [operand("f32", [m, k], none), operand("f32", [k, n], none)];
        await compare(bench, { a, b });
        await compare(bench, { a, b, options: { accumulate: true } });
        if (n === 4) await compare(bench, { a, b, bias });
      }
    },
  },
  {
    name: "matmul: NaN and infinity stay in their rows and columns",
    async run(bench) {
      const random = numbers(35);
      const positive = (): number => random() + 0.5;
      for (const dtype of ["f32", "bf16"] as const) {
        for (const special of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
          const at = (cell: number) => (i: number) => (i === cell ? special : positive());
          const b = operand(dtype, [23, 19], positive, "transposed");
          await compare(bench, { a: operand("f32", [11, 23], at(3 * 23 + 22)), b });
          await compare(bench, {
            a: operand("f32", [11, 23], positive),
            b: operand(dtype, [23, 19], at(5), "transposed"),
          });
        }
        const zero = { a: operand("f32", [2, 3], [0, 1, 1, 1, 1, 1]), b: operand(dtype, [3, 1], [Infinity, 1, 1]) };
        await compare(bench, zero);
      }
    },
  },
  {
    name: "matmul: a row's result depends on that row alone, among few rows and among many",
    async run({ device }) {
      const random = numbers(36);
      const [m, k, n] = [37, 130, 70];
      for (const dtype of ["f32", "bf16"] as const) {
        const rows = Array.from({ length: m * k }, () => Math.fround(2 * random() - 1));
        const b = weight(dtype, k, n, () => 2 * random() - 1);
        const product = async (first: number, count: number): Promise<number[]> => {
          const a = operand("f32", [count, k], rows.slice(first * k, (first + count) * k));
          const done = await values(device, { a, b }, { out: result("f32", [count, n]) }, (d, v) =>
            d.matmul(v.a, v.b, v.out),
          );
          return done.out;
        };
        const whole = await product(0, m);
        const rowsOf = (first: number, count: number) => whole.slice(first * n, (first + count) * n);
        for (const [first, count] of [
          [1, 33],
          [20, 9],
        ]) {
          expect(await product(first, count)).toEqual(rowsOf(first, count));
        }
        const few = await product(3, 8);
        few.forEach((value, i) => {
          expect(Math.abs(value - rowsOf(3, 8)[i]!)).toBeLessThan(1e-4);
        });
        for (const [first, count] of [
          [3, 1],
          [7, 1],
          [10, 1],
          [4, 2],
          [5, 5],
        ]) {
          expect(await product(first, count)).toEqual(few.slice((first - 3) * n, (first - 3 + count) * n));
        }
      }
    },
  },
  {
    name: "matmul: a row's result depends on that row alone in any number of rows, by the means for few and for many",
    async run({ device }) {
      const random = numbers(37);
      const [m, k, n] = [21, 192, 70];
      for (const dtype of ["f32", "bf16", "q8_0", "q4_1"] as const) {
        if (!device.dtypes.includes(dtype)) continue;
        const b = weight(dtype, k, n, () => 2 * random() - 1);
        const cells = Array.from({ length: m * k }, () => Math.fround(2 * random() - 1));
        for (const rows of ["few", "many"] as const) {
          const product = async (first: number, count: number): Promise<number[]> => {
            const a = operand("f32", [count, k], cells.slice(first * k, (first + count) * k));
            const done = await values(device, { a, b }, { out: result("f32", [count, n]) }, (d, v) =>
              d.matmul(v.a, v.b, v.out, { rows }),
            );
            return done.out;
          };
          const whole = await product(0, m);
          for (const [first, count] of [
            [0, 1],
            [20, 1],
            [3, 2],
            [4, 5],
            [5, 9],
            [2, 17],
          ] as const) {
            expect(await product(first, count)).toEqual(whole.slice(first * n, (first + count) * n));
          }
        }
      }
    },
  },
  {
    name: "matmul: enough for every thread",
    async run(bench) {
      const random = numbers(37);
      const draw = (): number => 2 * random() - 1;
      await compare(bench, { a: operand("f32", [201, 313], draw), b: weight("bf16", 313, 407, draw) });
      await compare(bench, { a: operand("f32", [313, 201], draw, "transposed"), b: operand("f32", [201, 407], draw) });
      await compare(bench, { a: operand("f32", [1, 1031], draw), b: weight("bf16", 1031, 2053, draw) });
    },
  },
  {
    name: "matmul: f64, where the device has it",
    async run({ device }: { device: Device }) {
      if (!device.dtypes.includes("f64")) return;
      const given = { a: operand("f64", [3, 5], (i) => i / 7), b: operand("f64", [5, 4], (i) => 1 / (i + 1)) };
      await agree(device, given, { out: result("f64", [3, 4], { rel: 1e-14 }) }, (d, v) => d.matmul(v.a, v.b, v.out));
    },
  },
];
