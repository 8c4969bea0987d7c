import { arange, zeros } from "../creation.ts";
import { ShapeError } from "../errors.ts";
import { FILL, IDENTITY } from "../expr/program.ts";
import { axisOf, type Shape, show } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { eq, le, where } from "./elementwise.ts";
import { apply, defineOp } from "./op.ts";
import { sum } from "./reduce.ts";
import { reshape } from "./shape.ts";
import { pad } from "./windows.ts";

/** The elements at [i][i + offset] of two dimensions. */
export interface DiagonalArgs {
  readonly offset: number;
  readonly dims: readonly [number, number];
}

function lengthOf(shape: Shape, { offset, dims: [rows, columns] }: DiagonalArgs): number {
  return Math.max(0, Math.min(shape[rows] - Math.max(0, -offset), shape[columns] - Math.max(0, offset)));
}

function diagonalShape(shape: Shape, args: DiagonalArgs): number[] {
  return [...shape.filter((_, d) => !args.dims.includes(d)), lengthOf(shape, args)];
}

function diagonalView(x: Tensor, args: DiagonalArgs): Tensor {
  const { offset, dims } = args;
  const [rowStep, columnStep] = dims.map((d) => x.strides[d]);
  const first = offset >= 0 ? offset * columnStep : -offset * rowStep;
  x.storage.retain();
  return new Tensor({
    storage: x.storage,
    dtype: x.dtype,
    offset: x.offset + (lengthOf(x.shape, args) > 0 ? first : 0),
    shape: diagonalShape(x.shape, args),
    strides: [...x.strides.filter((_, d) => !dims.includes(d)), rowStep + columnStep],
  });
}

export const diagonalOps = {
  diagonal: defineOp<DiagonalArgs>({
    name: "diagonal",
    infer: ([x], args) => ({ shape: diagonalShape(x.shape, args), dtype: x.dtype }),
    forward: (_context, [x], args) => diagonalView(x, args),
    backward(context, grad, args) {
      const [{ shape, dtype }] = context.inputs;
      const out = context.empty(shape, dtype);
      context.device.elementwise(FILL, [0], [], out);
      const into = diagonalView(out, args);
      if (into.size > 0) context.device.elementwise(IDENTITY, [], [grad], into);
      return [out];
    },
  }),
} as const;

/**
 * The elements at [i][i + offset] of two dimensions, which become one at the end: PyTorch's `diagonal`. A view.
 * @throws ShapeError where the two are one
 */
export function diagonal(x: Tensor, offset = 0, dim1 = 0, dim2 = 1): Tensor {
  const dims = [axisOf("diagonal", dim1, x.rank), axisOf("diagonal", dim2, x.rank)] as const;
  if (x.rank < 2 || dims[0] === dims[1])
    throw new ShapeError("diagonal", `needs two different dimensions of ${show(x.shape)}, not ${dim1} and ${dim2}`);
  return apply(diagonalOps.diagonal, [x], { offset, dims });
}
/** The diagonal of a matrix, or the matrix with a vector on its diagonal: PyTorch's `diag`. */
export function diag(x: Tensor, offset = 0): Tensor {
  if (x.rank === 2) return diagonal(x, offset);
  if (x.rank !== 1) throw new ShapeError("diag", `needs a vector or a matrix, not ${show(x.shape)}`);
  const n = x.shape[0] + Math.abs(offset);
  const place = arange(n, { device: x.device });
  // Row i of the matrix has the vector's element i, counted from where the diagonal begins.
  const before = Math.max(0, -offset);
  const column = reshape(pad(x, [before, n - x.shape[0] - before]), [n, 1]);
  return where(eq(place, reshape(place, [n, 1]).add(offset)), column, zeros([], { dtype: x.dtype, device: x.device }));
}
/** Sum of the diagonal of a matrix: PyTorch's `trace`. */
export function trace(x: Tensor): Tensor {
  if (x.rank !== 2) throw new ShapeError("trace", `needs a matrix, not ${show(x.shape)}`);
  return sum(diagonal(x));
}

/** Row and column numbers of the last two dimensions, as they broadcast against each other. */
function places(op: string, x: Tensor): { rows: Tensor; columns: Tensor } {
  if (x.rank < 2) throw new ShapeError(op, `needs matrices, not ${show(x.shape)}`);
  const [rows, columns] = x.shape.slice(-2).map((n) => arange(n, { device: x.device }));
  return { rows: reshape(rows, [x.shape.at(-2)!, 1]), columns };
}

/** The part on and below diagonal number `diagonal`, else 0: PyTorch's `tril`, of the last two dimensions. */
export function tril(x: Tensor, diagonal = 0): Tensor {
  const { rows, columns } = places("tril", x);
  return where(le(columns, rows.add(diagonal)), x, zeros([], { dtype: x.dtype, device: x.device }));
}
/** The part on and above diagonal number `diagonal`, else 0: PyTorch's `triu`, of the last two dimensions. */
export function triu(x: Tensor, diagonal = 0): Tensor {
  const { rows, columns } = places("triu", x);
  return where(le(rows.add(diagonal), columns), x, zeros([], { dtype: x.dtype, device: x.device }));
}
