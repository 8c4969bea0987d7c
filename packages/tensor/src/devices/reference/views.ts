import { fromBf16, isBlocks, type TypedArray, toBf16 } from "../../dtype.ts";
import { decodeBlocks } from "../../quantized/decode.ts";
import { sizeOf } from "../../shape.ts";
import type { HostArray, View } from "../device.ts";

/** Calls `row(offsets)` for every index of `shape` but its last dimension; one element offset per view. */
export function eachRow(shape: readonly number[], views: readonly View[], row: (offsets: number[]) => void): void {
  const outer = shape.slice(0, -1);
  if (sizeOf(shape) === 0) return;
  const index = new Array<number>(outer.length).fill(0);
  const offsets = views.map((v) => v.offset);
  for (;;) {
    row(offsets.slice());
    let d = outer.length - 1;
    for (; d >= 0; d--) {
      index[d]++;
      for (let v = 0; v < views.length; v++) offsets[v] += views[v].strides[d];
      if (index[d] < outer[d]) break;
      for (let v = 0; v < views.length; v++) offsets[v] -= views[v].strides[d] * outer[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

/** A view with one dimension of size 1 where it has none, so that loops over rows need no special case. */
export function atLeast1d(view: View): View {
  return view.shape.length > 0 ? view : { ...view, shape: [1], strides: [0] };
}

/** `n` elements from `offset` on, `step` apart, widened to double. */
export function readRow(
  array: TypedArray,
  view: View,
  offset: number,
  step: number,
  n: number,
  into = new Float64Array(n),
): Float64Array {
  if (isBlocks(view.dtype)) return decodeBlocks(view.dtype, array as Uint8Array, offset, n, into, step);
  if (view.dtype === "bf16") for (let i = 0; i < n; i++) into[i] = fromBf16(array[offset + i * step]);
  else for (let i = 0; i < n; i++) into[i] = array[offset + i * step];
  return into;
}

/** The view's elements in row-major order, widened to double. */
export function load(host: HostArray, view: View): Float64Array {
  const v = atLeast1d(view);
  const array = host(v);
  const n = v.shape.at(-1)!;
  const out = new Float64Array(sizeOf(v.shape));
  let at = 0;
  eachRow(v.shape, [v], ([offset]) => {
    readRow(array, v, offset, v.strides.at(-1)!, n, out.subarray(at, at + n));
    at += n;
  });
  return out;
}

/** Writes row-major values into a view, rounded to its type. */
export function store(host: HostArray, view: View, values: ArrayLike<number>): void {
  const v = atLeast1d(view);
  const array = host(v);
  const n = v.shape.at(-1)!;
  const step = v.strides.at(-1)!;
  let at = 0;
  eachRow(v.shape, [v], ([offset]) => {
    for (let i = 0; i < n; i++) array[offset + i * step] = v.dtype === "bf16" ? toBf16(values[at++]) : values[at++];
  });
}

/** The part of a view at `index` of its first dimensions. */
export function at(view: View, ...index: number[]): View {
  let offset = view.offset;
  index.forEach((i, d) => {
    offset += i * view.strides[d];
  });
  return { ...view, offset, shape: view.shape.slice(index.length), strides: view.strides.slice(index.length) };
}
