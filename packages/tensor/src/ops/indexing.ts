import type { View } from "../devices/device.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { select as choose } from "../expr/expr.ts";
import { FILL, IDENTITY, Program } from "../expr/program.ts";
import { axisOf, contiguousStrides, type Shape, sameShape, show, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { ne } from "./elementwise.ts";
import { embedding, explainIndex } from "./embedding.ts";
import { apply, type Context, defineOp } from "./op.ts";
import { permute, reshape, select, slice, unsqueeze } from "./shape.ts";
import { broadcastView } from "./views.ts";

/** Where an element of an index tensor points in the flat tensor: −1, which no device takes, where it points outside. */
const PLACE = Program.of(2, 2, ([index, base], [stride, size]) =>
  choose(index.lt(0), -1, choose(size.le(index), -1, index.mul(stride).add(base))),
);
/** Indices below 0 count from the end. */
const FROM_END = Program.of(1, 1, ([index], [size]) => choose(index.lt(0), index.add(size), index));

/** The flat place is −1 where an index is outside, so which one it was is not known. */
const AN_INDEX = (): string => "an index";

function checkIndex(op: string, x: Tensor, dim: number, index: Tensor): void {
  if (index.dtype !== "i32") throw new DTypeError(op, `indices must be i32, not ${index.dtype}; use to('i32')`);
  const fits =
    index.rank === x.rank && x.rank > 0 && index.shape.every((n, d) => d === dim || n <= (x.shape[d] as number));
  if (!fits) {
    throw new ShapeError(
      op,
      `an index of ${show(index.shape)} needs the dimensions of ${show(x.shape)}, none but dimension ${dim} larger`,
    );
  }
}

/** For each element of `index`, the number of the element of a dense tensor of `shape` that it points to along `dim`. */
function flatPlaces(context: Context, shape: Shape, dim: number, index: Tensor): Tensor {
  const strides = contiguousStrides(shape);
  // The part that the other dimensions give, the same for every index tensor of this shape.
  let base = new Int32Array(1);
  for (const [d, n] of index.shape.entries()) {
    const next = new Int32Array(base.length * n);
    for (let i = 0; i < base.length; i++)
      for (let j = 0; j < n; j++) next[i * n + j] = base[i] + (d === dim ? 0 : j * strides[d]);
    base = next;
  }
  const bases = Tensor.from(base, index.shape, { dtype: "i32", device: context.device });
  const out = context.empty(index.shape, "i32");
  context.device.elementwise(PLACE, [strides[dim], shape[dim]], [index, bases], out);
  return reshape(out, [index.size]);
}

const columnOf = (x: Tensor): Tensor => reshape(x, [x.size, 1]);

/** Argument of the ops that gather and scatter. */
export interface AlongArgs {
  readonly dim: number;
}

function copyOf(context: Context, view: View, shape: Shape): Tensor {
  const out = context.empty(shape, view.dtype);
  context.device.elementwise(IDENTITY, [], [view], out);
  return out;
}
function filled(context: Context, shape: Shape, dtype: Tensor["dtype"], value: number): Tensor {
  const out = context.empty(shape, dtype);
  context.device.elementwise(FILL, [value], [], out);
  return out;
}

export const indexingOps = {
  /** out[i][j] = x[index[i][j]][j], along any dimension. */
  gather: defineOp<AlongArgs>({
    name: "gather",
    infer([x, index], { dim }) {
      checkIndex("gather", x, dim, index);
      return { shape: index.shape, dtype: x.dtype };
    },
    forward(context, [x, index], { dim }) {
      const out = context.output();
      const places = flatPlaces(context, x.shape, dim, index);
      explainIndex(
        "gather",
        AN_INDEX,
        () => `dimension ${dim} of ${show(x.shape)}`,
        () => context.device.gatherRows(columnOf(x), places, columnOf(out)),
      );
      context.save(places);
      return out;
    },
    backward(context, grad) {
      const [{ shape, dtype }] = context.inputs;
      const out = filled(context, shape, dtype, 0);
      context.device.scatterRows(columnOf(grad), context.saved[0], columnOf(out), "add");
      return [out, undefined];
    },
  }),
  /** A copy of x with src[i][j] added at [index[i][j]][j]. */
  scatterAdd: defineOp<AlongArgs>({
    name: "scatterAdd",
    infer: ([x, index, src], { dim }) => inferScatter("scatterAdd", x, index, src, dim),
    forward: (context, inputs, { dim }) => scatterInto(context, inputs, dim, "add"),
    backward(context, grad) {
      return [grad, undefined, context.needs[2] ? pick(context, grad) : undefined];
    },
  }),
  /** A copy of x with src[i][j] at [index[i][j]][j]. */
  scatter: defineOp<AlongArgs>({
    name: "scatter",
    infer: ([x, index, src], { dim }) => inferScatter("scatter", x, index, src, dim),
    forward: (context, inputs, { dim }) => scatterInto(context, inputs, dim, "set"),
    backward(context, grad) {
      const [places] = context.saved;
      const toX = (): Tensor => {
        const out = copyOf(context, grad, grad.shape);
        const nothing = filled(context, [places.size, 1], grad.dtype, 0);
        context.device.scatterRows(nothing, places, columnOf(out), "set");
        return out;
      };
      return [context.needs[0] ? toX() : undefined, undefined, context.needs[2] ? pick(context, grad) : undefined];
    },
  }),
} as const;

function inferScatter(op: string, x: Tensor, index: Tensor, src: Tensor, dim: number) {
  checkIndex(op, x, dim, index);
  if (!sameShape(src.shape, index.shape))
    throw new ShapeError(op, `the source ${show(src.shape)} needs the shape of its index, ${show(index.shape)}`);
  if (src.dtype !== x.dtype) throw new DTypeError(op, `the source must be ${x.dtype}, not ${src.dtype}`);
  return { shape: x.shape, dtype: x.dtype };
}

function scatterInto(context: Context, [x, index, src]: readonly Tensor[], dim: number, mode: "set" | "add"): Tensor {
  const out = copyOf(context, x, x.shape);
  const places = flatPlaces(context, x.shape, dim, index);
  explainIndex(
    mode === "add" ? "scatterAdd" : "scatter",
    AN_INDEX,
    () => `dimension ${dim} of ${show(x.shape)}`,
    () => context.device.scatterRows(columnOf(src), places, columnOf(out), mode),
  );
  context.save(places);
  return out;
}

/** The gradient to what was scattered: what stands there now. */
function pick(context: Context, grad: Tensor): Tensor {
  const { shape, dtype } = context.inputs[2];
  const out = context.empty(shape, dtype);
  context.device.gatherRows(columnOf(grad.contiguous()), context.saved[0], columnOf(out));
  return out;
}

/**
 * out[i][j] = x[index[i][j]][j] for dim 0, and so on: PyTorch's `gather`. Shapes: index i32 of x's dimensions, none but
 * `dim` larger; result as the index. The gradient adds up where an element was picked more than once.
 * @throws IndexError where an index is outside of the dimension, as far as the device sees it (the host's do)
 */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  return apply(indexingOps.gather, [x, index], { dim: axisOf("gather", dim, x.rank) });
}
/** A copy of x with `src` added where `index` points: PyTorch's `scatter_add`. Shapes as those of {@link gather}; src as the index. */
export function scatterAdd(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  return apply(indexingOps.scatterAdd, [x, index, src], { dim: axisOf("scatterAdd", dim, x.rank) });
}
/**
 * A copy of x with `src` where `index` points: PyTorch's `scatter`. Shapes as those of {@link gather}; src as the index.
 * Where two point to one element, the later one wins, and the gradient is defined only without such.
 */
