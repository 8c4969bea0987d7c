import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { constant, select, sigmoid } from "../../expr/expr.ts";
import { IDENTITY, Program } from "../../expr/program.ts";
import { Storage } from "../../memory.ts";
import type { View } from "../device.ts";
import { CpuDevice } from "./device.ts";
import { denseStrides, Pair, type ViewSpec } from "./testing.ts";

const best = new CpuDevice({ threads: 2 });
const devices = [best, ...(best.info.isa === "wasm" ? [] : [new CpuDevice({ threads: 2, isa: "wasm" })])];
afterAll(async () => {
  for (const device of devices) await device.dispose();
});

const swiglu = Program.of(2, 0, ([a, b]) => a.mul(sigmoid(a)).mul(b));
const programs: Record<string, Program> = {
  swiglu,
  copy: IDENTITY,
  fill: Program.of(0, 1, (_x, [p]) => p),
  axpy: Program.of(2, 1, ([a, b], [p]) => a.mul(p).add(b)),
  parts: Program.of(2, 1, ([a, b], [p]) =>
    select(a.lt(b), a.max(p).floor(), b.sign().sub(a.ceil()).min(2)).add(a.round()).add(b.abs().sqrt()),
  ),
  compare: Program.of(2, 0, ([a, b]) => a.eq(b).add(a.ne(b).mul(2)).add(a.le(b).mul(4))),
  log: Program.of(1, 0, ([x]) => x.log()),
  tanh: Program.of(1, 0, ([x]) => x.tanh()),
  divide: Program.of(2, 0, ([a, b]) => a.div(b).neg()),
  // No vector code for sin: the reference's loop.
  sin: Program.of(1, 0, ([x]) => x.sin().exp()),
};
const SPECIAL = [0, -0, 1, -1, 0.5, -2.5, 1e38, -1e-40, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];

