import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { constant, sigmoid } from "../../expr/expr.ts";
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
const fill = Program.of(0, 1, (_x, [p]) => p);

describe.each(devices.map((device) => [device.info.isa, device] as const))("cpu device, %s", (_isa, device) => {
  const pair = new Pair(device);
  const make = (spec: ViewSpec) => pair.make(spec);

  test("programs of any number of operands and living values; the sine of one, small enough that its rounding counts alone", async () => {
    for (const n of [2, 8, 24, 60]) {
      const program = Program.of(n, 3, (x, p) => {
        const kept = x.map((value) => value.mul(0.1).exp());
        const mixed = kept.reduce(
          (sum, value, i) =>
            sum
              .mul(0.5)
              .add(value.mul(kept[n - 1 - i]))
              .add(p[i % 3]),
          constant(0),
        );
        return kept.reduce((sum, value) => sum.add(value.tanh()), mixed);
      });
      for (const body of [program, Program.from(program.root.mul(0.01).sin(), n, 3)]) {
        const strides = (i: number) =>
          [
            [1, 0],
            [100, 1],
            [0, 1],
          ][i % 3];
        const inputs = Array.from({ length: n }, (_, i) => make({ shape: [33, 100], strides: strides(i) }));
        const outs = [
          [100, 1],
          [0, 1],
          [1, 0],
        ].map((out) => make({ shape: [33, 100], strides: out }));
        pair.run((d, side) => {
          const given = inputs.map((view) => view[side]);
          d.elementwise(body, [1, 2, 3], given, outs[0]![side]);
          for (const out of outs.slice(1)) d.reduce("sum", body, [1, 2, 3], given, out[side]);
        });
        expect([n, (await pair.distance(...outs)) < 5e-6]).toEqual([n, true]);
      }
    }
  });

  test("a program that is not 0 for 0 is not counted beyond the end of a row", async () => {
    const program = Program.of(1, 0, ([x]) => x.exp().add(constant(5)));
    const [x, out] = [make({ shape: [3, 13] }), make({ shape: [3, 13], strides: [1, 0] })];
    pair.run((d, side) => d.reduce("sum", program, [], [x[side]], out[side]));
    expect(await pair.distance(out)).toBeLessThan(1e-6);
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
      const some = [1, 4, 9, 50].map((rows) => own.make({ shape: [rows, n] })[0]!);
      const [sum] = own.make({ shape: [97, n], strides: [0, 1] });
      other.matmul(a, b, out);
      for (const part of some) other.matmul({ ...a, offset: 40 * k, shape: [part.shape[0]!, k] }, b, part);
      other.reduce("sum", IDENTITY, [], [out], sum);
      const all = await other.read(out.storage, 0, 4 * 97 * n);
      const [one, few, ...many] = await Promise.all(
        some.map(({ storage, shape }) => other.read(storage, 0, 4 * shape[0]! * n)),
      );
      for (const part of many) expect(part).toEqual(all.slice(4 * 40 * n, 4 * 40 * n + part.length));
      // Few rows round otherwise than many.
      expect(one).toEqual(few!.slice(0, 4 * n));
      results.push(Buffer.concat([all, few!]), await other.read(sum.storage, 0, 4 * n));
      await other.dispose();
    }
    expect(results[2]).toEqual(results[0]!);
    expect(results[4]).toEqual(results[0]!);
    expect(results[3]).toEqual(results[1]!);
    expect(results[5]).toEqual(results[1]!);
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

  test("indices outside of a table are refused", () => {
    const outside = make({ shape: [1], dtype: "i32", data: [10] })[0];
    const [table, row] = [make({ shape: [10, 7] })[0], make({ shape: [1, 7] })[0]];
    expect(() => device.gatherRows(table, outside, row)).toThrow("index 10 is outside");
    expect(() => device.scatterRows(row, outside, table, "set")).toThrow("index 10 is outside");
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
      device.elementwise(fill, [1], [], a);
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

test("waiting for results gives others their turn, in browsers without a timer, which they would keep back", async () => {
  const device = new CpuDevice({ threads: 1, isa: "wasm" });
  const { setImmediate } = globalThis;
  const timers = spyOn(globalThis, "setTimeout");
  try {
    globalThis.setImmediate = undefined as never;
    let turns = 0;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => turns++;
    for (let i = 1; i <= 3; i++) {
      port2.postMessage(i);
      const started = performance.now();
      while (performance.now() - started < 9) {}
      await device.synchronize();
      expect(turns).toBe(i);
    }
    port1.close();
    expect(timers).not.toHaveBeenCalled();
  } finally {
    globalThis.setImmediate = setImmediate;
    timers.mockRestore();
    await device.dispose();
  }
});
