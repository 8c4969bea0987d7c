import { BYTES, isBlocks, type TypedArray } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import { type Join, rowLoop } from "../../expr/javascript.ts";
import type { Program } from "../../expr/program.ts";
import { encodeBlocks, type QuantizableType } from "../../quantized/encode.ts";
import { sizeOf } from "../../shape.ts";
import type { HostArray, MatmulOptions, RandomKey, ReduceKind, View } from "../device.ts";
import { philox, toNormal, toUniform } from "./philox.ts";
import { at, atLeast1d, eachRow, load, readRow, store } from "./views.ts";

/** The definition of `Device.elementwise`. */
export function elementwise(
  host: HostArray,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
  accumulate = false,
): void {
  join(program, params, [...inputs, out], [...inputs, out].map(host), accumulate ? "sum" : "set");
}

/** Runs the program's row loop over every row; the last view and array are the output's. */
function join(
  program: Program,
  params: readonly number[],
  given: readonly View[],
  arrays: readonly TypedArray[],
  how: Join,
): void {
  const views = given.map(atLeast1d);
  const loop = rowLoop(
    program,
    views.map((v) => v.dtype),
    how,
  );
  const shape = views[views.length - 1].shape;
  const steps = views.map((v) => v.strides.at(-1)!);
  eachRow(shape, views, (offsets) => loop(arrays, offsets, steps, shape.at(-1)!, params));
}

/** What a reduction of nothing gives. */
export const REDUCE_START: { readonly [K in ReduceKind]: number } = {
  sum: 0,
  max: Number.NEGATIVE_INFINITY,
  min: Number.POSITIVE_INFINITY,
};

/** The definition of `Device.reduce`: joined in double, in row-major order, rounded once. */
export function reduce(
  host: HostArray,
  kind: ReduceKind,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
  accumulate = false,
): void {
  const kept = out.shape.map((n, d) => (out.strides[d] === 0 ? 1 : n));
  const result = { ...out, shape: kept };
  const total = accumulate ? load(host, result) : new Float64Array(sizeOf(kept)).fill(REDUCE_START[kind]);
  let step = 1;
  const strides = kept.map(() => 0);
  for (let d = kept.length - 1; d >= 0; d--) {
    if (kept[d] !== 1) strides[d] = step;
    step *= kept[d];
  }
  const view: View = { ...out, dtype: "f64", offset: 0, strides };
  join(program, params, [...inputs, view], [...inputs.map(host), total], kind);
  store(host, result, total);
}

/** The definition of `Device.argmax`. */
export function argmax(host: HostArray, x: View, out: View): void {
  const n = x.shape.at(-1)!;
  const array = host(x);
  const found: number[] = [];
  eachRow(x.shape, [x], ([offset]) => {
    const row = readRow(array, x, offset, x.strides.at(-1)!, n);
    let best = 0;
    for (let i = 1; i < n && !Number.isNaN(row[best]); i++) if (row[i] > row[best] || Number.isNaN(row[i])) best = i;
    found.push(best);
  });
  store(host, out, found);
}

/** The definition of `Device.random`. */
export function random(host: HostArray, kind: "uniform" | "normal", key: RandomKey, out: View): void {
  const values = new Float64Array(sizeOf(out.shape));
  for (let i = 0; i < values.length; i += 4) {
    const block = i / 4;
    const w = philox([block >>> 0, Math.floor(block / 2 ** 32), 0, key.stream], key.seed);
    const four = kind === "uniform" ? Array.from(w, toUniform) : [...toNormal(w[0], w[1]), ...toNormal(w[2], w[3])];
    for (let j = 0; j < 4 && i + j < values.length; j++) values[i + j] = four[j];
  }
  store(host, out, values);
}

/** The definition of `Device.dropout`. */
export function dropout(host: HostArray, x: View, rows: View, p: number, key: RandomKey, out: View): void {
  const values = load(host, x);
  dropValues(host, values, rows, p, key);
  store(host, out, values);
}

/** Drops from the values [rows, features] in place. */
export function dropValues(host: HostArray, values: Float64Array, rows: View, p: number, key: RandomKey): void {
  const [count] = rows.shape;
  const features = values.length / count;
  const threshold = p * 2 ** 32;
  const place = load(host, rows);
  for (let r = 0; r < count; r++) {
    for (let f = 0; f < features; f += 4) {
      const words = philox([f / 4, place[2 * r + 1], place[2 * r], key.stream], key.seed);
      for (let j = 0; j < 4 && f + j < features; j++) {
        const i = r * features + f + j;
        // Selected, not multiplied: a dropped infinity is 0, not NaN.
        values[i] = words[j] >= threshold ? values[i] / (1 - p) : 0;
      }
    }
  }
}

