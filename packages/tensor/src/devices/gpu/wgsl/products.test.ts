import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BLOCKS, type BlockType, type DType } from "../../../dtype.ts";
import { Storage } from "../../../memory.ts";
import { decodeBlocks } from "../../../quantized/decode.ts";
import { numbers } from "../../conformance/harness.ts";
import type { MatmulOptions, View } from "../../device.ts";
import type { GpuDevice } from "../device.ts";
import { gpuHere } from "../testing.ts";
import { matmul, type Tiling } from "./matmul.ts";
import { DEFAULT_TILING, SOFTWARE_TILING, tilingFor } from "./tuning.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`gpu products (${missing})`, () => {});

describe.skipIf(missing !== undefined)("gpu products", () => {
  let device: GpuDevice;
  beforeAll(async () => {
    device = await open();
  });
  afterAll(() => device?.dispose());

  const place = (bytes: Uint8Array, dtype: DType, shape: number[], strides: number[]): View => {
    const storage = Storage.allocate(device, bytes.byteLength);
    device.write(storage, 0, bytes);
    return { storage, dtype, offset: 0, shape, strides };
  };
  const floats = (values: Float32Array, rows: number, columns: number): View =>
    place(new Uint8Array(values.buffer), "f32", [rows, columns], [columns, 1]);
  const draw = (n: number, seed: number): Float32Array => {
    const random = numbers(seed);
    return Float32Array.from({ length: n }, () => 2 * random() - 1);
  };

  /** Runs `body` as if a binding of the device held so many bytes. */
  async function binding(most: number, body: () => Promise<void>): Promise<void> {
    const { limits } = device.context;
    const less = new Proxy(limits, {
      get: (real, name) => (name === "maxStorageBufferBindingSize" ? most : real[name as keyof GPUSupportedLimits]),
    });
    Object.assign(device.context, { limits: less });
    try {
      await body();
    } finally {
      Object.assign(device.context, { limits });
    }
  }

  /** a · b by another way: sums in double. */
  function expected(a: Float32Array, b: (k: number, n: number) => number, m: number, k: number, n: number): number[] {
    return Array.from({ length: m * n }, (_, at) => {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += a[Math.floor(at / n) * k + i] * b(i, at % n);
      return sum;
    });
  }

  async function product(
    a: View,
    b: View,
    { tiling = SOFTWARE_TILING as Tiling, options = {} as MatmulOptions } = {},
  ): Promise<Float32Array> {
    const [m, n] = [a.shape[0], b.shape[1]];
    const out = floats(new Float32Array(m * n).fill(3), m, n);
    matmul(device.context, tiling, a, b, out, options);
    const bytes = await device.read(out.storage, 0, 4 * m * n);
    out.storage.release();
    return new Float32Array(bytes.slice().buffer);
  }

  function near(got: ArrayLike<number>, want: ArrayLike<number>, bound: number): void {
    expect(got.length).toBe(want.length);
    let worst = 0;
    for (let i = 0; i < want.length; i++) worst = Math.max(worst, Math.abs(got[i] - want[i]));
    // Not toBeLessThan on each, which NaN would pass by Math.max.
    expect(Array.from(got).every(Number.isFinite)).toBe(true);
    expect(worst).toBeLessThanOrEqual(bound);
  }

  /** Rounded once, as a sum with zeros gives it: never −0. */
  const exact = (value: number): number => Math.fround(value) + 0;
  /** Shaders that compile sooner. */
  const SHORT: Tiling = {
    ...SOFTWARE_TILING,
    large: { ...SOFTWARE_TILING.large, rows: 4 },
    small: { ...SOFTWARE_TILING.small, rows: 4 },
  };

  /** Blocks of random bits whose scales are halves of every size, subnormal ones too. */
  function randomBlocks(type: BlockType, elements: number): Uint8Array {
    const random = numbers(elements);
    const { bytes, elements: size } = BLOCKS[type];
    const content = Uint8Array.from({ length: (elements / size) * bytes }, () => 256 * random());
    const halves = type === "q6_k" ? [208] : type.endsWith("_0") ? [0] : [0, 2];
    for (let at = 0; at < content.length; at += bytes) {
      for (const half of halves) content[at + half + 1] = (content[at + half + 1] & 0x83) | (random() < 0.5 ? 0 : 0x20);
    }
    return content;
  }

  test.each(Object.keys(BLOCKS) as BlockType[])("%s weights are unpacked to their exact numbers", async (type) => {
    const [rows, columns] = [12, 512];
    const content = randomBlocks(type, rows * columns);
    const decoded = decodeBlocks(type, content, 0, rows * columns);
    const weight = place(content, type, [rows, columns], [columns, 1]);
    // Products with unit vectors are elements of the weight, rounded once.
    const picks = [0, 1, 2, 3, 31, 32, 95, 127, 128, 200, 255, 256, 300, 511];
    const unit = Float32Array.from({ length: picks.length * columns }, (_, i) =>
      picks[Math.floor(i / columns)] === i % columns ? 1 : 0,
    );
    const turned = { ...weight, shape: [columns, rows], strides: [1, columns] };
    const want = picks.flatMap((p) => Array.from({ length: rows }, (_, r) => exact(decoded[r * columns + p])));
    const left = floats(unit, picks.length, columns);
    expect(Array.from(await product(left, turned, { tiling: SHORT }))).toEqual(want);
    // Both ways by both means for one type of each size of block.
    const both = type === "q8_0" || type === "q4_k";
    if (both) expect(Array.from(await product(left, turned, { options: { rows: "few" } }))).toEqual(want);
    // The other way, blocks along the result's columns; from a row in the middle on.
    const [middle, some] = [5, 2];
    const part = { ...weight, offset: middle * columns, shape: [some, columns] };
    const identity = floats(
      Float32Array.from({ length: some * some }, (_, i) => (i % (some + 1) === 0 ? 1 : 0)),
      some,
      some,
    );
    const rowsWanted = Array.from(decoded.subarray(middle * columns, (middle + some) * columns), exact);
    expect(Array.from(await product(identity, part))).toEqual(rowsWanted);
    if (both) {
      expect(Array.from(await product(identity, part, { tiling: SHORT, options: { rows: "many" } }))).toEqual(
        rowsWanted,
      );
    }
  });

  test("operands larger than one binding are cut by rows, columns and the inner dimension", async () => {
    const [m, k, n] = [37, 700, 90];
    const [x, w] = [draw(m * k, 1), draw(n * k, 2)];
    const [a, weight] = [floats(x, m, k), floats(w, n, k)];
    const bias = place(new Uint8Array(draw(n, 3).buffer), "f32", [n], [1]);
    const addend = floats(draw(m * n, 4), m, n);
    const turned = { ...weight, shape: [k, n], strides: [1, k] };
    const back = { ...weight, shape: [n, k], strides: [k, 1] };
    const grad = floats(draw(m * n, 5), m, n);
    // The conformance suite's share of Σ|a·b|, factors being 1/2 in the mean.
    const bound = (inner: number): number => (4e-6 * inner) / 4;
    const whole = {
      forward: await product(a, turned, { options: { bias, alpha: 0.5 } }),
      added: await product(a, turned, { options: { addend } }),
      back: await product(grad, back),
    };
    near(
      whole.back,
      expected(draw(m * n, 5), (i, j) => w[i * k + j], m, n, k),
      bound(n),
    );
    for (const most of [16_384, 40_960]) {
      await binding(most, async () => {
        near(await product(a, turned, { options: { bias, alpha: 0.5 } }), whole.forward, bound(k) / 2);
        near(await product(a, turned, { options: { addend } }), whole.added, bound(k));
        near(await product(grad, back), whole.back, bound(n));
        near(await product(grad, back, { options: { rows: "few" } }), whole.back, bound(n));
      });
    }
  });

  test("quantised weights are cut between blocks, in windows that begin inside of one", async () => {
    const [rows, columns] = [1200, 256];
    const content = randomBlocks("q8_0", rows * columns);
    const decoded = decodeBlocks("q8_0", content, 0, rows * columns);
    const weight = place(content, "q8_0", [rows, columns], [columns, 1]);
    const x = draw(9 * columns, 6);
    const a = floats(x, 9, columns);
    const turned = { ...weight, shape: [columns, rows], strides: [1, columns] };
    const largest = decoded.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    await binding(20_000, async () => {
      near(
        await product(a, turned),
        expected(x, (k, n) => decoded[n * columns + k], 9, columns, rows),
        4e-6 * largest * columns,
      );
    });
  });

  test("tiles in workgroup memory give what the direct ones give", async () => {
    const [m, k, n] = [70, 90, 130];
    const [a, weight] = [floats(draw(m * k, 7), m, k), floats(draw(n * k, 8), n, k)];
    const turned = { ...weight, shape: [k, n], strides: [1, k] };
    const direct = await product(a, turned);
    for (const tile of [DEFAULT_TILING.large, DEFAULT_TILING.small]) {
      expect(await product(a, turned, { tiling: { ...DEFAULT_TILING, large: tile, small: tile } })).toEqual(direct);
    }
  });

  test("a tiling that was measured is kept in the folder, and one that is not known there is measured again", async () => {
    const folder = mkdtempSync(join(tmpdir(), "tiles-"));
    const path = join(folder, "gpu-tiles.json");
    try {
      const names = { large: "shared-8-8-8-8-16", small: "nothing of ours", columns: "128-16-2" };
      writeFileSync(path, JSON.stringify({ "one card": names }));
      const tiling = await tilingFor(device.context, "one card", folder);
      expect(tiling.large).toMatchObject({ lanesM: 8, lanesN: 8, rows: 8 });
      expect(tiling.columns).toEqual({ invocations: 128, lanes: 16, columns: 2 });
      expect(tiling.small).toEqual(DEFAULT_TILING.small);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
