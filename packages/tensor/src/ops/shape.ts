import { BLOCKS, type DType, isBlocks, isFloating } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { FILL, IDENTITY } from "../expr/program.ts";
import { isQuantizable, QUANTIZABLE } from "../quantized/encode.ts";
import {
  axisOf,
  broadcastShapes,
  broadcastStrides,
  checkShape,
  contiguousStrides,
  type Shape,
  sameShape,
  show,
  sizeOf,
} from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { apply, defineOp, type ResultType } from "./op.ts";
import { viewStrides } from "./views.ts";

/** A window on the input's memory: no copy. */
function viewOf(x: Tensor, shape: Shape, strides: readonly number[], offset = x.offset): Tensor {
  x.storage.retain();
  return new Tensor({ storage: x.storage, dtype: x.dtype, offset, shape, strides });
}

const sameType = (x: Tensor, shape: Shape): ResultType => ({ shape, dtype: x.dtype });

export interface SliceArgs {
  readonly dim: number;
  readonly start: number;
  readonly length: number;
  readonly step: number;
}

function sliced(x: Tensor, { dim, start, length, step }: SliceArgs): Tensor {
  return viewOf(
    x,
    x.shape.map((n, d) => (d === dim ? length : n)),
    x.strides.map((s, d) => (d === dim ? s * step : s)),
    x.offset + (length > 0 ? start * x.strides[dim] : 0),
  );
}

