import { constant, type Expr, select } from "../expr/expr.ts";
import { broadcastShapes } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { add, elementwise, mul, type Params, sub } from "./elementwise.ts";
import { apply, type Op } from "./op.ts";

const integer = { integer: true };

/** Below this size, functions that lose their digits near 0 are summed from their series. */
const SMALL = 0.1;

/** c₀ + c₁x + c₂x² + … */
function polynomial(x: Expr, coefficients: readonly number[]): Expr {
  const [highest = 0, ...rest] = [...coefficients].reverse();
  return rest.reduce((sum, c) => sum.mul(x).add(c), constant(highest));
}

/** log(1+x) = 2·artanh(x/(2+x)) near 0; seven terms are exact to f64 there. */
export function log1pExpr(x: Expr): Expr {
  const s = x.div(x.add(2));
  const series = polynomial(
    s.mul(s),
    [1, 3, 5, 7, 9, 11, 13].map((k) => 2 / k),
  );
  return select(x.abs().lt(SMALL), s.mul(series), x.add(1).log());
}

const INVERSE_FACTORIALS = [1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 1 / 362880];

/** eˣ − 1 by its series near 0. */
export function expm1Expr(x: Expr): Expr {
  return select(x.abs().lt(SMALL), x.mul(polynomial(x, INVERSE_FACTORIALS)), x.exp().sub(1));
}

const truncExpr = (x: Expr): Expr => select(x.lt(0), x.ceil(), x.floor());
/** 1 for what is neither infinite nor NaN: ∞ − ∞ is NaN. */
const finiteExpr = (x: Expr): Expr => x.sub(x).eq(0);

/** More elementwise mathematics. */
export const mathOps = {
  clamp: elementwise("clamp", 1, ([x], [lo, hi]) => select(x.lt(lo), lo, select(hi.lt(x), hi, x)), {
    ...integer,
    params: 2,
  }),
  clampMin: elementwise("clampMin", 1, ([x], [lo]) => select(x.lt(lo), lo, x), { ...integer, params: 1 }),
  clampMax: elementwise("clampMax", 1, ([x], [hi]) => select(hi.lt(x), hi, x), { ...integer, params: 1 }),
  maskedFill: elementwise("maskedFill", 2, ([x, mask], [value]) => select(mask, value, x), {
    ...{ integer: true, params: 1, test: 1 },
  }),
  reciprocal: elementwise("reciprocal", 1, ([x]) => constant(1).div(x)),
  log2: elementwise("log2", 1, ([x]) => x.log().div(Math.LN2)),
  log10: elementwise("log10", 1, ([x]) => x.log().div(Math.LN10)),
  log1p: elementwise("log1p", 1, ([x]) => log1pExpr(x)),
  exp2: elementwise("exp2", 1, ([x]) => x.mul(Math.LN2).exp()),
  expm1: elementwise("expm1", 1, ([x]) => expm1Expr(x)),
  tan: elementwise("tan", 1, ([x]) => x.sin().div(x.cos())),
  sinh: elementwise("sinh", 1, ([x]) => expm1Expr(x).sub(expm1Expr(x.neg())).mul(0.5)),
  cosh: elementwise("cosh", 1, ([x]) => x.exp().add(x.neg().exp()).mul(0.5)),
  trunc: elementwise("trunc", 1, ([x]) => truncExpr(x), integer),
  frac: elementwise("frac", 1, ([x]) => x.sub(truncExpr(x))),
  remainder: elementwise("remainder", 2, ([a, b]) => a.sub(b.mul(a.div(b).floor())), integer),
  remainderScalar: elementwise("remainderScalar", 1, ([a], [s]) => a.sub(s.mul(a.div(s).floor())), {
    ...integer,
    params: 1,
  }),
  fmod: elementwise("fmod", 2, ([a, b]) => a.sub(b.mul(truncExpr(a.div(b)))), integer),
  fmodScalar: elementwise("fmodScalar", 1, ([a], [s]) => a.sub(s.mul(truncExpr(a.div(s)))), { ...integer, params: 1 }),
  floorDivide: elementwise("floorDivide", 2, ([a, b]) => a.div(b).floor(), integer),
  floorDivideScalar: elementwise("floorDivideScalar", 1, ([a], [s]) => a.div(s).floor(), { ...integer, params: 1 }),
  isnan: elementwise("isnan", 1, ([x]) => x.ne(x), integer),
  isfinite: elementwise("isfinite", 1, ([x]) => finiteExpr(x), integer),
  isinf: elementwise("isinf", 1, ([x]) => select(x.ne(x), 0, finiteExpr(x).eq(0)), integer),
  nanToNum: elementwise(
    "nanToNum",
    1,
    ([x], [nan, posinf, neginf]) =>
      select(x.ne(x), nan, select(finiteExpr(x), x, select(constant(0).lt(x), posinf, neginf))),
    { params: 3 },
  ),
  logicalNot: elementwise("logicalNot", 1, ([x]) => x.eq(0), integer),
  logicalAnd: elementwise("logicalAnd", 2, ([a, b]) => select(a, b.ne(0), 0), integer),
  logicalOr: elementwise("logicalOr", 2, ([a, b]) => select(a, 1, b.ne(0)), integer),
  logicalXor: elementwise("logicalXor", 2, ([a, b]) => a.eq(0).ne(b.eq(0)), integer),
} as const;

