import { ShapeError } from "../errors.ts";
import { select } from "../expr/expr.ts";
import { axisOf, broadcastShapes, type Shape, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { abs, add, div, elementwise, eq, exp, log, mul, ne, pow, square, sub } from "./elementwise.ts";
import { gather } from "./indexing.ts";
import { clamp, isinf, maskedFill } from "./math.ts";
import { apply } from "./op.ts";
import { amax, amin, argmax, argmin, mean, reduceArgs, sum } from "./reduce.ts";
import { cat, reshape, slice, squeeze, unsqueeze } from "./shape.ts";
import type { Sorted } from "./sort.ts";

type Dims = number | readonly number[];

export const statisticsOps = {
  /** √x with the gradient 0 at 0: where all that was squared is 0, its norm has a corner. */
  root: elementwise("root", 1, ([x]) => select(x.le(0), x, x.sqrt())),
  /** |x|ᵖ with the gradient 0 at 0, for p above 0. */
  absPow: elementwise("absPow", 1, ([x], [p]) => select(x.eq(0), 0, x.abs().pow(p)), { params: 1 }),
} as const;

const float = (x: Tensor): Tensor => (x.dtype === "i32" || x.dtype === "bf16" ? x.to("f32") : x);

/** Settings of {@link variance} and {@link std}. */
export interface VarianceOptions {
  /** What the divisor is less than the number of elements: 1 (Bessel's) unless given; 0 for the whole population. */
  readonly correction?: number;
  readonly keepdim?: boolean;
}

/** Mean squared distance from the mean over `dims`, all unless given: PyTorch's `var`. NaN over too few elements. */
export function variance(x: Tensor, dims?: Dims, { correction = 1, keepdim = false }: VarianceOptions = {}): Tensor {
  const values = float(x);
  const count = reduceArgs("variance", x, dims, keepdim).dims.reduce((n, d) => n * x.shape[d], 1);
  const squares = square(sub(values, mean(values, dims, true)));
  return div(sum(squares, dims, keepdim), Math.max(0, count - correction));
}
/** Square root of the {@link variance}: PyTorch's `std`. The gradient is 0 where all elements are equal. */
export function std(x: Tensor, dims?: Dims, options: VarianceOptions = {}): Tensor {
  return apply(statisticsOps.root, [variance(x, dims, options)], []);
}

/**
 * (Σ|x|ᵖ)^(1/p) over `dims`, all unless given: PyTorch's `linalg.vector_norm`. p may be ±Infinity (largest and smallest
 * size) and 0 (how many are not 0). The gradient is 0 where all elements are 0.
 */
export function norm(x: Tensor, p = 2, dims?: Dims, keepdim = false): Tensor {
  const values = float(x);
  if (p === 2) return apply(statisticsOps.root, [sum(square(values), dims, keepdim)], []);
  if (p === 1) return sum(abs(values), dims, keepdim);
  if (p === 0) return sum(ne(values, 0), dims, keepdim);
  if (p === Number.POSITIVE_INFINITY) return amax(abs(values), dims, keepdim);
  if (p === Number.NEGATIVE_INFINITY) return amin(abs(values), dims, keepdim);
  const total = sum(apply(statisticsOps.absPow, [values], [p]), dims, keepdim);
  // At 0 the root's slope is infinite: 1 stands in for it, and the 0 that is its result is put back.
  const none = eq(total, 0);
  return maskedFill(pow(maskedFill(total, none, 1), 1 / p), none, 0);
}

/** x over its {@link norm} along `dim`, which counts as at least `eps`: PyTorch's `functional.normalize`. */
export function normalize(x: Tensor, p = 2, dim = 1, eps = 1e-12): Tensor {
  return div(x, clamp(norm(x, p, dim, true), eps));
}

/** Cosine of the angle between a and b along `dim`: PyTorch's `functional.cosine_similarity`. */
export function cosineSimilarity(a: Tensor, b: Tensor, dim = 1, eps = 1e-8): Tensor {
  broadcastShapes("cosineSimilarity", a.shape, b.shape);
  const sizes = [a, b].map((t) => clamp(norm(t, 2, dim, true), eps));
  return sum(mul(div(a, sizes[0]), div(b, sizes[1])), dim);
}

/** log Σeˣ over `dims`, all unless given, with the largest taken off first: PyTorch's `logsumexp`. */
export function logsumexp(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  const values = float(x);
  const args = reduceArgs("logsumexp", x, dims, true);
  if (args.dims.some((d) => x.shape[d] === 0)) return log(sum(exp(values), dims, keepdim));
  const largest = amax(values.detach(), dims, true);
  // Of infinities nothing is taken off: ∞ − ∞ would be NaN.
  const shift = maskedFill(largest, isinf(largest), 0);
  const total = add(log(sum(exp(sub(values, shift)), dims, true)), shift);
  return keepdim ? total : reshape(total, droppedShape(x.shape, args.dims));
}

const droppedShape = (shape: Shape, dims: readonly number[]): number[] => shape.filter((_, d) => !dims.includes(d));

/** Product over one dimension, or of all elements: PyTorch's `prod`. Its gradient holds at zeros too. */
export function prod(x: Tensor, dim?: number, keepdim = false): Tensor {
  if (dim === undefined) return prod(reshape(x, [x.size]), 0);
  const at = axisOf("prod", dim, x.rank);
  if (x.rank === 0) return x;
  let parts = x;
  // Halves times each other, until one is left; an odd one waits behind.
  while (parts.shape[at] > 1) {
    const half = parts.shape[at] >> 1;
    const product = mul(slice(parts, at, 0, half), slice(parts, at, half, 2 * half));
    parts = parts.shape[at] % 2 === 0 ? product : cat([product, slice(parts, at, 2 * half)], at);
  }
  if (parts.shape[at] === 0) parts = add(sum(parts, at, true), 1);
  return keepdim ? parts : squeeze(parts, at);
}

function extreme(op: string, x: Tensor, dim: number, keepdim: boolean, find: typeof argmax): Sorted {
  const at = axisOf(op, dim, x.rank);
  if (x.rank === 0) return { values: x, indices: reshape(find(reshape(x, [1])), []) };
  if (x.shape[at] === 0) throw new ShapeError(op, `dimension ${dim} of ${show(x.shape)} is empty`);
  const indices = find(x, at, true);
  const values = gather(x, at, indices);
  return keepdim ? { values, indices } : { values: squeeze(values, at), indices: squeeze(indices, at) };
}

/**
 * The largest along `dim` and where it stands (the first of equals), i32: PyTorch's `max` with a dimension; the gradient
 * goes to that element alone. For the largest over several dimensions see {@link amax}.
 */
export function max(x: Tensor, dim: number, keepdim = false): Sorted {
  return extreme("max", x, dim, keepdim, argmax);
}
/** The smallest along `dim` and where it stands; see {@link max}. PyTorch's `min` with a dimension. */
export function min(x: Tensor, dim: number, keepdim = false): Sorted {
  return extreme("min", x, dim, keepdim, argmin);
}

/** How many elements are not 0 over `dims`, all unless given: PyTorch's `count_nonzero`. */
export function countNonzero(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  return sum(ne(x, 0), dims, keepdim);
}
/** 1 where any element over `dims` (all unless given) is not 0, else 0: PyTorch's `any`. */
export function any(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  return ne(countNonzero(x, dims, keepdim), 0);
}
/** 1 where no element over `dims` (all unless given) is 0, else 0: PyTorch's `all`. */
export function all(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  return eq(sum(eq(x, 0), dims, keepdim), 0);
}

/**
 * Distances between all rows of two sets: PyTorch's `cdist` with p = 2. Shapes: a [..., m, features], b [..., n,
 * features], result [..., m, n]. Every pair's difference is made, so that near points keep their digits.
 */
export function cdist(a: Tensor, b: Tensor): Tensor {
  if (a.rank < 2 || b.rank < 2 || a.shape.at(-1) !== b.shape.at(-1))
    throw new ShapeError("cdist", `needs rows of equal length: ${show(a.shape)} and ${show(b.shape)}`);
  return norm(sub(unsqueeze(a, -2), unsqueeze(b, -3)), 2, -1);
}
