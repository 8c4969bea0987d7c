import type { View } from "../devices/device.ts";
import type { DType } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { select } from "../expr/expr.ts";
import { FILL, IDENTITY, Program } from "../expr/program.ts";
import { axisOf, show, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { gather } from "./indexing.ts";
import { apply, type Context, defineOp } from "./op.ts";
import { reshape, slice, squeeze, transpose } from "./shape.ts";
import { broadcastView } from "./views.ts";

/** How {@link argsort} orders. */
export interface SortArgs {
  readonly descending: boolean;
  /** So many of each row, from the first. */
  readonly count: number;
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

/** Numbers up to here are exact in f32, which kernels read beside the values; larger ones are i32. */
const EXACT_IN_F32 = 2 ** 24;

/** Columns to be sorted: values and the numbers that tell where they stood, both dense [length, columns]. */
interface Columns {
  readonly values: Tensor;
  readonly numbers: Tensor;
}

/** The rows of x [rows, n] as columns, `length` long, what is missing filled up so that it comes last. */
function columnsOf(context: Context, x: Tensor, length: number, descending: boolean): Columns {
  const [rows, n] = x.shape;
  const { device } = context;
  const values = context.empty([length, rows], x.dtype);
  device.elementwise(FILL, [filler(x.dtype, descending)], [], values);
  device.elementwise(IDENTITY, [], [transpose(x, 0, 1)], slice(values, 0, 0, n));
  const count = Tensor.from(
    Int32Array.from({ length }, (_, i) => i),
    [length, 1],
    { dtype: "i32", device },
  );
  const numbers = context.empty([length, rows], x.dtype === "f32" && length <= EXACT_IN_F32 ? "f32" : "i32");
  device.elementwise(IDENTITY, [], [broadcastView(count, [length, rows])], numbers);
  return { values, numbers };
}

/**
 * Bitonic sorting (Batcher, 1968) of columns whose length is a power of 2: log²n steps, the same ones whatever the values,
 * so any device runs them unasked. What is compared in a step lies in runs side by side.
 */
function sortColumns(context: Context, { values, numbers }: Columns, descending: boolean): Columns {
  const [length, columns] = values.shape;
  const { device } = context;
  const make = (like: Tensor): Tensor => context.empty(like.shape, like.dtype);
  const direction = Tensor.from([0, 1], [2], { dtype: numbers.dtype, device });
  const isAfter = descending ? AFTER_DESCENDING : AFTER_ASCENDING;
  let sorted: Columns = { values, numbers };
  for (let block = 2; block <= length; block *= 2) {
    for (let apart = block / 2; apart >= 1; apart /= 2) {
      // Blocks in pairs, the first of which ascends and the second descends; in each, runs of pairs that are `apart`.
      const blocks = Math.min(2, length / block);
      const shape = [length / block / blocks, blocks, block / apart / 2, apart * columns];
      const strides = [block * blocks * columns, block * columns, 2 * apart * columns, 1];
      const half = (t: Tensor, second: number): View => ({
        ...{ storage: t.storage, dtype: t.dtype, offset: t.offset + second * apart * columns, shape, strides },
      });
      const { storage, dtype, offset } = direction;
      const descends: View = { storage, dtype, offset, shape, strides: [0, 1, 0, 0] };
      const after = context.empty(shape, numbers.dtype);
      const { values: v, numbers: n } = sorted;
      device.elementwise(isAfter, [], [half(v, 0), half(v, 1), half(n, 0), half(n, 1)], after);
      const next: Columns = { values: make(v), numbers: make(n) };
      for (const [from, to] of [
        [v, next.values],
        [n, next.numbers],
      ]) {
        device.elementwise(KEEP, [], [half(from, 0), half(from, 1), after, descends], half(to, 0));
        device.elementwise(KEEP, [], [half(from, 1), half(from, 0), after, descends], half(to, 1));
      }
      for (const t of [v, n, after]) t.dispose();
      sorted = next;
    }
  }
  return sorted;
}

const powerOf2 = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Numbers of the first `k` of each row of x [rows, n] in order, i32 [rows, k]. */
function firstOf(context: Context, x: Tensor, k: number, descending: boolean): Tensor {
  const [rows, n] = x.shape;
  let columns: Columns;
  // Of a long row, the first k of each of many short columns are sorted again, until few enough are left.
  const short = powerOf2(Math.max(SHORT_COLUMN, 4 * k));
  if (n > 4 * short) {
    const count = Math.ceil(n / short);
    const whole = columnsOf(context, x, short * count, descending);
    const cut = (t: Tensor): Tensor => reshape(t, [short, count * rows]);
    columns = { values: cut(whole.values), numbers: cut(whole.numbers) };
    for (let left = count; ; ) {
      const sorted = sortColumns(context, columns, descending);
      const first = (t: Tensor): Tensor => slice(t, 0, 0, k);
      // Candidates [k, left, rows] become columns of at least `short` again, the rest of the last one filled up.
      const candidates = k * left;
      if (left === 1) return contiguousNumbers(context, transpose(first(sorted.numbers), 0, 1));
      const next = candidates > 4 * short ? Math.ceil(candidates / short) : 1;
      const length = next === 1 ? powerOf2(candidates) : short;
      columns = {
        values: refilled(context, first(sorted.values), length * next, rows, filler(x.dtype, descending), length),
        numbers: refilled(context, first(sorted.numbers), length * next, rows, n + length, length),
      };
      left = next;
    }
  }
  columns = sortColumns(context, columnsOf(context, x, powerOf2(n), descending), descending);
  return contiguousNumbers(context, transpose(slice(columns.numbers, 0, 0, k), 0, 1));
}

const SHORT_COLUMN = 256;

/** What is there [k, left·rows], as columns [length, …] with `value` behind it. */
function refilled(context: Context, t: Tensor, total: number, rows: number, value: number, length: number): Tensor {
  const there = t.size / Math.max(1, rows);
  const out = context.empty([total, rows], t.dtype);
  context.device.elementwise(FILL, [value], [], out);
  context.device.elementwise(IDENTITY, [], [reshape(t, [there, rows])], slice(out, 0, 0, there));
  return reshape(out, [length, (total / length) * rows]);
}

function contiguousNumbers(context: Context, numbers: Tensor): Tensor {
  const out = context.empty(numbers.shape, "i32");
  context.device.elementwise(IDENTITY, [], [numbers], out);
  return out;
}

export const sortOps = {
  /** Numbers of the first `count` elements of each row [rows, n] in order, i32; equals keep theirs, NaN counts as largest. */
  argsort: defineOp<SortArgs>({
    name: "argsort",
    infer([x], { count }) {
      if (x.rank !== 2) throw new ShapeError("argsort", `needs rows, not ${show(x.shape)}`);
      if (x.dtype === "bf16") throw new DTypeError("argsort", "bf16 is not sorted; use to('f32')");
      return { shape: [x.shape[0], count], dtype: "i32" };
    },
    forward(context, [x], { descending, count }) {
      return x.shape[0] * count === 0 ? context.output() : firstOf(context, x, count, descending);
    },
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
  return back(apply(sortOps.argsort, [rows], { descending, count: rows.shape[1] }));
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
  if (x.rank === 0) return { values: reshape(x, k === 0 ? [0] : []), indices: argsort(x) };
  const { rows, back } = asRows(x, at);
  return taken(x, at, back(apply(sortOps.argsort, [rows], { descending: largest, count: k })));
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