const o = mathOps;

function unary(op: Op<Params>) {
  return (x: Tensor): Tensor => apply(op, [x], []);
}
function binary(op: Op<Params>) {
  return (a: Tensor, b: Tensor): Tensor => apply(op, [a, b], []);
}
function withScalar(op: Op<Params>, scalarOp: Op<Params>) {
  return (a: Tensor, b: Tensor | number): Tensor =>
    typeof b === "number" ? apply(scalarOp, [a], [b]) : apply(op, [a, b], []);
}

/**
 * Values below `min` become `min`, those above `max` become `max`: PyTorch's `clamp`. The gradient is 1 where the value
 * stays, the ends included, else 0; NaN stays.
 */
export function clamp(x: Tensor, min?: number, max?: number): Tensor {
  if (min !== undefined && max !== undefined) return apply(o.clamp, [x], [Math.min(min, max), max]);
  if (min !== undefined) return apply(o.clampMin, [x], [min]);
  return max === undefined ? x : apply(o.clampMax, [x], [max]);
}
/** `value` where `mask` is not 0, else `x`: PyTorch's `masked_fill`. The mask broadcasts; no gradient where it is set. */
export function maskedFill(x: Tensor, mask: Tensor, value: number): Tensor {
  return apply(o.maskedFill, [x, mask], [value]);
}
/** 1/x: PyTorch's `reciprocal`. */
export const reciprocal = unary(o.reciprocal);
/** Logarithm to base 2: PyTorch's `log2`. */
export const log2 = unary(o.log2);
/** Logarithm to base 10: PyTorch's `log10`. */
export const log10 = unary(o.log10);
/** log(1 + x) without loss of digits near 0: PyTorch's `log1p`. */
export const log1p = unary(o.log1p);
/** 2ˣ: PyTorch's `exp2`. */
export const exp2 = unary(o.exp2);
/** eˣ − 1 without loss of digits near 0: PyTorch's `expm1`. */
export const expm1 = unary(o.expm1);
/** Tangent of an angle in radians: PyTorch's `tan`. */
export const tan = unary(o.tan);
/** Hyperbolic sine: PyTorch's `sinh`. */
export const sinh = unary(o.sinh);
/** Hyperbolic cosine: PyTorch's `cosh`. */
export const cosh = unary(o.cosh);
/** The whole part, towards 0: PyTorch's `trunc`. */
export const trunc = unary(o.trunc);
/** x − trunc(x): PyTorch's `frac`. */
export const frac = unary(o.frac);
/** a − b·⌊a/b⌋, of the divisor's sign: PyTorch's `remainder`. */
export const remainder = withScalar(o.remainder, o.remainderScalar);
/** a − b·trunc(a/b), of the dividend's sign: PyTorch's `fmod`. */
export const fmod = withScalar(o.fmod, o.fmodScalar);
/** ⌊a/b⌋: PyTorch's `floor_divide`. No gradient. */
export const floorDivide = withScalar(o.floorDivide, o.floorDivideScalar);
/** 1 where NaN, else 0: PyTorch's `isnan`. */
export const isnan = unary(o.isnan);
/** 1 where neither infinite nor NaN, else 0: PyTorch's `isfinite`. */
export const isfinite = unary(o.isfinite);
/** 1 where +∞ or −∞, else 0: PyTorch's `isinf`. */
export const isinf = unary(o.isinf);
/** Numbers in place of NaN and infinities, by default 0 and f32's largest: PyTorch's `nan_to_num`. */
export function nanToNum(x: Tensor, nan = 0, posinf = 3.4028234663852886e38, neginf = -posinf): Tensor {
  return apply(o.nanToNum, [x], [nan, posinf, neginf]);
}
/** 1 where 0, else 0: PyTorch's `logical_not`. */
export const logicalNot = unary(o.logicalNot);
/** 1 where neither is 0: PyTorch's `logical_and`. */
export const logicalAnd = binary(o.logicalAnd);
/** 1 where either is not 0: PyTorch's `logical_or`. */
export const logicalOr = binary(o.logicalOr);
/** 1 where exactly one is not 0: PyTorch's `logical_xor`. */
export const logicalXor = binary(o.logicalXor);
/** a + weight·(b − a): PyTorch's `lerp`. */
export function lerp(a: Tensor, b: Tensor, weight: Tensor | number): Tensor {
  broadcastShapes("lerp", a.shape, b.shape, typeof weight === "number" ? [] : weight.shape);
  return add(a, mul(sub(b, a), weight));
}
