import { full } from "../creation.ts";
import { type DType, promote } from "../dtype.ts";
import { constant, type Expr, select, sigmoid as sigmoidExpr } from "../expr/expr.ts";
import { IDENTITY, Program } from "../expr/program.ts";
import { broadcastShapes, sameShape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, type Context, defineOp, type Op } from "./op.ts";
import { broadcastView } from "./views.ts";

/** Numbers given at each call of an elementwise op. */
export type Params = readonly number[];

interface ElementwiseOptions {
  /** Numbers beside the tensors. */
  params?: number;
  /** i32 inputs give i32 (where the numbers are whole) instead of f32. */
  integer?: boolean;
  /** The input, by number, that only decides and has no part in the result's type. */
  test?: number;
}

/**
 * Declares an elementwise op from its scalar expression: broadcasting, gradient and the code of every device follow.
 *
 * @example const softplus = elementwise("softplus", 1, ([x]) => x.exp().add(1).log());
 */
export function elementwise(
  name: string,
  inputs: number,
  body: (x: Expr[], p: Expr[]) => Expr,
  { params = 0, integer = false, test }: ElementwiseOptions = {},
): Op<Params> {
  const program = Program.of(inputs, params, body);
  const differentiable = Array.from({ length: inputs }, (_, i) => program.gradient(i)).some((g) => g);
  return defineOp<Params>({
    name,
    infer(tensors, numbers) {
      const dtypes = tensors.filter((_, i) => i !== test).map((t) => t.dtype);
      return {
        shape: broadcastShapes(name, ...tensors.map((t) => t.shape)),
        dtype: resultType(dtypes, integer && numbers.every(Number.isInteger)),
      };
    },
    forward(context, tensors, numbers) {
      const out = context.output();
      context.device.elementwise(
        program,
        numbers,
        tensors.map((t) => broadcastView(t, out.shape)),
        out,
      );
      if (context.recorded) context.save(...savedInputs(program, context).map((i) => tensors[i]));
      return out;
    },
    backward: differentiable ? (context, grad, numbers) => gradientsOf(program, context, grad, numbers) : "none",
  });
}

function resultType(dtypes: readonly DType[], integer: boolean): DType {
  const joined = dtypes.reduce(promote);
  return joined === "bf16" || (joined === "i32" && !integer) ? "f32" : joined;
}

/** The inputs that the wanted gradients read. */
function savedInputs(program: Program, context: Context): number[] {
  const used = context.needs.flatMap((needed, i) => (needed ? (program.gradient(i)?.needs ?? []) : []));
  return [...new Set(used)].sort((a, b) => a - b);
}

/** Each gradient in one pass: the derivative program, summed over dimensions that were broadcast. */
function gradientsOf(program: Program, context: Context, grad: Tensor, numbers: Params): (Tensor | undefined)[] {
  const saved = savedInputs(program, context);
  return context.inputs.map(({ shape, dtype }, i) => {
    const gradient = program.gradient(i);
    if (!gradient || !context.needs[i]) return undefined;
    const same = sameShape(shape, grad.shape);
    if (same && gradient.program === IDENTITY && dtype === grad.dtype) return grad;
    const inputs = [grad, ...gradient.needs.map((at) => context.saved[saved.indexOf(at)])];
    const views = inputs.map((t) => broadcastView(t, grad.shape));
    const out = context.empty(shape, dtype);
    if (same) context.device.elementwise(gradient.program, numbers, views, out);
    else context.device.reduce("sum", gradient.program, numbers, views, broadcastView(out, grad.shape));
    return out;
  });
}

/** max(x, 0) that keeps NaN; the gradient at 0 is 0, as in PyTorch. */
const reluExpr = (x: Expr): Expr => select(x.le(0), 0, x);

const integer = { integer: true };
const scalar = { params: 1 };
const integerScalar = { params: 1, integer: true };

