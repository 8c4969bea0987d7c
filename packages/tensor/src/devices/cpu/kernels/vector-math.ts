// exp, log, tanh and erf on vectors of f32. Polynomials but erf's are those of the Cephes library (S. Moshier), whose ranges
// and coefficients are for single precision. Errors stated are the largest found over all f32 (with fused multiply-add).
import type { Builder } from "../lang/builder.ts";
import type { VF, VI } from "../lang/values.ts";

/** Coefficients from the highest power down; Horner's rule. */
function polynomial(k: Builder, x: VF, coefficients: readonly number[]): VF {
  let sum = k.vector(coefficients[0]!);
  for (const c of coefficients.slice(1)) sum = sum.fma(x, c);
  return sum;
}

const EXP = [1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1];

/** eˣ within 1 ulp, subnormal results included; +∞ above 88.72, 0 below −103.97, NaN for NaN. */
export function exp(k: Builder, x: VF): VF {
  // The constant comes first, so that a NaN passes through.
  const bounded = k.vector(89).min(k.vector(-104).max(x));
  const n = bounded.mul(Math.LOG2E).round();
  // ln 2 in two parts, the first short enough for n·hi to be exact.
  const r = n.fnma(-2.1219444e-4, n.fnma(0.693359375, bounded));
  const fraction = polynomial(k, r, EXP).fma(r.mul(r), r).add(1);
  // 2ⁿ in two factors, because n reaches from −150 to 128.
  const whole = n.toInt();
  const half = whole.sar(1);
  const powerOf2 = (exponent: typeof half) => exponent.add(127).shl(23).float();
  return fraction.mul(powerOf2(half)).mul(powerOf2(whole.sub(half)));
}

/**
 * 1/(1 + e⁻ˣ) within 2 ulp down to x = −87; below, where it is less than 2⁻¹²⁵, within that; 0 below −88.73, NaN for NaN.
 */
export function sigmoid(k: Builder, x: VF): VF {
  // As exp, but e⁻ˣ ends at 2⁻¹²⁶ below and at infinity from 2¹²⁷·√2 on, so one power of 2 suffices.
  const bounded = k.vector(89).min(k.vector(-87).max(x.neg()));
  const n = bounded.mul(Math.LOG2E).round();
  const r = n.fnma(-2.1219444e-4, n.fnma(0.693359375, bounded));
  const fraction = polynomial(k, r, EXP).fma(r.mul(r), r).add(1);
  const power = n.toInt().add(127).shl(23).float();
  return k.vector(1).div(fraction.fma(power, 1));
}

/** 1.5·2²³ + 127: a number added to it is rounded to an integer, which is in the low bits as the exponent of its power of 2. */
const ROUNDING = 1.5 * 2 ** 23 + 127;

/** eˣ for x below 88, within 1 ulp from −87.6 on: a third fewer steps than `exp`, and 0 in place of lesser numbers. */
export function expOfNegative(k: Builder, x: VF): VF {
  // At −88 the exponent's bits are those of 0. The constant comes first, so that a NaN passes through.
  const bounded = k.vector(-88).max(x);
  const shifted = bounded.fma(Math.LOG2E, ROUNDING);
  const n = shifted.sub(ROUNDING);
  const r = n.fnma(-2.1219444e-4, n.fnma(0.693359375, bounded));
  const fraction = polynomial(k, r, EXP).fma(r.mul(r), r).add(1);
  return fraction.mul(shifted.bits().shl(23).float());
}

const LOG = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
];

/** The natural logarithm within 1 ulp, subnormal numbers included; −∞ for 0, NaN below 0 and for NaN. */
export function log(k: Builder, x: VF): VF {
  const small = x.compare("lt", 2 ** -126);
  const scaled = small.select(x.mul(2 ** 24), x);
  const bits = scaled.bits();
  // Mantissa in [√½, √2): the exponent counts from √½ up.
  const offset = bits.sub(0x3f3504f3);
  const exponent = offset.sar(23);
  const m = bits.sub(exponent.shl(23)).float().sub(1);
  const e = exponent.toFloat().sub(small.select(k.vector(24), k.zero()));
  const z = m.mul(m);
  const tail = polynomial(k, m, LOG).mul(m).mul(z);
  const low = e.fma(-2.1219444e-4, tail).sub(z.mul(0.5));
  const result = e.fma(0.693359375, m.add(low));
  const infinite = k.vector(Number.POSITIVE_INFINITY);
  const regular = x.compare("lt", infinite).select(result, x); // ∞ and NaN stay
  const negative = x.compare("lt", 0).select(k.vector(Number.NaN), regular);
  return x.compare("eq", 0).select(k.vector(Number.NEGATIVE_INFINITY), negative);
}

const TANH = [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1];

/** tanh within 2 ulp; ±1 from 9.02 on, NaN for NaN. */
export function tanh(k: Builder, x: VF): VF {
  const size = x.abs();
  const square = x.mul(x);
  const near = polynomial(k, square, TANH).mul(square).fma(x, x);
  const far = k.vector(1).sub(k.vector(2).div(exp(k, size.add(size)).add(1)));
  const signed = far.bits().or(x.bits().and(-0x80000000)).float();
  return size.compare("lt", 0.625).select(near, signed);
}

/** erf(x)/x − 1 by x², for |x| up to 1: fitted for the least greatest relative error, 1.2e-9. */
const ERF_NEAR = [
  7.85390702e-5, -8.0102086e-4, 5.18832958e-3, -2.685381308e-2, 1.1283585183e-1, -3.7612625828e-1, 1.2837916573e-1,
];
/** −ln(1 − erf(x)) by x from 1 to 4: fitted likewise for erf, 1.1e-9. */
const ERF_FAR = [
  -1.86379256e-4, 2.94765892e-3, -2.183806639e-2, 1.03106759386e-1, 6.38144827463e-1, 1.12708919324, 3.41522296e-4,
];

/** The error function within 1.2 ulp, 1.5 where multiply-add rounds twice; ±1 from 3.92 on, NaN for NaN. */
export function erf(k: Builder, x: VF): VF {
  const size = k.vector(4).min(x.abs());
  const near = polynomial(k, x.mul(x), ERF_NEAR).fma(x, x);
  const far = k.vector(1).sub(expOfNegative(k, polynomial(k, size, ERF_FAR).neg()));
  const signed = far.bits().or(x.bits().and(-0x80000000)).float();
  return size.compare("lt", 1).select(near, signed);
}

/** The greater of the two, NaN where either is. */
export function maxNaN(a: VF, b: VF): VF {
  return a.compare("ne", a).select(a, a.max(b));
}

/** The lesser of the two, NaN where either is. */
export function minNaN(a: VF, b: VF): VF {
  return a.compare("ne", a).select(a, a.min(b));
}

/** The upper 16 bits of each lane, rounded to nearest, ties to even; a NaN stays one. To be stored as u16. */
export function toBf16(x: VF): VI {
  const bits = x.bits();
  const rounded = bits.add(bits.shr(16).and(1)).add(0x7fff).float();
  const quiet = bits.or(0x400000).float();
  return x.compare("ne", x).select(quiet, rounded).bits().shr(16);
}
