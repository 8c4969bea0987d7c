// exp, log, tanh and others on vectors of f32. Polynomials of those three are the Cephes library's (S. Moshier), whose ranges
// and coefficients are for single precision; the others are fitted for the least greatest relative error, which is told.
// Errors stated are the largest found over all f32 (with fused multiply-add).
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
  return scaledExp(k, n, n.fnma(-2.1219444e-4, n.fnma(0.693359375, bounded)));
}

/** 2ⁿ·eʳ for a whole n from −150 to 129 and |r| up to ln 2 / 2. */
function scaledExp(k: Builder, n: VF, r: VF): VF {
  const fraction = polynomial(k, r, EXP).fma(r.mul(r), r).add(1);
  // 2ⁿ in two factors: one alone does not reach so far.
  const whole = n.toInt();
  const half = whole.sar(1);
  const powerOf2 = (exponent: VI) => exponent.add(127).shl(23).float();
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

/** A positive number's exponent, counted from √½ up, and its mantissa in [√½, √2), less 1. */
function parts(k: Builder, x: VF): [exponent: VF, mantissa: VF] {
  const small = x.compare("lt", 2 ** -126);
  const bits = small.select(x.mul(2 ** 24), x).bits();
  const exponent = bits.sub(0x3f3504f3).sar(23);
  return [exponent.toFloat().sub(small.select(k.vector(24), k.zero())), bits.sub(exponent.shl(23)).float().sub(1)];
}

/** The natural logarithm within 1 ulp, subnormal numbers included; −∞ for 0, NaN below 0 and for NaN. */
export function log(k: Builder, x: VF): VF {
  const [e, m] = parts(k, x);
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
  return size.compare("lt", 0.625).select(near, far).bits().or(sign(x)).float();
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
  const signed = far.bits().or(sign(x)).float();
  return size.compare("lt", 1).select(near, signed);
}

/** The product rounded, and what rounding left out (T. J. Dekker, 1971, where multiply-add rounds twice). */
function product(k: Builder, a: VF, b: VF): [VF, VF] {
  const rounded = a.mul(b);
  if (k.target.fused) return [rounded, a.fma(b, rounded.neg())];
  const high = (x: VF) => x.bits().and(-4096).float();
  const [ah, bh] = [high(a), high(b)];
  const [al, bl] = [a.sub(ah), b.sub(bh)];
  return [rounded, ah.mul(bh).sub(rounded).add(ah.mul(bl)).add(al.mul(bh)).add(al.mul(bl))];
}

const THIRD = [0.3333333432674408, -9.934107758624577e-9] as const;
/** artanh(s)/s − 1 − s²/3 by s², to s = 0.172, over s⁴: 1.8e-11 of the whole. */
const ARTANH = [1.16659326e-1, 1.42759062e-1, 2.00000458e-1];
/** 2/ln 2. */
const TWO_LOG2E = [2.885390043258667, 3.851926067000022e-8] as const;

/** log₂ of a positive number, rounded, and what is left out: within 2⁻³³ of the whole. */
function log2(k: Builder, x: VF): [VF, VF] {
  const [e, m] = parts(k, x);
  // 1 + m = (1 + s) / (1 − s), and log of that is 2·artanh s = 2·s·(1 + s²/3 + …).
  const divisor = m.add(2);
  const s = m.div(divisor);
  const [back, backRest] = product(k, s, divisor);
  const sRest = s.fnma(m.sub(divisor.sub(2)), m.sub(back).sub(backRest)).div(divisor);
  const [square, squareRest] = product(k, s, s);
  const [third, thirdRest] = product(k, square, k.vector(THIRD[0]));
  const series = third.add(1);
  const seriesRest = third
    .sub(series.sub(1))
    .add(thirdRest)
    .add(s.add(s).mul(sRest).add(squareRest).mul(THIRD[0]).add(square.mul(THIRD[1])))
    .add(polynomial(k, square, ARTANH).mul(square).mul(square));
  const [half, halfRest] = product(k, s, series);
  const [mantissa, mantissaRest] = product(k, half, k.vector(TWO_LOG2E[0]));
  const sum = e.add(mantissa);
  const rest = s.mul(seriesRest).add(sRest.mul(series)).add(halfRest).mul(TWO_LOG2E[0]);
  return [sum, mantissa.sub(sum.sub(e)).add(mantissaRest.add(rest.add(half.mul(TWO_LOG2E[1]))))];
}

/**
 * xʸ within 1.2 ulp, subnormal numbers included; special values as C's `pow` (and PyTorch's) has them: of negative numbers
 * whole powers alone are numbers, 1 to any power and any number to the power of 0 are 1.
 */
export function pow(k: Builder, x: VF, y: VF): VF {
  const size = x.abs();
  const [log, logRest] = log2(k, size);
  // A power beyond these bounds gives 0, 1 or infinity. The constants come first, so that a NaN passes through.
  const power = k.vector(2 ** 64).min(k.vector(-(2 ** 64)).max(y));
  const [scaled, scaledRest] = product(k, power, log);
  const infinite = k.vector(Number.POSITIVE_INFINITY);
  const isZero = size.compare("eq", 0);
  const isEnd = isZero.or(size.compare("eq", infinite));
  const exponent = isEnd.select(power.mul(isZero.select(infinite.neg(), infinite)), scaled);
  const whole = exponent.round();
  const bounded = k.vector(129).min(k.vector(-151).max(whole));
  const rest = exponent.sub(whole).add(power.fma(logRest, scaledRest));
  const fraction = whole.compare("eq", bounded).select(rest.mul(Math.LN2), k.zero());
  const result = scaledExp(k, bounded, fraction);
  const half = y.mul(0.5);
  const isWhole = y.compare("eq", y.round());
  const isOdd = isWhole.and(half.compare("ne", half.round()));
  const signed = isOdd.select(sign(x).or(result.bits()).float(), result);
  // A root of a negative number, unless that is infinite.
  const isNegative = x.compare("lt", 0).and(y.compare("ne", y.round())).and(size.compare("lt", infinite));
  const isUnknown = isNegative.or(x.compare("ne", x)).or(y.compare("ne", y));
  const regular = isUnknown.select(k.vector(Number.NaN), signed);
  return y.compare("eq", 0).or(x.compare("eq", 1)).select(k.vector(1), regular);
}

/** (sin(x)/x − 1)/x² by x², to x = 1: 1e-10 of the sine. */
const SIN = [2.69375976e-6, -1.983602e-4, 8.33331637e-3, -1.66666665e-1];
/** (cos(x) − 1 + x²/2)/x⁴ by x², to x = 1: 3.7e-9 of the cosine. */
const COS = [2.42562733e-5, -1.38856618e-3, 4.16666158e-2];
/** 2⁻²³/2π, the bits behind the point, 32 a word. */
const TURN = [0x51, 0x7cc1b727, 0x220a94fe, 0x13abe8fa, 0x9a6ee06d, 0xb14acc9e, 0x21c820ff];
/** 2π/2³². */
const RADIANS = [1.462918119976564e-9, -4.070940267922164e-17] as const;

/** The sine within 1 ulp, of large angles too; NaN for ±∞ and NaN. */
export const sin = (k: Builder, x: VF): VF => sineAfter(k, x, 0).bits().xor(sign(x)).float();
/** The cosine, as {@link sin}. */
export const cos = (k: Builder, x: VF): VF => sineAfter(k, x, 1);

/**
 * sin(|x| + quarters·π/2). From 1 on, x is a whole number m < 2³¹ times 2 to a multiple of 8 at least −23: with as many
 * leading bits of 1/2π left out, which give whole turns, the product of m and the next 96 bits is the angle in turns
 * (M. Payne, R. Hanek, 1983).
 */
function sineAfter(k: Builder, x: VF, quarters: 0 | 1): VF {
  const size = x.abs();
  const bits = size.bits();
  const exponent = bits.shr(23).sub(127);
  const m = exponent.and(7).add(150).shl(23).or(bits.and(0x7fffff)).float().toInt();
  let words = TURN.map((word) => k.vectorInt(word | 0));
  for (const [shift, count] of [
    [64, 5],
    [32, 4],
    [16, 4],
    [8, 3],
  ] as const) {
    const stays = exponent.and(shift).compare("eq", 0);
    const moved = (i: number): VI => {
      if (shift >= 32) return words[i + shift / 32]!;
      const upper = words[i]!.shl(shift);
      return words[i + 1] ? upper.or(words[i + 1]!.shr(32 - shift)) : upper;
    };
    words = Array.from({ length: count }, (_, i) => stays.select(words[i]!.float(), moved(i).float()).bits());
  }
  // The turn's first 32 bits and the next 32, these signed: 1 more of the first where the sum of the next has a 33rd bit or is negative.
  const next = m.mul(words[1]!);
  const tail = next.add(upperHalf(k, m, words[2]!));
  const turn = m
    .mul(words[0]!)
    .add(upperHalf(k, m, words[1]!))
    .add(next.or(tail).shr(31));
  const quarter = turn.add(2 ** 29).shr(30);
  const part = turn.sub(quarter.shl(30));
  // As an f32, whose product is exact, and the rest.
  const near = part.toFloat();
  const [angle, angleRest] = product(k, near, k.vector(RADIANS[0]));
  const after = part
    .sub(near.toInt())
    .toFloat()
    .add(tail.toFloat().mul(2 ** -32));
  const left = after.fma(RADIANS[0], near.add(after).fma(RADIANS[1], angleRest));

  const isSmall = size.compare("lt", 1);
  const r = isSmall.select(size, angle);
  const rest = isSmall.select(k.zero(), left);
  const place = isSmall.select(k.zero(), quarter.float()).bits().add(quarters);
  const square = r.mul(r);
  // The large terms alone, then what their rounding and the angle's left out.
  const half = square.mul(0.5);
  const most = k.vector(1).sub(half);
  const sine = r.add(polynomial(k, square, SIN).fma(square.mul(r), rest.mul(most)));
  const fourth = polynomial(k, square, COS).mul(square).mul(square);
  const cosine = most.add(k.vector(1).sub(most).sub(half).add(r.fnma(rest, fourth)));
  const value = place.and(1).compare("eq", 0).select(sine, cosine);
  const isNumber = size.compare("lt", Number.POSITIVE_INFINITY);
  return isNumber.select(value.bits().xor(place.and(2).shl(30)).float(), k.vector(Number.NaN));
}

/** The upper halves of unsigned products. */
function upperHalf(k: Builder, a: VI, b: VI): VI {
  const even = a.mulWide(b).oddLanes();
  const odd = a.oddLanes().mulWide(b.oddLanes());
  return k.laneNumbers().and(1).compare("eq", 0).select(even.float(), odd.float()).bits();
}

const sign = (x: VF): VI => x.bits().and(-0x80000000);

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