/** Every elementwise op. One with a number in place of its second tensor has a name of its own, `…Scalar`. */
export const elementwiseOps = {
  add: elementwise("add", 2, ([a, b]) => a.add(b), integer),
  addScalar: elementwise("addScalar", 1, ([a], [s]) => a.add(s), integerScalar),
  sub: elementwise("sub", 2, ([a, b]) => a.sub(b), integer),
  mul: elementwise("mul", 2, ([a, b]) => a.mul(b), integer),
  mulScalar: elementwise("mulScalar", 1, ([a], [s]) => a.mul(s), integerScalar),
  div: elementwise("div", 2, ([a, b]) => a.div(b)),
  divScalar: elementwise("divScalar", 1, ([a], [s]) => a.div(s), scalar),
  pow: elementwise("pow", 2, ([a, b]) => a.pow(b)),
  powScalar: elementwise("powScalar", 1, ([a], [s]) => a.pow(s), scalar),
  maximum: elementwise("maximum", 2, ([a, b]) => a.max(b), integer),
  maximumScalar: elementwise("maximumScalar", 1, ([a], [s]) => a.max(s), integerScalar),
  minimum: elementwise("minimum", 2, ([a, b]) => a.min(b), integer),
  minimumScalar: elementwise("minimumScalar", 1, ([a], [s]) => a.min(s), integerScalar),
  lt: elementwise("lt", 2, ([a, b]) => a.lt(b), integer),
  ltScalar: elementwise("ltScalar", 1, ([a], [s]) => a.lt(s), integerScalar),
  le: elementwise("le", 2, ([a, b]) => a.le(b), integer),
  leScalar: elementwise("leScalar", 1, ([a], [s]) => a.le(s), integerScalar),
  gtScalar: elementwise("gtScalar", 1, ([a], [s]) => s.lt(a), integerScalar),
  geScalar: elementwise("geScalar", 1, ([a], [s]) => s.le(a), integerScalar),
  eq: elementwise("eq", 2, ([a, b]) => a.eq(b), integer),
  eqScalar: elementwise("eqScalar", 1, ([a], [s]) => a.eq(s), integerScalar),
  ne: elementwise("ne", 2, ([a, b]) => a.ne(b), integer),
  neScalar: elementwise("neScalar", 1, ([a], [s]) => a.ne(s), integerScalar),
  where: elementwise("where", 3, ([test, a, b]) => select(test, a, b), { integer: true, test: 0 }),
  neg: elementwise("neg", 1, ([x]) => x.neg(), integer),
  abs: elementwise("abs", 1, ([x]) => x.abs(), integer),
  sign: elementwise("sign", 1, ([x]) => x.sign(), integer),
  floor: elementwise("floor", 1, ([x]) => x.floor(), integer),
  ceil: elementwise("ceil", 1, ([x]) => x.ceil(), integer),
  round: elementwise("round", 1, ([x]) => x.round(), integer),
  square: elementwise("square", 1, ([x]) => x.mul(x), integer),
  sqrt: elementwise("sqrt", 1, ([x]) => x.sqrt()),
  rsqrt: elementwise("rsqrt", 1, ([x]) => constant(1).div(x.sqrt())),
  exp: elementwise("exp", 1, ([x]) => x.exp()),
  log: elementwise("log", 1, ([x]) => x.log()),
  sin: elementwise("sin", 1, ([x]) => x.sin()),
  cos: elementwise("cos", 1, ([x]) => x.cos()),
  tanh: elementwise("tanh", 1, ([x]) => x.tanh()),
  erf: elementwise("erf", 1, ([x]) => x.erf()),
  sigmoid: elementwise("sigmoid", 1, ([x]) => sigmoidExpr(x)),
  silu: elementwise("silu", 1, ([x]) => x.mul(sigmoidExpr(x))),
  relu: elementwise("relu", 1, ([x]) => reluExpr(x)),
  /** The exact form, x·Φ(x) (Hendrycks & Gimpel, 2016). */
  gelu: elementwise("gelu", 1, ([x]) => x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5)),
} as const;

const o = elementwiseOps;
const none: Params = [];

function binary(op: Op<Params>, scalarOp: Op<Params>, number: (s: number) => number = (s) => s) {
  return (a: Tensor, b: Tensor | number): Tensor =>
    typeof b === "number" ? apply(scalarOp, [a], [number(b)]) : apply(op, [a, b], none);
}

function unary(op: Op<Params>) {
  return (x: Tensor): Tensor => apply(op, [x], none);
}