export function scatter(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  return apply(indexingOps.scatter, [x, index, src], { dim: axisOf("scatter", dim, x.rank) });
}

/**
 * Slices of `dim` picked by number: PyTorch's `index_select`, for an index of any shape. Shapes: x [...before, n,
 * ...after], index i32 [...index], result [...before, ...index, ...after].
 * @throws IndexError where an index is outside of the dimension, as far as the device sees it (the host's do)
 */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  const at = axisOf("indexSelect", dim, x.rank);
  if (x.rank === 0) throw new ShapeError("indexSelect", "needs at least one dimension");
  if (index.dtype !== "i32")
    throw new DTypeError("indexSelect", `indices must be i32, not ${index.dtype}; use to('i32')`);
  const order = x.shape.map((_, d) => d);
  const front = [at, ...order.filter((d) => d !== at)];
  const picked = explainIndex(
    "indexSelect",
    (row) => `index ${row}`,
    () => `dimension ${dim} of ${show(x.shape)}`,
    () => embedding(at === 0 ? x : permute(x, front), index),
  );
  if (at === 0) return picked;
  const k = index.rank;
  const behind = Array.from({ length: x.rank - 1 }, (_, d) => k + d);
  return permute(picked, [...behind.slice(0, at), ...Array.from({ length: k }, (_, d) => d), ...behind.slice(at)]);
}

/** The elements in reverse order along `dims`: PyTorch's `flip`. A copy. */
export function flip(x: Tensor, dims: number | readonly number[]): Tensor {
  const list = typeof dims === "number" ? [dims] : dims;
  return list.reduce((t, dim) => {
    const n = t.shape[axisOf("flip", dim, t.rank)] ?? 0;
    return t.rank === 0 || n <= 1
      ? t
      : indexSelect(
          t,
          dim,
          numbered(n, (i) => n - 1 - i, t),
        );
  }, x);
}

function numbered(n: number, value: (i: number) => number, beside: Tensor): Tensor {
  const values = Int32Array.from({ length: n }, (_, i) => value(i));
  return Tensor.from(values, [n], { dtype: "i32", device: beside.device });
}

/** A range in {@link at}, as Python writes it: `"1:5"`, `":-1"`, `"::2"`. */
export type Range = `${number | ""}:${number | ""}` | `${number | ""}:${number | ""}:${number | ""}`;