/** The definition of `Device.matmul`: sums in double, in order of the inner dimension, rounded once. */
export function matmul(host: HostArray, a: View, b: View, out: View, options: MatmulOptions = {}): void {
  const rank = out.shape.length;
  const [m, n] = out.shape.slice(-2);
  const k = a.shape.at(-1)!;
  const alpha = options.alpha ?? 1;
  const bias = options.bias ? load(host, options.bias) : undefined;
  const batch = [...out.shape.slice(0, -2), 1];
  const outer = (v: View): View => ({ ...v, shape: batch, strides: [...v.strides.slice(0, rank - 2), 0] });
  eachRow(batch, [outer(a), outer(b), outer(out)], ([offsetA, offsetB, offsetOut]) => {
    const matrix = (v: View, offset: number): View => ({
      ...v,
      offset,
      shape: v.shape.slice(-2),
      strides: v.strides.slice(-2),
    });
    const left = load(host, matrix(a, offsetA));
    const right = matrix(b, offsetB);
    const result = matrix(out, offsetOut);
    const before = options.accumulate ? result : options.addend;
    const sums = before ? load(host, before) : new Float64Array(m * n);
    const product = new Float64Array(m * n);
    const arrayB = host(b);
    const [stepK, stepN] = right.strides;
    if (stepN === 1 || n === 1) {
      const row = new Float64Array(n);
      for (let p = 0; p < k; p++) {
        readRow(arrayB, b, right.offset + p * stepK, stepN, n, row);
        for (let i = 0; i < m; i++) {
          const factor = left[i * k + p];
          for (let j = 0; j < n; j++) product[i * n + j] += factor * row[j];
        }
      }
    } else {
      const column = new Float64Array(k);
      for (let j = 0; j < n; j++) {
        readRow(arrayB, b, right.offset + j * stepN, stepK, k, column);
        for (let i = 0; i < m; i++) {
          let sum = 0;
          for (let p = 0; p < k; p++) sum += left[i * k + p] * column[p];
          product[i * n + j] = sum;
        }
      }
    }
    for (let i = 0; i < m * n; i++) sums[i] += alpha * product[i] + (bias ? bias[i % n] : 0);
    store(host, result, sums);
  });
}

/** Values quantised at a time: a whole number of blocks. */
const QUANTIZED_RUN = 8192;

/** The definition of `Device.quantize`. */
export function quantize(host: HostArray, x: View, out: View): void {
  const bytes = host(out) as Uint8Array;
  const array = host(x);
  let to = out.offset;
  const n = x.shape.at(-1)!;
  const run = new Float32Array(Math.min(n, QUANTIZED_RUN));
  eachRow(x.shape, [x], ([offset]) => {
    for (let i = 0; i < n; i += QUANTIZED_RUN) {
      const count = Math.min(QUANTIZED_RUN, n - i);
      const step = x.strides.at(-1)!;
      const values = run.subarray(0, count);
      if (x.dtype === "bf16" && step === 1) widen(array as Uint16Array, offset + i, values);
      else values.set(readRow(array, x, offset + i * step, step, count));
      encodeBlocks(out.dtype as QuantizableType, values, bytes, to * BYTES[out.dtype]);
      to += count;
    }
  });
}

/** bf16 to f32, by the bits. */
function widen(from: Uint16Array, at: number, into: Float32Array): void {
  const words = new Uint32Array(into.buffer, into.byteOffset, into.length);
  for (let i = 0; i < words.length; i++) words[i] = from[at + i] << 16;
}

function checkRow(op: string, row: number, table: View): void {
  if (!(row >= 0 && row < table.shape[0]))
    throw new DeviceError(op, `index ${row} is outside of ${table.shape[0]} rows`);
}

/** Copies a row of blocks as it lies. */
function copyBlocks(host: HostArray, from: View, to: View): void {
  const unit = BYTES[to.dtype];
  const bytes = (host(from) as Uint8Array).subarray(unit * from.offset, unit * (from.offset + from.shape[0]));
  (host(to) as Uint8Array).set(bytes, unit * to.offset);
}

/** The definition of `Device.gatherRows`. */
export function gatherRows(host: HostArray, table: View, index: View, out: View): void {
  load(host, index).forEach((row, i) => {
    checkRow("gatherRows", row, table);
    if (isBlocks(out.dtype)) copyBlocks(host, at(table, row), at(out, i));
    else store(host, at(out, i), load(host, at(table, row)));
  });
}

/** The definition of `Device.scatterRows`. */
export function scatterRows(host: HostArray, src: View, index: View, out: View, mode: "set" | "add"): void {
  load(host, index).forEach((row, i) => {
    checkRow("scatterRows", row, out);
    if (isBlocks(out.dtype)) {
      copyBlocks(host, at(src, i), at(out, row));
      return;
    }
    const values = load(host, at(src, i));
    const target = at(out, row);
    if (mode === "add") {
      load(host, target).forEach((old, j) => {
        values[j] += old;
      });
    }
    store(host, target, values);
  });
}