/** Sum, with broadcasting as NumPy's: PyTorch's `add`. */
export const add = binary(o.add, o.addScalar);
/** Difference: PyTorch's `sub`. */
export const sub = binary(o.sub, o.addScalar, (s) => -s);
/** Product, elementwise: PyTorch's `mul`. */
export const mul = binary(o.mul, o.mulScalar);
/** Quotient, whole numbers give f32: PyTorch's `div`. */
export const div = binary(o.div, o.divScalar);
const power = binary(o.pow, o.powScalar);
/** Power: PyTorch's `pow`. Squares and cubes are products, as there. */
export function pow(a: Tensor, b: Tensor | number): Tensor {
  if (a.dtype === "f32" || a.dtype === "f64") {
    if (b === 2) return square(a);
    if (b === 3) return mul(square(a), a);
  }
  return power(a, b);
}
/** The larger of two, NaN where either is; equals share the gradient: PyTorch's `maximum`. */
export const maximum = binary(o.maximum, o.maximumScalar);
/** The smaller of two, NaN where either is; equals share the gradient: PyTorch's `minimum`. */
export const minimum = binary(o.minimum, o.minimumScalar);
/** 1 where a < b, else 0: PyTorch's `lt`. */
export const lt = binary(o.lt, o.ltScalar);
/** 1 where a ≤ b, else 0: PyTorch's `le`. */
export const le = binary(o.le, o.leScalar);
/** 1 where a = b, else 0: PyTorch's `eq`. */
export const eq = binary(o.eq, o.eqScalar);
/** 1 where a ≠ b (NaN counts), else 0: PyTorch's `ne`. */
export const ne = binary(o.ne, o.neScalar);
/** 1 where a > b, else 0: PyTorch's `gt`. */
export const gt = (a: Tensor, b: Tensor | number): Tensor =>
  typeof b === "number" ? apply(o.gtScalar, [a], [b]) : apply(o.lt, [b, a], none);
/** 1 where a ≥ b, else 0: PyTorch's `ge`. */
export const ge = (a: Tensor, b: Tensor | number): Tensor =>
  typeof b === "number" ? apply(o.geScalar, [a], [b]) : apply(o.le, [b, a], none);
/**
 * `a` where `test` is not 0, else `b`, both broadcast: PyTorch's `where`. No gradient (nor NaN) comes from the side not
 * taken. A number takes the other side's type, f32 where that is i32 and the number is not whole.
 */
export function where(test: Tensor, a: Tensor | number, b: Tensor | number): Tensor {
  const beside = typeof a !== "number" ? a : typeof b !== "number" ? b : test;
  const typeFor = (value: number): DType => (beside.dtype === "i32" && !Number.isInteger(value) ? "f32" : beside.dtype);
  const filled = (value: Tensor | number): Tensor =>
    typeof value === "number" ? full([], value, { dtype: typeFor(value), device: beside.device }) : value;
  return apply(o.where, [test, filled(a), filled(b)], none);
}
/** −x: PyTorch's `neg`. */
export const neg = unary(o.neg);
/** |x|: PyTorch's `abs`. */
export const abs = unary(o.abs);
/** −1, 0 or 1; NaN for NaN: PyTorch's `sign`. No gradient. */
export const sign = unary(o.sign);
/** Down to a whole number: PyTorch's `floor`. No gradient. */
export const floor = unary(o.floor);
/** Up to a whole number: PyTorch's `ceil`. No gradient. */
export const ceil = unary(o.ceil);
/** To the nearest whole number, ties to even: PyTorch's `round`. No gradient. */
export const round = unary(o.round);
/** x²: PyTorch's `square`. */
export const square = unary(o.square);
/** √x: PyTorch's `sqrt`. */
export const sqrt = unary(o.sqrt);
/** 1/√x: PyTorch's `rsqrt`. */
export const rsqrt = unary(o.rsqrt);
/** eˣ: PyTorch's `exp`. */
export const exp = unary(o.exp);
/** Natural logarithm: PyTorch's `log`. */
export const log = unary(o.log);
/** Sine of an angle in radians: PyTorch's `sin`. */
export const sin = unary(o.sin);
/** Cosine of an angle in radians: PyTorch's `cos`. */
export const cos = unary(o.cos);
/** Hyperbolic tangent: PyTorch's `tanh`. */
export const tanh = unary(o.tanh);
/** The error function: PyTorch's `erf`. */
export const erf = unary(o.erf);
/** 1/(1 + e⁻ˣ): PyTorch's `sigmoid`. */
export const sigmoid = unary(o.sigmoid);
/** x·σ(x): PyTorch's `functional.silu` (Elfwing et al., 2017). */
export const silu = unary(o.silu);
/** max(x, 0), NaN kept; gradient 0 at 0: PyTorch's `relu`. */
export const relu = unary(o.relu);