describe.each(devices.map((device) => [device.info.isa, device] as const))("cpu device, %s", (_isa, device) => {
  const pair = new Pair(device);
  const make = (spec: ViewSpec) => pair.make(spec);

  test.each(Object.keys(programs))("elementwise %s, lengths around a vector and over several threads", async (name) => {
    const program = programs[name]!;
    for (const n of [1, 3, 4, 5, 8, 9, 17, 2048, 2049, 70_001]) {
      const inputs = Array.from({ length: program.inputs }, () => make({ shape: [n] }));
      const out = make({ shape: [n] });
      pair.run((d, side) =>
        d.elementwise(
          program,
          [0.75],
          inputs.map((view) => view[side]),
          out[side],
        ),
      );
      expect(await pair.distance(out)).toBeLessThan(1e-6);
    }
  });

  test.each(Object.keys(programs))("elementwise %s of infinities, NaN, zeros", async (name) => {
    const program = programs[name]!;
    const shape = [SPECIAL.length, SPECIAL.length];
    const inputs = [make({ shape, strides: [1, 0], data: SPECIAL }), make({ shape, strides: [0, 1], data: SPECIAL })];
    const out = make({ shape });
    pair.run((d, side) =>
      d.elementwise(
        program,
        [0.75],
        inputs.slice(0, program.inputs).map((v) => v[side]),
        out[side],
      ),
    );
    const [got, expected] = await pair.values(out);
    got.forEach((value, i) => {
      const wanted = Math.fround(expected[i]!);
      const near = Math.abs(value - wanted) <= 1e-6 * Math.abs(wanted) + 1e-43;
      expect([i, value, Object.is(value, wanted) || value === wanted || near]).toEqual([i, value, true]);
    });
  });

  test("elementwise over views: broadcast, strided, transposed, empty, in place, accumulating, any types", async () => {
    const layouts: [ViewSpec, ViewSpec, ViewSpec][] = [
      [{ shape: [13, 37] }, { shape: [13, 37], strides: [0, 1] }, { shape: [13, 37], strides: [50, 1], offset: 3 }],
      [{ shape: [13, 37], strides: [1, 0] }, { shape: [13, 37] }, { shape: [13, 37] }],
      [{ shape: [5, 37], strides: [1, 5] }, { shape: [5, 37] }, { shape: [5, 37] }],
      [
        { shape: [3, 5, 37], strides: [500, 37, 1] },
        { shape: [3, 5, 37], strides: [37, 0, 1], dtype: "bf16" },
        { shape: [3, 5, 37] },
      ],
      [{ shape: [3, 5, 37] }, { shape: [3, 5, 37], strides: [0, 0, 0] }, { shape: [3, 5, 37], dtype: "bf16" }],
      [
        { shape: [2, 3, 4, 5], strides: [0, 20, 5, 1] },
        { shape: [2, 3, 4, 5], strides: [3, 1, 0, 0] },
        { shape: [2, 3, 4, 5] },
      ],
      [{ shape: [0, 7] }, { shape: [0, 7] }, { shape: [0, 7] }],
      [{ shape: [] }, { shape: [] }, { shape: [] }],
      [{ shape: [6], dtype: "i32" }, { shape: [6] }, { shape: [6] }],
    ];
    for (const [a, b, o] of layouts) {
      for (const accumulate of [false, true]) {
        const [x, y, out] = [make(a), make(b), make(o)];
        pair.run((d, side) => d.elementwise(swiglu, [], [x[side], y[side]], out[side], accumulate));
        expect([a.shape, (await pair.distance(out)) < (o.dtype === "bf16" ? 4e-3 : 1e-6)]).toEqual([a.shape, true]);
      }
    }
    const [x, y] = [make({ shape: [999] }), make({ shape: [999] })];
    pair.run((d, side) => d.elementwise(swiglu, [], [x[side], y[side]], x[side]));
    expect(await pair.distance(x)).toBeLessThan(1e-6);
  });

  test("reductions along rows, down columns, over all", async () => {
    const cases: [number[], number[]][] = [
      [[1000], [0]],
      [[70_001], [0]],
      [
        [13, 77],
        [1, 0],
      ],
      [
        [13, 77],
        [0, 1],
      ],
      [
        [500, 130],
        [0, 1],
      ],
      [
        [4, 13, 77],
        [1, 0, 0],
      ],
      [
        [4, 13, 77],
        [0, 0, 1],
      ],
      [
        [4, 13, 77],
        [13, 1, 0],
      ],
      [
        [5, 6, 7],
        [0, 1, 0],
      ],
      [
        [0, 7],
        [0, 1],
      ],
      [
        [7, 0],
        [1, 0],
      ],
      [
        [1, 1],
        [0, 0],
      ],
    ];
    for (const [shape, strides] of cases) {
      for (const kind of ["sum", "max", "min"] as const) {
        for (const accumulate of [false, true]) {
          const [a, b, out] = [make({ shape }), make({ shape }), make({ shape, strides })];
          pair.run((d, side) => d.reduce(kind, swiglu, [], [a[side], b[side]], out[side], accumulate));
          expect([shape, strides, kind, (await pair.distance(out)) < 3e-6]).toEqual([shape, strides, kind, true]);
        }
      }
    }
  });

  test("a program that is not 0 for 0 is not counted beyond the end of a row", async () => {
    const program = Program.of(1, 0, ([x]) => x.exp().add(constant(5)));
    const [x, out] = [make({ shape: [3, 13] }), make({ shape: [3, 13], strides: [1, 0] })];
    pair.run((d, side) => d.reduce("sum", program, [], [x[side]], out[side]));
    expect(await pair.distance(out)).toBeLessThan(1e-6);
  });

  test("matrix products of every layout around the tile's edges", async () => {
    const size = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(64, 97, 256, 257, 300));
    const options = fc.record({
      ...{ m: size, n: size, k: size, batch: fc.integer({ min: 1, max: 3 }), shared: fc.boolean() },
      ...{
        transposedA: fc.boolean(),
        transposedB: fc.boolean(),
        element: fc.constantFrom("f32" as const, "bf16" as const),
      },
      ...{
        alpha: fc.constantFrom(1, -0.5),
        add: fc.constantFrom("nothing", "out", "bias"),
        slack: fc.constantFrom(0, 3),
      },
    });
    await fc.assert(
      fc.asyncProperty(
        options,
        async ({ m, n, k, batch, shared, transposedA, transposedB, element, alpha, add, slack }) => {
          const matrix = (rows: number, columns: number, transposed: boolean, step: boolean, dtype: "f32" | "bf16") => {
            const inner = transposed ? rows : columns;
            const strides = transposed ? [1, inner + slack] : [inner + slack, 1];
            const outer = (transposed ? columns : rows) * (inner + slack);
            return make({ shape: [batch, rows, columns], strides: [step ? outer : 0, ...strides], dtype });
          };
          const a = matrix(m, k, transposedA, true, "f32");
          const b = matrix(k, n, transposedB, !shared, element);
          const out = matrix(m, n, false, true, "f32");
          const bias = make({ shape: [n] });
          pair.run((d, side) =>
            d.matmul(a[side], b[side], out[side], {
              ...{ alpha, accumulate: add === "out", bias: add === "bias" ? bias[side] : undefined },
            }),
          );
          expect(await pair.distance(out)).toBeLessThan(2e-6);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("a row of a product does not depend on the other rows, nor anything on the number of threads", async () => {
    const [k, n] = [300, 130];
    const results: Uint8Array[] = [];
    for (const threads of [1, 2, 4]) {
      const other = new CpuDevice({ threads, isa: device.info.isa });
      const own = new Pair(other);
      const [a] = own.make({ shape: [97, k] });
      const [b] = own.make({ shape: [k, n], strides: [1, k], dtype: "bf16" });
      const [out] = own.make({ shape: [97, n] });
      const [row] = own.make({ shape: [1, n] });
      const [sum] = own.make({ shape: [97, n], strides: [0, 1] });
      other.matmul(a, b, out);
      other.matmul({ ...a, offset: 60 * k, shape: [1, k] }, b, row);
      other.reduce("sum", IDENTITY, [], [out], sum);
      const all = await other.read(out.storage, 0, 4 * 97 * n);
      expect(await other.read(row.storage, 0, 4 * n)).toEqual(all.slice(4 * 60 * n, 4 * 61 * n));
      results.push(all, await other.read(sum.storage, 0, 4 * n));
      await other.dispose();
    }
    expect(results[2]).toEqual(results[0]!);
    expect(results[4]).toEqual(results[0]!);
    expect(results[3]).toEqual(results[1]!);
    expect(results[5]).toEqual(results[1]!);
  });

  test("rmsNorm and its gradients", async () => {
    for (const [rows, n, dtype] of [
      [3, 5, "f32"],
      [17, 896, "bf16"],
      [40, 64, "f32"],
      [1, 3, "f32"],
    ] as const) {
      const wide = { shape: [rows, n], strides: [n + 3, 1] };
      const [x, grad, weight] = [make(wide), make(wide), make({ shape: [n], dtype })];
      const [out, rstd, gradX, gradWeight] = [make(wide), make({ shape: [rows] }), make(wide), make({ shape: [n] })];
      pair.run((d, side) => {
        d.rmsNorm(x[side], weight[side], 1e-6, out[side], rstd[side]);
        d.rmsNormBackward(grad[side], x[side], weight[side], rstd[side], gradX[side], gradWeight[side]);
      });
      expect(await pair.distance(out, rstd, gradX, gradWeight)).toBeLessThan(3e-6);
    }
  });

  test("rope there and back, other positions in between", async () => {
    for (const [rows, heads, size] of [
      [5, 3, 64],
      [7, 2, 6],
      [1, 14, 64],
    ] as const) {
      for (const [inverse, first] of [
        [false, 0],
        [true, 0],
        [false, 1000],
        [true, 1000],
      ] as const) {
        const x = make({ shape: [rows, heads, size], strides: [heads * size + 10, size, 1] });
        const positions = make({
          shape: [rows],
          dtype: "i32",
          data: Array.from({ length: rows }, (_, i) => first + i * 117),
        });
        const frequencies = make({ shape: [size / 2] });
        const out = make({ shape: [rows, heads, size] });
        pair.run((d, side) => d.rope(x[side], positions[side], frequencies[side], inverse, out[side]));
        expect(await pair.distance(out)).toBeLessThan(1e-6);
      }
    }
  });

  test("dropout takes the reference's mask bit for bit", async () => {
    for (const [rows, n, p] of [
      [5, 13, 0.1],
      [3, 896, 0.5],
      [2, 70, 0.999],
      [2, 8, 0],
      [300, 33, 0.25],
    ] as const) {
      const x = make({ shape: [rows, n] });
      const places = make({
        shape: [rows, 2],
        dtype: "i32",
        data: Array.from({ length: 2 * rows }, (_, i) => (i * 37) % 1000),
      });
      const out = make({ shape: [rows, n] });
      const key = { seed: [123_456_789, 4_000_000_000] as const, stream: 3_000_000_001 };
      pair.run((d, side) => d.dropout(x[side], places[side], p, key, out[side]));
      const [got, expected] = await pair.values(out);
      expect(got.map((value) => (value === 0 ? 0 : 1))).toEqual(expected.map((value) => (value === 0 ? 0 : 1)));
      expect(await pair.distance(out)).toBeLessThan(3e-7);
    }
  });

  test("loss over a vocabulary and its gradients; rows without a target", async () => {
    for (const [rows, size, vocabulary, dtype] of [
      [5, 16, 50, "f32"],
      [9, 24, 5001, "bf16"],
      [3, 24, 2048, "f32"],
      [2, 3, 1, "f32"],
    ] as const) {
      const data = Array.from({ length: rows }, (_, i) => (i === 1 ? -1 : (i * 977) % vocabulary));
      const [hidden, weight] = [make({ shape: [rows, size] }), make({ shape: [vocabulary, size], dtype })];
      const [targets, scale, loss] = [
        make({ shape: [rows], dtype: "i32", data }),
        make({ shape: [rows] }),
        make({ shape: [rows] }),
      ];
      const [gradHidden, gradWeight] = [make({ shape: [rows, size] }), make({ shape: [vocabulary, size] })];
      for (const gradients of [{}, { gradHidden, gradWeight }]) {
        pair.run((d, side) => {
          const given = Object.entries({ hidden, weight, targets, scale, loss, ...gradients });
          const args = Object.fromEntries(given.map(([name, views]) => [name, views[side]]));
          d.linearCrossEntropy(args as unknown as Parameters<typeof d.linearCrossEntropy>[0]);
        });
      }
      expect(await pair.distance(loss, gradHidden, gradWeight)).toBeLessThan(1e-5);
    }
  });

  test("logits of any size: the loss neither overflows nor vanishes", async () => {
    for (const factor of [1e4, -1e4, 1e-20]) {
      const hidden = make({ shape: [3, 2], data: [factor, 0, factor, factor, 0, 1] });
      const weight = make({ shape: [70, 2] });
      const [targets, scale, loss] = [
        make({ shape: [3], dtype: "i32", data: [3, 69, 0] }),
        make({ shape: [3] }),
        make({ shape: [3] }),
      ];
      const gradHidden = make({ shape: [3, 2] });
      pair.run((d, side) =>
        d.linearCrossEntropy({
          hidden: hidden[side],
          weight: weight[side],
          targets: targets[side],
          scale: scale[side],
          loss: loss[side],
          gradHidden: gradHidden[side],
        }),
      );
      expect(await pair.distance(loss, gradHidden)).toBeLessThan(1e-5);
    }
  });

  test("rows by index, there and back", async () => {
    for (const [from, to] of [
      ["f32", "f32"],
      ["bf16", "f32"],
      ["i32", "i32"],
      ["bf16", "bf16"],
    ] as const) {
      const table = make({ shape: [10, 7], strides: [9, 1], dtype: from });
      const index = make({ shape: [4], dtype: "i32", data: [3, 9, 0, 3] });
      const [out, back] = [make({ shape: [4, 7], dtype: to }), make({ shape: [10, 7], dtype: to })];
      pair.run((d, side) => {
        d.gatherRows(table[side], index[side], out[side]);
        d.scatterRows(out[side], index[side], back[side], "set");
        d.scatterRows(out[side], index[side], back[side], "add");
      });
      expect(await pair.distance(out, back)).toBe(0);
    }
    const outside = make({ shape: [1], dtype: "i32", data: [10] })[0];
    const table = make({ shape: [10, 7] })[0];
    expect(() => device.gatherRows(table, outside, make({ shape: [1, 7] })[0])).toThrow("index 10 is outside");
    expect(() => device.scatterRows(make({ shape: [1, 7] })[0], outside, table, "set")).toThrow("index 10 is outside");
  });

  test("AdamW", async () => {
    const n = 9001;
    const [param, grad, m, gradScale] = [
      make({ shape: [n] }),
      make({ shape: [n] }),
      make({ shape: [n] }),
      make({ shape: [1] }),
    ];
    const v = make({ shape: [n], data: [0.1, 0.5, 3, 1e-12, 0] });
    for (const step of [1, 2, 1000]) {
      pair.run((d, side) => {
        const rates = { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, step };
        const views = { param: param[side], grad: grad[side], m: m[side], v: v[side] };
        d.adamW({ ...views, ...rates, gradScale: step === 2 ? undefined : gradScale[side] });
      });
    }
    expect(await pair.distance(param, m, v)).toBeLessThan(1e-6);
  });

  test("mapped bytes: read in place where kernels can, copied where elements are not aligned", async () => {
    const bytes = new Uint8Array(8 * 4096 + 1);
    new Float32Array(bytes.buffer, 0, 8192).fill(1.5);
    const view = (storage: Storage): View => ({ storage, dtype: "f32", offset: 0, shape: [8192], strides: [1] });
    const sum = (storage: Storage) => {
      const out = make({ shape: [8192], strides: [0] })[0];
      device.reduce("sum", IDENTITY, [], [view(storage)], out);
      return device.read(out.storage, 0, 4).then((read) => new Float32Array(read.slice().buffer)[0]);
    };
    const inPlace = Storage.map(device, bytes.subarray(0, 8 * 4096), 4);
    expect(await sum(inPlace)).toBe(1.5 * 8192);
    bytes.copyWithin(1, 0);
    const copied = Storage.map(device, bytes.subarray(1), 4);
    expect(await sum(copied)).toBe(1.5 * 8192);
    const short = Storage.map(device, new Uint8Array(Float32Array.of(1, 2, 3).buffer), 4);
    expect(new Float32Array((await device.read(short, 0, 12)).slice().buffer)).toEqual(Float32Array.of(1, 2, 3));
    for (const storage of [inPlace, copied, short]) storage.release();
  });

  test("memory of kernels is guarded: views outside of their storage and freed storages are refused", () => {
    const a = make({ shape: [4, 4] })[0];
    const out = make({ shape: [4, 4] })[0];
    expect(() => device.matmul({ ...a, offset: 1 }, a, out)).toThrow("leaves its storage of 64 bytes");
    expect(() => device.matmul(a, { ...a, strides: [5, 1] }, out)).toThrow("leaves its storage");
    expect(() => device.matmul(a, a, { ...out, strides: [-4, 1] })).toThrow("leaves its storage");
    a.storage.release();
    expect(() => device.matmul(a, a, out)).toThrow("after its memory was freed");
  });

  test("a thousand rounds leave memory as it was", async () => {
    const round = (n: number) => {
      const [a, b, out] = [n, n, n].map((rows) => {
        const storage = Storage.allocate(device, 4 * rows * 64);
        return { storage, dtype: "f32", offset: 0, shape: [rows, 64], strides: denseStrides([rows, 64]) } as View;
      }) as [View, View, View];
      device.elementwise(programs.fill!, [1], [], a);
      device.matmul(a, { ...a, shape: [64, n], strides: [1, 64] }, { ...b, shape: [n, n], strides: [n, 1] });
      device.elementwise(swiglu, [], [a, a], out);
      for (const { storage } of [a, b, out]) storage.release();
    };
    for (let i = 1; i <= 64; i++) round(i);
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 1000; i++) round(1 + (i % 64));
    expect(process.memoryUsage().rss - before).toBeLessThan(30e6);
  });
});