export const shapeOps = {
  reshape: defineOp<Shape>({
    name: "reshape",
    blocks: [0],
    infer([x], shape) {
      const isWhole = !isBlocks(x.dtype) || (shape.at(-1) ?? 1) % BLOCKS[x.dtype].elements === 0;
      if (!isWhole || (isBlocks(x.dtype) && !viewStrides(x.shape, x.strides, shape))) {
        throw new ShapeError(
          "reshape",
          `${x.dtype} blocks of ${show(x.shape)} are not cut or moved into ${show(shape)}`,
        );
      }
      return sameType(x, shape);
    },
    forward(_context, [x], shape) {
      const strides = viewStrides(x.shape, x.strides, shape);
      return strides ? viewOf(x, shape, strides) : viewOf(contiguousCopy(x), shape, contiguousStrides(shape), 0);
    },
    backward: (context, grad) => [reshape(grad, context.inputs[0].shape)],
  }),
  permute: defineOp<readonly number[]>({
    name: "permute",
    blocks: [0],
    infer: ([x], dims) =>
      sameType(
        x,
        dims.map((d) => x.shape[d]),
      ),
    forward: (_context, [x], dims) =>
      viewOf(
        x,
        dims.map((d) => x.shape[d]),
        dims.map((d) => x.strides[d]),
      ),
    backward: (_context, grad, dims) => [
      permute(
        grad,
        dims.map((_, d) => dims.indexOf(d)),
      ),
    ],
  }),
  expand: defineOp<Shape>({
    name: "expand",
    infer([x], shape) {
      const joined = broadcastShapes("expand", x.shape, shape);
      if (!sameShape(joined, shape))
        throw new ShapeError("expand", `${show(x.shape)} does not expand to ${show(shape)}`);
      return sameType(x, shape);
    },
    forward: (_context, [x], shape) => viewOf(x, shape, broadcastStrides(x.shape, x.strides, shape)),
    backward(context, grad) {
      const { shape } = context.inputs[0];
      const lead = grad.rank - shape.length;
      const dims = grad.shape.flatMap((n, d) => (d < lead || (shape[d - lead] === 1 && n !== 1) ? [d] : []));
      return [grad.sum(dims, true).reshape(...shape)];
    },
  }),
  slice: defineOp<SliceArgs>({
    name: "slice",
    blocks: [0],
    infer([x], { dim, start, length, step }) {
      if (isBlocks(x.dtype) && x.strides[dim] === 1) {
        const { elements } = BLOCKS[x.dtype];
        if (step !== 1 || start % elements !== 0 || length % elements !== 0) {
          throw new ShapeError(
            "slice",
            `${x.dtype} blocks of ${elements} are not cut: elements ${start} to ${start + length} by ${step} of dimension ${dim}`,
          );
        }
      }
      return sameType(
        x,
        x.shape.map((n, d) => (d === dim ? length : n)),
      );
    },
    forward: (_context, [x], args) => sliced(x, args),
    backward(context, grad, args) {
      const [{ shape, dtype }] = context.inputs;
      const out = context.empty(shape, dtype);
      context.device.elementwise(FILL, [0], [], out);
      context.device.elementwise(IDENTITY, [], [grad], sliced(out, args));
      return [out];
    },
  }),
  cat: defineOp<number>({
    name: "cat",
    infer(inputs, dim) {
      const [first] = inputs;
      for (const t of inputs) {
        if (
          t.rank !== first.rank ||
          t.shape.some((n, d) => d !== dim && n !== first.shape[d]) ||
          t.dtype !== first.dtype
        ) {
          throw new ShapeError(
            "cat",
            `along dimension ${dim}, ${show(t.shape)} ${t.dtype} does not fit ${show(first.shape)} ${first.dtype}`,
          );
        }
      }
      const length = inputs.reduce((n, t) => n + t.shape[dim], 0);
      return sameType(
        first,
        first.shape.map((n, d) => (d === dim ? length : n)),
      );
    },
    forward(context, inputs, dim) {
      const out = context.output();
      let start = 0;
      for (const t of inputs) {
        const length = t.shape[dim];
        context.device.elementwise(IDENTITY, [], [t], sliced(out, { dim, start, length, step: 1 }));
        start += length;
      }
      return out;
    },
    backward(context, grad, dim) {
      let start = 0;
      return context.inputs.map(({ shape }) => {
        start += shape[dim];
        return sliced(grad, { dim, start: start - shape[dim], length: shape[dim], step: 1 });
      });
    },
  }),
  clone: defineOp<undefined>({
    name: "clone",
    infer: ([x]) => sameType(x, x.shape),
    forward: (_context, [x]) => contiguousCopy(x),
    backward: (_context, grad) => [grad],
  }),
  cast: defineOp<DType>({
    name: "cast",
    blocks: [0],
    infer([x], dtype) {
      if (isBlocks(dtype) && !isQuantizable(dtype))
        throw new DTypeError("cast", `nothing is turned into ${dtype}, only into ${QUANTIZABLE.join(" and ")}`);
      if (isBlocks(dtype) && isBlocks(x.dtype))
        throw new DTypeError("cast", `${x.dtype} blocks are not turned into ${dtype}; use to('f32') first`);
      if (isBlocks(x.dtype) && (dtype !== "f32" || x.rank !== 2))
        throw new DTypeError("cast", `${x.dtype} blocks decode to f32 matrices, not ${dtype} of ${show(x.shape)}`);
      if (!x.device.dtypes.includes(dtype))
        throw new DTypeError("cast", `device ${x.device.info.name} has no ${dtype}`);
      return { shape: x.shape, dtype };
    },
    forward(context, [x]) {
      const out = context.output();
      if (isBlocks(out.dtype)) context.device.quantize(x, out);
      else if (isBlocks(x.dtype)) context.device.gatherRows(x, everyRow(x), out);
      else context.device.elementwise(IDENTITY, [], [x], out);
      return out;
    },
    backward: (context, grad) => [isFloating(context.result.dtype) ? cast(grad, context.inputs[0].dtype) : undefined],
  }),
} as const;

/** 0, 1, … for each row. */
function everyRow(x: Tensor): Tensor {
  const rows = Int32Array.from({ length: x.shape[0] }, (_, i) => i);
  return Tensor.from(rows, [rows.length], { dtype: "i32", device: x.device });
}

/** A contiguous copy of the values, outside of the tape. */
export function contiguousCopy(x: Tensor): Tensor {
  if (isBlocks(x.dtype)) {
    throw new DTypeError(
      "contiguous",
      `${x.dtype} blocks of ${show(x.shape)} are not copied in another order; use to('f32')`,
    );
  }
  const out = Tensor.empty(x.shape, { dtype: x.dtype, device: x.device });
  x.device.elementwise(IDENTITY, [], [x], out);
  return out;
}