/**
 * One position of {@link at}: a number drops the dimension, a range keeps a part of it, `null` makes a new one of size 1,
 * `"..."` stands for all dimensions not named, an i32 tensor picks slices by number (below 0: from the end).
 */
export type Index = number | Range | null | "..." | Tensor;

/**
 * Indexing as Python writes it in brackets: `at(x, 0, "1:5:2", "...", null, -1)` is `x[0, 1:5:2, ..., None, -1]`. A view,
 * except where a step is negative (NumPy's meaning: PyTorch has none) or a tensor picks. One tensor at most.
 * @throws ShapeError where an index is outside of its dimension, or there are more than dimensions
 */
export function at(x: Tensor, ...index: readonly Index[]): Tensor {
  const named = index.filter((i) => i !== null && i !== "...").length;
  const said = (): string => `[${index.map((i) => (i instanceof Tensor ? show(i.shape) : String(i))).join(", ")}]`;
  if (named > x.rank) throw new ShapeError("at", `${said()} names ${named} dimensions of ${show(x.shape)}`);
  if (index.filter((i) => i === "...").length > 1) throw new ShapeError("at", `${said()} has more than one ellipsis`);
  if (index.filter((i) => i instanceof Tensor).length > 1)
    throw new ShapeError("at", `${said()} has more than one tensor; use gather, or at() twice`);
  let out = x;
  let dim = 0;
  for (const i of index) {
    if (i === "...") dim += x.rank - named;
    else if (i === null) out = unsqueeze(out, dim++);
    else if (typeof i === "number") out = explain(x, said, () => select(out, dim, i));
    else if (typeof i === "string") out = ranged(out, dim++, i);
    else {
      out = indexSelect(out, dim, counted(i, out.shape[dim]));
      dim += i.rank;
    }
  }
  return out;
}

function explain(x: Tensor, said: () => string, body: () => Tensor): Tensor {
  try {
    return body();
  } catch (cause) {
    if (!(cause instanceof ShapeError)) throw cause;
    throw new ShapeError("at", `${said()} is outside of ${show(x.shape)}`, { cause });
  }
}

/** Indices below 0 counted from the end of `n`. */
function counted(index: Tensor, n: number): Tensor {
  if (index.dtype !== "i32")
    throw new DTypeError("at", `a tensor of indices must be i32, not ${index.dtype}; use to('i32')`);
  const out = Tensor.empty(index.shape, { dtype: "i32", device: index.device });
  index.device.elementwise(FROM_END, [n], [index], out);
  return out;
}

function ranged(x: Tensor, dim: number, range: Range): Tensor {
  const parts = range.split(":").map((part) => (part.trim() === "" ? undefined : Number(part)));
  if (parts.length < 2 || parts.length > 3 || parts.some((n) => n !== undefined && !Number.isSafeInteger(n)))
    throw new ShapeError("at", `"${range}" is no range; write "start:end" or "start:end:step" in whole numbers`);
  const [start, end, step = 1] = parts;
  if (step === 0) throw new ShapeError("at", `the step of "${range}" is 0`);
  if (step > 0) return slice(x, dim, start, end, step);
  const n = x.shape[dim];
  const clamp = (i: number): number => Math.min(n - 1, Math.max(-1, i < 0 ? i + n : i));
  const first = start === undefined ? n - 1 : clamp(start);
  const last = end === undefined ? -1 : clamp(end);
  const length = Math.max(0, Math.ceil((first - last) / -step));
  return indexSelect(
    x,
    dim,
    numbered(length, (i) => first + i * step, x),
  );
}

/**
 * Indices of all elements that are not 0: PyTorch's `nonzero`, i32 [found, dimensions]. Waits for the device, since only
 * the values tell the shape.
 */
export async function nonzero(x: Tensor): Promise<Tensor> {
  const [values, strides] = [await x.data(), contiguousStrides(x.shape)];
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] !== 0) for (const [d, n] of x.shape.entries()) found.push(Math.floor(i / strides[d]) % n);
  }
  const rows = x.rank === 0 ? Number(values[0] !== 0) : found.length / x.rank;
  return Tensor.from(found, [rows, x.rank], { dtype: "i32", device: x.device });
}

/**
 * The elements where `mask` is not 0, in order: PyTorch's `masked_select`, [found]. Waits for the device; the gradient
 * flows to the elements taken. The mask broadcasts.
 */
export async function maskedSelect(x: Tensor, mask: Tensor): Promise<Tensor> {
  const test = ne(mask, 0);
  const shown = Tensor.empty(x.shape, { dtype: test.dtype, device: x.device });
  if (!sameShape(mask.shape, x.shape) && mask.rank > x.rank)
    throw new ShapeError("maskedSelect", `a mask of ${show(mask.shape)} does not fit ${show(x.shape)}`);
  x.device.elementwise(IDENTITY, [], [broadcastView(test, x.shape)], shown);
  const values = await shown.data();
  const places: number[] = [];
  for (let i = 0; i < sizeOf(x.shape); i++) if (values[i] !== 0) places.push(i);
  const index = Tensor.from(places, [places.length], { dtype: "i32", device: x.device });
  return embedding(reshape(x, [x.size]), index);
}
