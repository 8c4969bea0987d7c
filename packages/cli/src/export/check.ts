import type { StoredType } from "@tslm/tensor";
import { CommandError } from "../errors.ts";
import { type Distance, distanceOf, type Measured } from "./compare.ts";

/**
 * How far the logits of a file may be from those in memory, as `Distance.relative`. What is lost is the rounding of the
 * weights alone. On the 0.5B model with an adapter that was measured to cost 0.0003 (f16), 0.003 (bf16), 0.03 (q8_0),
 * 0.1 (5 bits), 0.23 (q4_1) and 0.36 (q4_0). A file that is wrong (a matrix transposed, positions turned otherwise,
 * another base) is off by about 1.
 */
const LIMITS: { readonly [K in StoredType]: number } = {
  ...{ f32: 1e-3, f16: 0.01, bf16: 0.02, q8_0: 0.1 },
  ...{ q5_1: 0.4, q5_0: 0.4, q4_1: 0.7, q4_0: 0.8 },
};

/** The largest difference of some 600,000 is 5 to 7 times the usual one; more is a token that is wrong on its own. */
const WORST = 20;

/** An adapter that changes the logits by less than this share of the limit is too small to look for. */
const VISIBLE = 0.01;

/** What the models were found to make of the texts. */
export interface Compared {
  /** In memory, with the adapter where there is one. */
  readonly wanted: Measured;
  /** In memory, without the adapter. */
  readonly base: Measured | undefined;
  /** The file, loaded again. */
  readonly found: Measured;
}

/** What was found when the file was loaded again. */
export interface Check extends Distance {
  /** Largest `relative` that the type allows. */
  readonly limit: number;
  /** `relative` from the model without the adapter; undefined without one. */
  readonly fromBase: number | undefined;
}

/** @throws CommandError when the file does not hold what was in memory, or holds the model without its adapter */
export function check(type: StoredType, { wanted, base, found }: Compared): Check {
  const distance = distanceOf(wanted, found);
  const limit = LIMITS[type];
  const { relative, largest, deviation } = distance;
  if (!(relative <= limit && largest <= WORST * limit * deviation)) {
    throw new CommandError(
      `what was written gives other logits when it is loaded again: the largest difference is ${largest.toPrecision(3)}, in all ${percent(relative)} of their spread, where ${type} explains ${percent(limit)} at most; nothing was kept. Please report it`,
    );
  }
  if (base === undefined) return { ...distance, limit, fromBase: undefined };
  const fromBase = distanceOf(base, found).relative;
  const effect = distanceOf(wanted, base).relative;
  if (effect > VISIBLE * limit && fromBase <= relative) {
    throw new CommandError(
      `what was written answers like the model without the adapter (${percent(fromBase)} of the logits' spread from it, ${percent(relative)} from the one with it); nothing was kept. Please report it`,
    );
  }
  return { ...distance, limit, fromBase };
}

/** `0.12 %` */
export function percent(share: number): string {
  return `${(100 * share).toPrecision(2)} %`;
}
