import { TableAutomaton } from "./automaton.ts";
import type { Budget } from "./budget.ts";
import { combine } from "./combine.ts";
import { compileRegex } from "./regex-compile.ts";
import { choice, literal, parseRegex, type RegexNode, repeat, sequence } from "./regex-parse.ts";

/** Digits before the point, and in all where there are bounds: so many a double holds exactly. */
const DIGITS = 15;
const LARGEST = 10n ** BigInt(DIGITS) - 1n;
const ANY_NUMBER = `-?(?:0|[1-9][0-9]{0,${DIGITS - 1}})(?:\\.[0-9]{1,${DIGITS}})?(?:[eE][+-]?[0-9]{1,2})?`;

/** A bound and whether it is excluded itself. */
export interface Bound {
  readonly value: number;
  readonly isExclusive: boolean;
}

const NOTHING: RegexNode = { kind: "choice", parts: [] };
const EMPTY: RegexNode = sequence();
const digits = (first: number, last: number): RegexNode =>
  first > last ? NOTHING : { kind: "characters", ranges: [[0x30 + first, 0x30 + last]] };
const ANY_DIGIT = digits(0, 9);
const ANY_DIGITS = repeat(ANY_DIGIT, 0, Number.POSITIVE_INFINITY);
const ZEROS = repeat(digits(0, 0), 0, Number.POSITIVE_INFINITY);
const NOT_ZERO = sequence(ZEROS, digits(1, 9), ANY_DIGITS);
const POINT = literal(".");
const FRACTION = choice(EMPTY, sequence(POINT, ANY_DIGIT, ANY_DIGITS));

/** Whole numbers from `first` to `last`, both at least 0, without leading zeros. */
function wholeFrom(first: bigint, last: bigint): RegexNode {
  const parts: RegexNode[] = [];
  for (let low = first; low <= last; ) {
    // Those with as many digits.
    const high = 10n ** BigInt(String(low).length) - 1n;
    const end = high < last ? high : last;
    parts.push(sameLength(String(low), String(end)));
    low = end + 1n;
  }
  return parts.length === 0 ? NOTHING : choice(...parts);
}

function sameLength(first: string, last: string): RegexNode {
  if (/^0*$/.test(first) && /^9*$/.test(last)) return repeat(ANY_DIGIT, first.length, first.length);
  const [a, b] = [Number(first[0]), Number(last[0])];
  const [restA, restB] = [first.slice(1), last.slice(1)];
  if (a === b) return sequence(digits(a, a), sameLength(restA, restB));
  return choice(
    sequence(digits(a, a), sameLength(restA, "9".repeat(restA.length))),
    sequence(digits(a + 1, b - 1), repeat(ANY_DIGIT, restA.length, restA.length)),
    sequence(digits(b, b), sameLength("0".repeat(restB.length), restB)),
  );
}

const minus = (node: RegexNode): RegexNode => sequence(literal("-"), node);

/** Integers within bounds, of at most 15 digits. @returns undefined where there are none */
export function integers(
  min: Bound | undefined,
  max: Bound | undefined,
  multiples: readonly number[],
  budget: Budget,
): TableAutomaton | undefined {
  const low = min ? integerFrom(min, 1n) : -LARGEST;
  const high = max ? integerFrom(max, -1n) : LARGEST;
  const node = choice(
    wholeFrom(low > 0n ? low : 0n, high < LARGEST ? high : LARGEST),
    minus(wholeFrom(high < 0n ? -high : 1n, low > -LARGEST ? -low : LARGEST)),
  );
  let found = compileRegex(node, "utf8", budget);
  for (const multiple of multiples) found = found && combine(found, multiplesOf(multiple), "and", budget);
  return found;
}

function integerFrom({ value, isExclusive }: Bound, inwards: 1n | -1n): bigint {
  const whole = inwards > 0n ? Math.ceil(value) : Math.floor(value);
  return BigInt(whole) + (isExclusive && whole === value ? inwards : 0n);
}

/** Integers that are multiples of a number: what digits leave when divided by it. */
function multiplesOf(divisor: number): TableAutomaton {
  const classOf = new Uint8Array(256).fill(11);
  for (let digit = 0; digit < 10; digit++) classOf[0x30 + digit] = digit;
  classOf[0x2d] = 10;
  const classes = 12;
  // 0: the beginning. 1: behind a minus. 2 + r: what was read leaves r.
  const table = new Int32Array((divisor + 2) * classes).fill(-1);
  table[10] = 1;
  for (let state = 0; state < divisor + 2; state++) {
    const rest = Math.max(0, state - 2);
    for (let digit = 0; digit < 10; digit++) table[state * classes + digit] = 2 + ((rest * 10 + digit) % divisor);
  }
  const accepting = new Uint8Array(divisor + 2);
  accepting[2] = 1;
  return new TableAutomaton({ classOf, classes, table, accepting });
}