/** A contiguous copy; the gradient flows through. */
export function clone(x: Tensor): Tensor {
  return apply(shapeOps.clone, [x], undefined);
}
/** The values in another element type, rounded to nearest; the gradient goes back in the type it came from. */
export function cast(x: Tensor, dtype: DType): Tensor {
  return apply(shapeOps.cast, [x], dtype);
}
/** The same elements in another shape: a view where strides allow, else a copy. One size may be −1. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = sizeOf(shape.filter((n) => n !== -1));
  const full = shape.map((n) => (n === -1 ? x.size / known : n));
  if (
    shape.filter((n) => n === -1).length > 1 ||
    sizeOf(full) !== x.size ||
    !full.every((n) => Number.isInteger(n) && n >= 0)
  ) {
    throw new ShapeError("reshape", `${show(x.shape)} does not reshape to ${show(shape)}`);
  }
  return apply(shapeOps.reshape, [x], full);
}
/** Dimensions in another order: a view. */
export function permute(x: Tensor, dims: readonly number[]): Tensor {
  const order = dims.map((d) => axisOf("permute", d, x.rank));
  if (new Set(order).size !== x.rank || order.length !== x.rank) {
    throw new ShapeError("permute", `${show(dims)} does not name each dimension of ${show(x.shape)} once`);
  }
  return apply(shapeOps.permute, [x], order);
}
/** Two dimensions swapped: a view. */
export function transpose(x: Tensor, a: number, b: number): Tensor {
  const [from, to] = [axisOf("transpose", a, x.rank), axisOf("transpose", b, x.rank)];
  return permute(
    x,
    x.shape.map((_, d) => (d === from ? to : d === to ? from : d)),
  );
}
/** A dimension of size 1 before `dim`: a view. */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  const at = axisOf("unsqueeze", dim, x.rank + 1);
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}
/** Without dimension `dim`, whose size is 1, or without all of that size: PyTorch's `squeeze`. A view. @throws ShapeError where it is not 1 */
export function squeeze(x: Tensor, dim?: number): Tensor {
  if (dim === undefined)
    return reshape(
      x,
      x.shape.filter((n) => n !== 1),
    );
  const at = axisOf("squeeze", dim, x.rank);
  if (x.shape[at] !== 1) throw new ShapeError("squeeze", `dimension ${dim} of ${show(x.shape)} is not 1`);
  return reshape(x, [...x.shape.slice(0, at), ...x.shape.slice(at + 1)]);
}
/** PyTorch's `expand`: −1 keeps a size. */
export function expand(x: Tensor, shape: Shape): Tensor {
  const lead = shape.length - x.rank;
  const full = shape.map((n, d) => (n === -1 && d >= lead ? x.shape[d - lead] : n));
  checkShape("expand", full);
  return apply(shapeOps.expand, [x], full);
}
/** Elements `start` to `end` (not included) along `dim`, every `step`th: a view. Negative numbers count from the end. */
export function slice(x: Tensor, dim: number, start = 0, end?: number, step = 1): Tensor {
  const at = axisOf("slice", dim, x.rank);
  if (!Number.isInteger(step) || step < 1)
    throw new ShapeError("slice", `the step must be a whole number above 0, not ${step}`);
  if (!Number.isInteger(start) || !Number.isInteger(end ?? 0))
    throw new ShapeError("slice", `start and end must be whole numbers, not ${start} and ${end}`);
  const n = x.shape[at];
  const clamp = (i: number): number => Math.min(n, Math.max(0, i < 0 ? i + n : i));
  const first = clamp(start);
  const length = Math.max(0, Math.ceil((clamp(end ?? n) - first) / step));
  return apply(shapeOps.slice, [x], { dim: at, start: first, length, step });
}
/** One index along `dim`, the dimension dropped: a view. */
export function select(x: Tensor, dim: number, index: number): Tensor {
  const at = axisOf("select", dim, x.rank);
  const i = index < 0 ? index + x.shape[at] : index;
  if (!Number.isInteger(i) || !(i >= 0 && i < x.shape[at]))
    throw new ShapeError("select", `index ${index} is outside dimension ${dim} of ${show(x.shape)}`);
  return squeeze(slice(x, at, i, i + 1), at);
}
/** Joins tensors along a dimension they have. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError("cat", "nothing to join");
  return apply(shapeOps.cat, tensors, axisOf("cat", dim, tensors[0].rank));
}
/** Joins tensors of one shape along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  const other = tensors.find((t) => !sameShape(t.shape, tensors[0].shape));
  if (other) throw new ShapeError("stack", `shapes differ: ${show(tensors[0].shape)} and ${show(other.shape)}`);
  return cat(
    tensors.map((t) => unsqueeze(t, dim)),
    dim,
  );
}
