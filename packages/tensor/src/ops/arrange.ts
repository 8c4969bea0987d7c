import { ShapeError } from "../errors.ts";
import { axisOf, broadcastShapes, type Shape, sameShape, show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { cat, expand, permute, reshape, select, slice, unsqueeze } from "./shape.ts";

/** Dimensions `start` to `end` (included) joined into one: PyTorch's `flatten`. A view where strides allow. */
export function flatten(x: Tensor, start = 0, end = -1): Tensor {
  if (x.rank === 0) return reshape(x, [1]);
  const [from, to] = [axisOf("flatten", start, x.rank), axisOf("flatten", end, x.rank)];
  if (from > to) throw new ShapeError("flatten", `dimension ${start} of ${show(x.shape)} comes after ${end}`);
  return reshape(x, [...x.shape.slice(0, from), sizeOf(x.shape.slice(from, to + 1)), ...x.shape.slice(to + 1)]);
}
/** Dimension `dim` cut into several, one of which may be −1: PyTorch's `unflatten`. */
export function unflatten(x: Tensor, dim: number, sizes: Shape): Tensor {
  const at = axisOf("unflatten", dim, x.rank);
  const known = sizeOf(sizes.filter((n) => n !== -1));
  const full = sizes.map((n) => (n === -1 ? x.shape[at] / known : n));
  if (sizeOf(full) !== x.shape[at] || !full.every(Number.isInteger))
    throw new ShapeError("unflatten", `dimension ${dim} of ${show(x.shape)} is not cut into ${show(sizes)}`);
  return reshape(x, [...x.shape.slice(0, at), ...full, ...x.shape.slice(at + 1)]);
}
/** One dimension put elsewhere, the others in their order: PyTorch's `movedim`. A view. */
export function movedim(x: Tensor, from: number, to: number): Tensor {
  const [source, target] = [axisOf("movedim", from, x.rank), axisOf("movedim", to, x.rank)];
  const order = x.shape.map((_, d) => d).filter((d) => d !== source);
  order.splice(target, 0, source);
  return x.rank === 0 ? x : permute(x, order);
}
/** Repeated to a shape by broadcasting: PyTorch's `broadcast_to`. A view. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  return expand(x, shape);
}
/** All repeated to the one shape that they broadcast to: PyTorch's `broadcast_tensors`. Views. */
export function broadcastTensors(...tensors: readonly Tensor[]): Tensor[] {
  const shape = broadcastShapes("broadcastTensors", ...tensors.map((t) => t.shape));
  return tensors.map((t) => (sameShape(t.shape, shape) ? t : expand(t, shape)));
}
/** The whole laid out so many times along each dimension: PyTorch's `repeat`. A copy. More counts than dimensions add some in front. */
export function repeat(x: Tensor, counts: readonly number[]): Tensor {
  if (counts.length < x.rank || !counts.every((n) => Number.isSafeInteger(n) && n >= 0))
    throw new ShapeError("repeat", `${show(counts)} is not one whole number for each dimension of ${show(x.shape)}`);
  const shape = [...new Array<number>(counts.length - x.rank).fill(1), ...x.shape];
  const apart = reshape(
    x,
    shape.flatMap((n) => [1, n]),
  );
  const repeated = expand(
    apart,
    shape.flatMap((n, d) => [counts[d], n]),
  );
  return reshape(
    repeated,
    shape.map((n, d) => n * counts[d]),
  );
}
/** Each element of `dim` so many times in a row: PyTorch's `repeat_interleave`. A copy. */
export function repeatInterleave(x: Tensor, count: number, dim: number): Tensor {
  const at = axisOf("repeatInterleave", dim, x.rank);
  if (!Number.isSafeInteger(count) || count < 0)
    throw new ShapeError("repeatInterleave", `the count must be a whole number, 0 or more, not ${count}`);
  const apart = unsqueeze(x, at + 1);
  const repeated = expand(
    apart,
    apart.shape.map((n, d) => (d === at + 1 ? count : n)),
  );
  return reshape(
    repeated,
    x.shape.map((n, d) => (d === at ? n * count : n)),
  );
}
/** Parts of `size` along `dim` (the last may be smaller), or of the sizes listed: PyTorch's `split`. Views. */
export function split(x: Tensor, size: number | readonly number[], dim = 0): Tensor[] {
  const at = axisOf("split", dim, x.rank);
  const n = x.shape[at] ?? 0;
  if (typeof size === "number" && !(Number.isSafeInteger(size) && size > 0))
    throw new ShapeError("split", `a part's size must be a whole number above 0, not ${size}`);
  const count = typeof size === "number" ? Math.max(1, Math.ceil(n / size)) : 0;
  const sizes = typeof size === "number" ? Array.from({ length: count }, (_, i) => Math.min(size, n - i * size)) : size;
  if (x.rank === 0 || sizes.some((part) => !(part >= 0)) || sizes.reduce((a, b) => a + b, 0) !== n)
    throw new ShapeError("split", `parts of ${show(sizes)} are not dimension ${dim} of ${show(x.shape)}`);
  let start = 0;
  return sizes.map((part) => {
    start += part;
    return slice(x, at, start - part, start);
  });
}
/** At most `count` equal parts along `dim` (the last may be smaller): PyTorch's `chunk`. Views. */
export function chunk(x: Tensor, count: number, dim = 0): Tensor[] {
  if (!Number.isSafeInteger(count) || count < 1)
    throw new ShapeError("chunk", `the count must be a whole number above 0, not ${count}`);
  return split(x, Math.max(1, Math.ceil((x.shape[axisOf("chunk", dim, x.rank)] ?? 0) / count)), dim);
}
/** Every index of `dim` for itself, the dimension dropped: PyTorch's `unbind`. Views. */
export function unbind(x: Tensor, dim = 0): Tensor[] {
  const at = axisOf("unbind", dim, x.rank);
  if (x.rank === 0) throw new ShapeError("unbind", "needs at least one dimension");
  return Array.from({ length: x.shape[at] }, (_, i) => select(x, at, i));
}
/** Elements moved on along `dim`, those at the end back to the beginning: PyTorch's `roll`. A copy. */
export function roll(x: Tensor, shift: number, dim: number): Tensor {
  const at = axisOf("roll", dim, x.rank);
  const n = x.shape[at] ?? 0;
  if (!Number.isSafeInteger(shift)) throw new ShapeError("roll", `the shift must be a whole number, not ${shift}`);
  const start = n === 0 ? 0 : ((shift % n) + n) % n;
  return start === 0 ? x : cat([slice(x, at, n - start), slice(x, at, 0, n - start)], at);
}