/**
 * Numbers within bounds. Without bounds an exponent of two digits may follow; with bounds there is none, and no more than
 * 15 digits in all, so that what is written compares with the bounds as its double does.
 *
 * @returns undefined where there are none
 */
export function numbers(min: Bound | undefined, max: Bound | undefined, budget: Budget): TableAutomaton | undefined {
  if (!min && !max) return compileRegex(parseRegex(ANY_NUMBER), "utf8", budget);
  const low = min ?? { value: Number.NEGATIVE_INFINITY, isExclusive: false };
  const high = max ?? { value: Number.POSITIVE_INFINITY, isExclusive: false };
  const sizes = [low, high].map(({ value }) => (Number.isFinite(value) ? partsOf(Math.abs(value)).whole.length : 0));
  const left = DIGITS - Math.max(...sizes);
  const fraction = left > 0 ? `(?:\\.[0-9]{1,${left}})?` : "";
  const shape = compileRegex(parseRegex(`-?(?:0|[1-9][0-9]{0,${DIGITS - 1}})${fraction}`), "utf8", budget)!;
  const zero: Bound = { value: 0, isExclusive: false };
  const negated = ({ value, isExclusive }: Bound): Bound => ({ value: -value, isExclusive });
  const parts: RegexNode[] = [];
  const add = (from: Bound, to: Bound, wrap: (node: RegexNode) => RegexNode): void => {
    if (to.value < 0) return;
    const above = compileRegex(atLeast(from.value < 0 ? zero : from), "utf8", budget);
    const below = compileRegex(
      Number.isFinite(to.value) ? atMost(to) : sequence(wholeFrom(0n, LARGEST), FRACTION),
      "utf8",
      budget,
    );
    const both = above && below && combine(above, below, "and", budget);
    if (both) parts.push(wrap({ kind: "automaton", automaton: both }));
  };
  add(low, high, (node) => node);
  add(negated(high), negated(low), minus);
  const all = compileRegex(parts.length === 0 ? NOTHING : choice(...parts), "utf8", budget);
  return all && combine(shape, all, "and", budget);
}

/** Digits before and behind the point of a number of at least 0; none behind where there are only zeros. */
function partsOf(value: number): { whole: string; fraction: string } {
  const [mantissa, exponent = "0"] = String(value).split("e");
  const [whole, fraction = ""] = mantissa.split(".");
  const shift = Number(exponent);
  const padded =
    shift >= 0
      ? [whole + fraction.padEnd(shift, "0").slice(0, shift), fraction.slice(shift)]
      : ["0", "0".repeat(-shift - 1) + whole + fraction];
  return { whole: padded[0].replace(/^0+(?=\d)/, ""), fraction: padded[1].replace(/0+$/, "") };
}

function atLeast({ value, isExclusive }: Bound): RegexNode {
  if (value > Number(LARGEST)) return NOTHING;
  const { whole, fraction } = partsOf(value);
  const higher = sequence(wholeFrom(BigInt(whole) + 1n, LARGEST), FRACTION);
  const behind = (left: string): RegexNode => {
    if (left === "") return isExclusive ? NOT_ZERO : ANY_DIGITS;
    const digit = Number(left[0]);
    return choice(sequence(digits(digit, digit), behind(left.slice(1))), sequence(digits(digit + 1, 9), ANY_DIGITS));
  };
  const same = fraction !== "" ? sequence(POINT, behind(fraction)) : isExclusive ? sequence(POINT, NOT_ZERO) : FRACTION;
  return choice(higher, sequence(literal(whole), same));
}

function atMost({ value, isExclusive }: Bound): RegexNode {
  if (value > Number(LARGEST)) return sequence(wholeFrom(0n, LARGEST), FRACTION);
  const { whole, fraction } = partsOf(value);
  const lower = sequence(wholeFrom(0n, BigInt(whole) - 1n), FRACTION);
  const equal = isExclusive ? NOTHING : ZEROS;
  // A fraction that ends early is smaller: the bound's last digit is not 0.
  const behind = (left: string): RegexNode => {
    const [digit, rest] = [Number(left[0]), left.slice(1)];
    const next = rest === "" ? equal : choice(EMPTY, behind(rest));
    return choice(sequence(digits(0, digit - 1), ANY_DIGITS), sequence(digits(digit, digit), next));
  };
  const none = isExclusive ? NOTHING : choice(EMPTY, sequence(POINT, digits(0, 0), ZEROS));
  const same = fraction === "" ? none : choice(EMPTY, sequence(POINT, behind(fraction)));
  return choice(lower, sequence(literal(whole), same));
}
