import { expect } from "bun:test";
import { IDENTITY } from "../../expr/program.ts";
import { agree, blocks, type DeviceTest, EXACT, type Layout, numbers, operand, result, values } from "./harness.ts";

const KEYS = [
  { seed: [0, 0], stream: 0 },
  { seed: [0xffffffff, 0xffffffff], stream: 0xffffffff },
  { seed: [0x12345678, 0x9abcdef0], stream: 7 },
] as const;

export const rowTests: readonly DeviceTest[] = [
  {
    name: "random: uniform numbers are the reference's, bit for bit",
    async run({ device }) {
      for (const key of KEYS) {
        for (const shape of [[], [1], [3], [4], [6, 7], [0], [4097], [3, 10_001]]) {
          for (const layout of ["dense", "offset"] as const) {
            await agree(device, {}, { out: result("f32", shape, EXACT, layout) }, (d, v) =>
              d.random("uniform", key, v.out),
            );
          }
        }
      }
    },
  },
  {
    name: "random: normal numbers are the reference's",
    async run({ device }) {
      for (const key of KEYS) {
        for (const shape of [[1], [2], [3], [4], [5], [37], [20_003]]) {
          const out = result("f32", shape, { rel: 2e-6, abs: 2e-6 });
          await agree(device, {}, { out }, (d, v) => d.random("normal", key, v.out));
        }
      }
    },
  },
  {
    name: "dropout: drops what the reference drops",
    async run({ device }) {
      const random = numbers(41);
      for (const key of KEYS) {
        for (const p of [0.05, 0.5, 0.9]) {
          for (const [rows, features] of [
            [1, 1],
            [3, 4],
            [5, 7],
            [2, 35],
            [0, 4],
            [61, 96],
          ]) {
            const given = {
              x: operand("f32", [rows, features], (i) => (i === 2 ? Infinity : 4 * random() - 2), "padded"),
              place: operand("i32", [rows, 2], () => Math.floor(5000 * random())),
            };
            const out = () => ({ out: result("f32", [rows, features], { rel: 3e-7 }) });
            await agree(device, given, out(), (d, v) => d.dropout(v.x, v.place, p, key, v.out));
            await agree(device, given, out(), (d, v) => {
              d.elementwise(IDENTITY, [], [v.x], v.out);
              d.dropout(v.out, v.place, p, key, v.out);
            });
          }
        }
      }
    },
  },
  {
    name: "dropout: a row loses the same features wherever it lies",
    async run({ device }) {
      const place = [3, 9, 0, 1, 7, 2];
      const run = async (order: number[]) => {
        const rows = operand(
          "i32",
          [order.length, 2],
          order.flatMap((r) => place.slice(2 * r, 2 * r + 2)),
        );
        const some = operand("f32", [order.length, 50], () => 1);
        const out = result("f32", [order.length, 50]);
        return (await values(device, { some, rows }, { out }, (d, v) => d.dropout(v.some, v.rows, 0.5, KEYS[2], v.out)))
          .out;
      };
      const whole = await run([0, 1, 2]);
      expect(await run([2])).toEqual(whole.slice(100));
      expect(await run([1, 0])).toEqual([...whole.slice(50, 100), ...whole.slice(0, 50)]);
    },
  },
  {
    name: "gatherRows: rows of any type",
    async run({ device }) {
      const random = numbers(42);
      for (const dtype of ["f32", "bf16", "i32"] as const) {
        for (const [size, features, n] of [
          [5, 1, 3],
          [7, 13, 9],
          [4, 64, 0],
          [3, 0, 2],
          [300, 96, 1000],
        ]) {
          for (const layout of ["dense", "padded", "transposed"] as Layout[]) {
            const given = {
              table: operand(dtype, [size, features], () => Math.round(200 * random() - 100), layout),
              index: operand("i32", [n], () => Math.floor(size * random()), layout === "dense" ? "dense" : "stepped"),
            };
            const out = result(dtype === "i32" ? "i32" : "f32", [n, features], EXACT, layout);
            await agree(device, given, { out }, (d, v) => d.gatherRows(v.table, v.index, v.out));
          }
        }
      }
    },
  },
  {
    name: "scatterRows: set, and added in order where a row comes twice",
    async run({ device }) {
      const random = numbers(43);
      for (const [size, features, n] of [
        [5, 1, 3],
        [7, 13, 9],
        [4, 64, 0],
        [50, 96, 300],
      ]) {
        for (const layout of ["dense", "padded", "stepped"] as Layout[]) {
          const src = operand("f32", [n, features], () => 2 * random() - 1, layout);
          const any = operand("i32", [n], () => Math.floor(size * random()));
          const once = operand("i32", [Math.min(n, size)], (i) => size - 1 - i);
          const first = operand("f32", [Math.min(n, size), features], () => 2 * random() - 1, layout);
          const into = result("f32", [size, features], EXACT, layout);
          await agree(device, { src, any }, { into }, (d, v) => d.scatterRows(v.src, v.any, v.into, "add"));
          await agree(device, { first, once }, { into }, (d, v) => d.scatterRows(v.first, v.once, v.into, "set"));
        }
      }
    },
  },
  {
    name: "gatherRows, scatterRows: rows of blocks move as they lie",
    async run({ device }) {
      if (!device.readsBlockKeys) return;
      const random = numbers(46);
      const draw = (): number => 2 * random() - 1;
      for (const [size, features] of [
        [5, 32],
        [9, 128],
      ] as const) {
        const given = {
          from: blocks([3, features], draw),
          copied: blocks([3, features], draw),
          into: blocks([size, features], draw),
          to: operand("i32", [3], [size - 1, 0, 2]),
          order: operand("i32", [3], [2, 1, 2]),
          all: operand("i32", [size], (i) => i),
        };
        const out = result("f32", [size, features]);
        await agree(device, given, { out }, (d, v) => {
          d.gatherRows(v.from, v.order, v.copied);
          d.scatterRows(v.copied, v.to, v.into, "set");
          d.gatherRows(v.into, v.all, v.out);
        });
      }
    },
  },
  {
    name: "rope: rotates each half against the other, and back",
    async run({ device }) {
      const random = numbers(44);
      for (const [rows, heads, size] of [
        [1, 1, 2],
        [3, 2, 8],
        [5, 3, 14],
        [7, 2, 64],
        [0, 2, 8],
        [200, 14, 64],
      ]) {
        for (const inverse of [false, true]) {
          for (const layout of ["dense", "padded", "transposed"] as Layout[]) {
            if (layout === "transposed" && rows === 200) continue;
            const given = {
              x: operand("f32", [rows, heads, size], () => 4 * random() - 2, layout),
              positions: operand("i32", [rows], (i) => [0, 1, 32_767, 100, 4096][i % 5] + (i > 4 ? i : 0)),
              frequencies: operand("f32", [size / 2], (i) => 1e6 ** ((-2 * i) / size)),
            };
            const out = result("f32", [rows, heads, size], { abs: 1e-5 }, layout);
            await agree(device, given, { out }, (d, v) => d.rope(v.x, v.positions, v.frequencies, inverse, v.out));
          }
        }
      }
    },
  },
  {
    name: "rmsNorm: values and the scale of each row",
    async run({ device }) {
      const random = numbers(45);
      for (const [shape, layout] of [
        [[1], "dense"],
        [[1, 1], "dense"],
        [[3, 7], "padded"],
        [[5, 896], "dense"],
        [[2, 3, 33], "transposed"],
        [[0, 8], "dense"],
        [[301, 130], "dense"],
      ] as const) {
        const given = {
          x: operand("f32", shape, () => 6 * random() - 3, layout),
          weight: operand("f32", shape.slice(-1), () => 2 * random()),
        };
        const outputs = {
          out: result("f32", shape, { rel: 3e-6, abs: 1e-7 }),
          rstd: result("f32", shape.slice(0, -1), { rel: 2e-6 }),
        };
        await agree(device, given, outputs, (d, v) => d.rmsNorm(v.x, v.weight, 1e-6, v.out, v.rstd));
      }
      const zero = { x: operand("f32", [2, 9], () => 0), weight: operand("f32", [9], () => 1) };
      const outputs = { out: result("f32", [2, 9]), rstd: result("f32", [2], { rel: 2e-6 }) };
      await agree(device, zero, outputs, (d, v) => d.rmsNorm(v.x, v.weight, 1e-6, v.out, v.rstd));
    },
  },
  {
    name: "rmsNormBackward: to the input, written or added, to the weight, or both",
    async run({ device }) {
      const random = numbers(46);
      for (const [shape, layout] of [
        [[1, 1], "dense"],
        [[3, 7], "padded"],
        [[5, 896], "dense"],
        [[2, 3, 33], "transposed"],
        [[0, 8], "dense"],
        [[301, 130], "dense"],
      ] as const) {
        const n = shape.at(-1)!;
        const rows = shape.slice(0, -1).reduce<number>((a, b) => a * b, 1);
        const given = {
          grad: operand("f32", shape, () => 2 * random() - 1, layout),
          x: operand("f32", shape, () => 6 * random() - 3),
          weight: operand("f32", [n], () => 2 * random()),
          rstd: operand("f32", shape.slice(0, -1), () => 0.4 + 0.4 * random()),
        };
        const gradX = result("f32", shape, { rel: 1e-5, abs: 1e-5 });
        const gradWeight = result("f32", [n], { abs: 2e-6 * (rows + 1) });
        await agree(device, given, { gradX, gradWeight }, (d, v) =>
          d.rmsNormBackward(v.grad, v.x, v.weight, v.rstd, v.gradX, v.gradWeight),
        );
        await agree(device, given, { gradX }, (d, v) =>
          d.rmsNormBackward(v.grad, v.x, v.weight, v.rstd, v.gradX, undefined),
        );
        await agree(device, given, { gradX, gradWeight }, (d, v) =>
          d.rmsNormBackward(v.grad, v.x, v.weight, v.rstd, v.gradX, v.gradWeight, true),
        );
        await agree(device, given, { gradWeight }, (d, v) =>
          d.rmsNormBackward(v.grad, v.x, v.weight, v.rstd, undefined, v.gradWeight),
        );
      }
    },
  },
  {
    name: "softmax: rows of every length; what is no number fills its row, what is −∞ has no part",
    async run({ device }) {
      if (!device.softmax) return;
      const random = numbers(48);
      // The distance to the largest, up to 40 here, is rounded to f32 before its exponential is taken.
      const near = { rel: 5e-6, abs: 1e-30 };
      for (const [shape, layout] of [
        [[1], "dense"],
        [[1, 1], "padded"],
        [[5, 3], "dense"],
        [[3, 16], "padded"],
        [[2, 3, 67], "offset"],
        [[4, 33], "transposed"],
        [[0, 8], "dense"],
        [[301, 130], "dense"],
        [[3, 5003], "padded"],
      ] as const) {
        const x = operand("f32", shape, () => 40 * random() - 20, layout);
        const out = result("f32", shape, near);
        await agree(device, { x }, { out }, (d, v) => d.softmax!(v.x, v.out));
      }
      const [infinity, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
      const rows = [
        [0, -infinity, 1, -infinity, 2],
        [-infinity, -infinity, -infinity, -infinity, -infinity],
        [0, 1, infinity, 2, 3],
        [nan, 1, 2, 3, 4],
        [1, 2, 3, 4, nan],
        [-3e38, 3e38, 3e38, 0, -1],
        [88, 0, -88, 1e-40, -0],
        [1000, 1000, 1000, 1000, 1000],
      ];
      for (const length of [5, 67]) {
        const x = operand(
          "f32",
          [rows.length, length],
          rows.flatMap((row) => Array.from({ length }, (_, i) => row[Math.min(4, length - 1 - i)]!)),
        );
        const out = result("f32", [rows.length, length], near);
        await agree(device, { x }, { out }, (d, v) => d.softmax!(v.x, v.out));
      }
    },
  },
  {
    name: "swiglu and its gradients: values of every size",
    async run({ device }) {
      const random = numbers(49);
      const special = [
        0,
        -0,
        20,
        -20,
        88,
        -87,
        100,
        -100,
        Number.POSITIVE_INFINITY,
        Number.NEGATIVE_INFINITY,
        Number.NaN,
      ];
      for (const shape of [[1], [3, 5], [0, 4], [11], [7, 33], [2, 3, 18], [5, 4099]]) {
        for (const layout of ["dense", "padded", "transposed"] as Layout[]) {
          const given = {
            gate: operand("f32", shape, (i) => (shape[0] === 11 ? special[i]! : 16 * random() - 8), layout),
            up: operand("f32", shape, () => 4 * random() - 2, layout),
            grad: operand("f32", shape, () => 4 * random() - 2, layout),
          };
          const near = { rel: 2e-6, abs: 4e-7 };
          const out = result("f32", shape, near, layout);
          await agree(device, given, { out }, (d, v) => d.swiglu(v.gate, v.up, v.out));
          const gradients = {
            gradGate: result("f32", shape, near, layout),
            gradUp: result("f32", shape, near, layout),
          };
          await agree(device, given, gradients, (d, v) => d.swigluBackward(v.grad, v.gate, v.up, v.gradGate, v.gradUp));
          await agree(device, given, gradients, (d, v) => {
            d.elementwise(IDENTITY, [], [v.gate], v.gradGate);
            d.elementwise(IDENTITY, [], [v.up], v.gradUp);
            d.swigluBackward(v.grad, v.gradGate, v.gradUp, v.gradGate, v.gradUp);
          });
        }
      }
    },
  },
];
