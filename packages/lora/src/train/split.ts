import { OptionError } from "../errors.ts";
import { keySeed } from "../random.ts";
import { shuffled } from "./order.ts";

export interface SplitOptions {
  /** Share of the rows that is held out, above 0 and below 1. */
  share: number;
  /** Decides which; a whole number from 0 to 2⁵³−1. */
  seed: number;
  /** Rows whose groups stay in training. */
  keep?: readonly number[];
}

/**
 * Holds rows out of training. Rows with the same key stay on one side, so that no row has been seen in training. The
 * held-out rows are about the share that is asked for, at least one; in file order, as the others.
 *
 * @param keys one a row; equal for rows that belong together
 * @returns the rows' indices
 * @throws OptionError when the rows cannot be divided
 */
export async function splitRows(
  keys: readonly string[],
  { share, seed, keep = [] }: SplitOptions,
): Promise<{ training: number[]; validation: number[] }> {
  const groups = new Map<string, number[]>();
  for (const [row, key] of keys.entries()) groups.set(key, [...(groups.get(key) ?? []), row]);
  const kept = new Set(keep.map((row) => keys[row]));
  const free = [...groups.keys()].filter((key) => !kept.has(key));
  const wanted = Math.max(1, Math.round(share * keys.length));
  const order = await shuffled(free.length, { seed: keySeed(seed, "split"), stream: 0 });
  const held = new Set<number>();
  for (const key of order.map((i) => free[i])) {
    const rows = groups.get(key)!;
    const left = wanted - held.size;
    if (left <= 0) break;
    // A group that would lead further away from the share than it is now is passed over.
    if (rows.length - left >= left && held.size > 0) continue;
    if (held.size + rows.length < keys.length) for (const row of rows) held.add(row);
  }
  if (held.size === 0) {
    throw new OptionError(
      "validation-split",
      `nothing can be held out of ${keys.length} rows: ${groups.size === 1 ? "all say the same" : "too few say something of their own"}; bring more rows, or validation data of their own`,
    );
  }
  const all = [...keys.keys()];
  return { training: all.filter((row) => !held.has(row)), validation: all.filter((row) => held.has(row)) };
}
