import { ShapeError } from "../errors.ts";
import { constant, type Expr, select } from "../expr/expr.ts";
import { axisOf, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { elementwise, elementwiseOps, mul, sigmoid } from "./elementwise.ts";
import { expm1Expr, log1pExpr } from "./math.ts";
import { apply } from "./op.ts";
import { slice } from "./shape.ts";

/** log(1 + eˣ), which overflows nowhere. */
const softplusExpr = (x: Expr): Expr => x.max(0).add(log1pExpr(x.abs().neg().exp()));
/** 0 … 6; no gradient at the ends, as in PyTorch. */
const relu6Expr = (x: Expr): Expr => select(x.le(0), 0, select(constant(6).le(x), 6, x));
const eluExpr = (x: Expr, alpha: Expr | number): Expr => select(x.le(0), expm1Expr(x).mul(alpha), x);

/** Of SELU (Klambauer et al., 2017). */
const SELU_ALPHA = 1.6732632423543772;
const SELU_SCALE = 1.0507009873554805;

/** Activation functions; `relu`, `sigmoid`, `tanh`, `silu` and the exact `gelu` are among the elementwise ops. */
export const activationOps = {
  geluTanh: elementwise("geluTanh", 1, ([x]) => {
    const inner = x.add(x.mul(x).mul(x).mul(0.044715)).mul(Math.sqrt(2 / Math.PI));
    return x.mul(inner.tanh().add(1)).mul(0.5);
  }),
  leakyRelu: elementwise("leakyRelu", 1, ([x], [slope]) => select(x.le(0), x.mul(slope), x), { params: 1 }),
  elu: elementwise("elu", 1, ([x], [alpha]) => eluExpr(x, alpha), { params: 1 }),
  selu: elementwise("selu", 1, ([x]) => eluExpr(x, SELU_ALPHA).mul(SELU_SCALE)),
  softplus: elementwise("softplus", 1, ([x], [beta]) => softplusExpr(x.mul(beta)).div(beta), { params: 1 }),
  logSigmoid: elementwise("logSigmoid", 1, ([x]) => softplusExpr(x.neg()).neg()),
  softsign: elementwise("softsign", 1, ([x]) => x.div(x.abs().add(1))),
  mish: elementwise("mish", 1, ([x]) => x.mul(softplusExpr(x).tanh())),
  relu6: elementwise("relu6", 1, ([x]) => relu6Expr(x)),
  hardSigmoid: elementwise("hardSigmoid", 1, ([x]) => relu6Expr(x.add(3)).div(6)),
  hardSwish: elementwise("hardSwish", 1, ([x]) => x.mul(relu6Expr(x.add(3))).div(6)),
} as const;

const o = activationOps;

/** Settings of {@link gelu}. */
export interface GeluOptions {
  /** `none`: x·Φ(x). `tanh`: the approximation of Hendrycks & Gimpel (2016), that of GPT-2. */
  readonly approximate?: "none" | "tanh";
}

/** x·Φ(x), or its approximation by tanh: PyTorch's `functional.gelu`. */
export function gelu(x: Tensor, { approximate = "none" }: GeluOptions = {}): Tensor {
  return apply(approximate === "tanh" ? o.geluTanh : elementwiseOps.gelu, [x], []);
}
/** x, or slope·x below 0: PyTorch's `functional.leaky_relu`. */
export function leakyRelu(x: Tensor, slope = 0.01): Tensor {
  return apply(o.leakyRelu, [x], [slope]);
}
/** x, or α(eˣ − 1) below 0: PyTorch's `functional.elu` (Clevert et al., 2015). */
export function elu(x: Tensor, alpha = 1): Tensor {
  return apply(o.elu, [x], [alpha]);
}
/** Scaled ELU that keeps mean 0 and variance 1: PyTorch's `functional.selu` (Klambauer et al., 2017). */
export function selu(x: Tensor): Tensor {
  return apply(o.selu, [x], []);
}
/** log(1 + e^βx)/β, exact for all x: PyTorch's `functional.softplus` without its threshold. */
export function softplus(x: Tensor, beta = 1): Tensor {
  return apply(o.softplus, [x], [beta]);
}
/** log σ(x) that underflows nowhere: PyTorch's `functional.logsigmoid`. */
export function logSigmoid(x: Tensor): Tensor {
  return apply(o.logSigmoid, [x], []);
}
/** x/(1 + |x|): PyTorch's `functional.softsign`. */
export function softsign(x: Tensor): Tensor {
  return apply(o.softsign, [x], []);
}
/** x·tanh(softplus(x)): PyTorch's `functional.mish` (Misra, 2019). */
export function mish(x: Tensor): Tensor {
  return apply(o.mish, [x], []);
}
/** min(max(x, 0), 6): PyTorch's `functional.relu6`. */
export function relu6(x: Tensor): Tensor {
  return apply(o.relu6, [x], []);
}
/** relu6(x + 3)/6: PyTorch's `functional.hardsigmoid`. */
export function hardSigmoid(x: Tensor): Tensor {
  return apply(o.hardSigmoid, [x], []);
}
/** x·relu6(x + 3)/6: PyTorch's `functional.hardswish` (Howard et al., 2019). */
export function hardSwish(x: Tensor): Tensor {
  return apply(o.hardSwish, [x], []);
}
/**
 * a·σ(b) of the halves a and b of `dim`: PyTorch's `functional.glu` (Dauphin et al., 2017).
 * @throws ShapeError where the dimension is odd
 */
export function glu(x: Tensor, dim = -1): Tensor {
  const at = axisOf("glu", dim, x.rank);
  const half = (x.shape[at] ?? 0) / 2;
  if (x.rank === 0 || !Number.isInteger(half))
    throw new ShapeError("glu", `dimension ${dim} of ${show(x.shape)} has no two halves`);
  return mul(slice(x, at, 0, half), sigmoid(slice(x, at, half)));
}
