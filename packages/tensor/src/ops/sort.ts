import type { View } from "../devices/device.ts";
import type { DType } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { select } from "../expr/expr.ts";
import { FILL, IDENTITY, Program } from "../expr/program.ts";
import { axisOf, show, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { gather } from "./indexing.ts";
import { apply, type Context, defineOp } from "./op.ts";
import { contiguousCopy, reshape, slice, squeeze, transpose } from "./shape.ts";
import { broadcastView } from "./views.ts";

/** How {@link argsort} orders. */
export interface SortArgs {
  readonly descending: boolean;
}

/**
 * Does a, of number i, come after b, of number j, in ascending order? NaN is larger than all; equals keep their order, so
 * no two pairs are equal.
 */
const AFTER_ASCENDING = Program.of(4, 0, ([a, b, i, j]) =>
  select(a.ne(a), select(b.ne(b), j.lt(i), 1), select(b.ne(b), 0, select(a.eq(b), j.lt(i), b.lt(a)))),
);
const AFTER_DESCENDING = Program.of(4, 0, ([a, b, i, j]) =>
  select(a.ne(a), select(b.ne(b), j.lt(i), 0), select(b.ne(b), 1, select(a.eq(b), j.lt(i), a.lt(b)))),
);
/** `a` where the pair is in the order that its block wants, else `b`. */
const KEEP = Program.of(4, 0, ([a, b, after, descends]) => select(after.eq(descends), a, b));

/** What stands behind a row's end, and comes last: among equals the lower number is first. */
function filler(dtype: DType, descending: boolean): number {
  if (dtype === "i32") return descending ? -(2 ** 31) : 2 ** 31 - 1;
  return descending ? Number.NEGATIVE_INFINITY : Number.NaN;
}

/** Bitonic sorting (Batcher, 1968): log²n steps, the same ones whatever the values, so any device runs them unasked. */
function sortRows(context: Context, x: Tensor, descending: boolean): Tensor {
  const [rows, n] = x.shape;
  const { device } = context;
  const length = 2 ** Math.ceil(Math.log2(Math.max(1, n)));
  const make = (like: DType): Tensor => context.empty([rows, length], like);
  let [values, numbers] = [make(x.dtype), make("i32")];
  device.elementwise(FILL, [filler(x.dtype, descending)], [], values);
  device.elementwise(IDENTITY, [], [x], slice(values, 1, 0, n));
  const count = Tensor.from(
    Int32Array.from({ length }, (_, i) => i),
    [length],
    { dtype: "i32", device },
  );
  device.elementwise(IDENTITY, [], [broadcastView(count, [rows, length])], numbers);
  const direction = Tensor.from([0, 1], [2], { dtype: "i32", device });
  const isAfter = descending ? AFTER_DESCENDING : AFTER_ASCENDING;

  for (let block = 2; block <= length; block *= 2) {
    for (let apart = block / 2; apart >= 1; apart /= 2) {
      // Blocks in pairs, the first of which ascends and the second descends; in each, runs of pairs that are `apart`.
      const blocks = Math.min(2, length / block);
      const shape = [rows, length / block / blocks, blocks, block / apart / 2, apart];
      const strides = [length, block * blocks, block, 2 * apart, 1];
      const part = (t: Tensor, second: number): View => ({
        ...{ storage: t.storage, dtype: t.dtype, offset: t.offset + second * apart, shape, strides },
      });
      const descends: View = { ...viewOf(direction), shape, strides: [0, 0, 1, 0, 0] };
      const after = context.empty(shape, "i32");
      const pairs = [part(values, 0), part(values, 1), part(numbers, 0), part(numbers, 1)];
      device.elementwise(isAfter, [], pairs, after);
      const [nextValues, nextNumbers] = [make(x.dtype), make("i32")];
      for (const [from, to] of [
        [values, nextValues],
        [numbers, nextNumbers],
      ]) {
        device.elementwise(KEEP, [], [part(from, 0), part(from, 1), after, descends], part(to, 0));
        device.elementwise(KEEP, [], [part(from, 1), part(from, 0), after, descends], part(to, 1));
      }
      for (const t of [values, numbers, after]) t.dispose();
      [values, numbers] = [nextValues, nextNumbers];
    }
  }
  return contiguousCopy(slice(numbers, 1, 0, n));
}

const viewOf = ({ storage, dtype, offset }: View) => ({ storage, dtype, offset });

export const sortOps = {
  /** Numbers of the elements of each row [rows, n] in order, i32; equals keep theirs, NaN counts as largest. */
  argsort: defineOp<SortArgs>({
    name: "argsort",
    infer([x]) {
      if (x.rank !== 2) throw new ShapeError("argsort", `needs rows, not ${show(x.shape)}`);
      if (x.dtype === "bf16") throw new DTypeError("argsort", "bf16 is not sorted; use to('f32')");
      return { shape: x.shape, dtype: "i32" };
    },
    forward: (context, [x], { descending }) => sortRows(context, x, descending),
    backward: "none",
  }),
} as const;

/** Settings of sorting. */
export interface SortOptions {
  /** Largest first, false. */
  readonly descending?: boolean;
}
/** Values in order and where they stood, i32. */
export interface Sorted {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** `x` with `dim` last and the others joined, and the way back. */
function asRows(x: Tensor, dim: number): { rows: Tensor; back(t: Tensor): Tensor } {
  if (x.rank === 0) return { rows: reshape(x, [1, 1]), back: (t) => reshape(t, []) };
  const moved = transpose(x, dim, -1);
  const n = moved.shape.at(-1)!;
  const rows = reshape(moved, [sizeOf(moved.shape.slice(0, -1)), n]);
  return { rows, back: (t) => transpose(reshape(t, [...moved.shape.slice(0, -1), t.shape[1]]), dim, -1) };
}

/**
 * Where the elements of `dim` stand in order: PyTorch's `argsort` (stable), i32 of x's shape. NaN counts as largest. Takes
 * log²n passes over the elements; nothing waits.
 */
export function argsort(x: Tensor, dim = -1, { descending = false }: SortOptions = {}): Tensor {
  const { rows, back } = asRows(x, axisOf("argsort", dim, x.rank));
  return back(apply(sortOps.argsort, [rows], { descending }));
}
/** Elements of `dim` in order and where they stood: PyTorch's `sort` (stable). The gradient follows the elements. */
export function sort(x: Tensor, dim = -1, options: SortOptions = {}): Sorted {
  return taken(x, dim, argsort(x, dim, options));
}
/**
 * The `k` largest (smallest, where `largest` is false) of `dim` in order, and where they stood: PyTorch's `topk`.
 * @throws ShapeError unless k is a whole number, at most the dimension's size
 */
export function topk(x: Tensor, k: number, dim = -1, largest = true): Sorted {
  const at = axisOf("topk", dim, x.rank);
  const n = x.shape[at] ?? 1;
  if (!Number.isSafeInteger(k) || k < 0 || k > n)
    throw new ShapeError("topk", `dimension ${dim} of ${show(x.shape)} has no ${k} elements`);
  const order = argsort(x, dim, { descending: largest });
  return taken(x, dim, x.rank === 0 ? order : slice(order, at, 0, k));
}
/** The middle of `dim` (the lower of two) and where it stood: PyTorch's `median`. */
export function median(x: Tensor, dim = -1): Sorted {
  const at = axisOf("median", dim, x.rank);
  const n = x.shape[at] ?? 1;
  if (n === 0) throw new ShapeError("median", "an empty dimension has no middle");
  const order = argsort(x, dim);
  if (x.rank === 0) return taken(x, dim, order);
  const indices = slice(order, at, (n - 1) >> 1, ((n - 1) >> 1) + 1);
  return { values: squeeze(gather(x, at, indices), at), indices: squeeze(indices, at) };
}

function taken(x: Tensor, dim: number, indices: Tensor): Sorted {
  return { values: x.rank === 0 ? x : gather(x, dim, indices), indices };
}
