import type { Segment } from "@tslm/tensor";
import type { CacheRows } from "../model/cache.ts";
import type { AdapterRows } from "../model/layers.ts";
import type { Pass } from "../model/pass.ts";
import type { Sequence } from "./sequence.ts";

/** The next tokens of a sequence in a pass, and behind them proposed ones. */
export interface Part {
  readonly sequence: Sequence;
  /** Place of its first token; all before it are computed, or will be by an earlier pass of the same step. */
  readonly from: number;
  /** Tokens of the sequence itself. */
  readonly count: number;
  /** Tokens that may come after its last one, to be checked. Only where `count` reaches the sequence's end. */
  readonly proposed: readonly number[];
}

/** Rows of a part. */
export function rowsOf({ count, proposed }: Part): number {
  return count + proposed.length;
}

/** Parts with one adapter stand together, the base model's first: each adapter's rows are consecutive. */
export function byAdapter(parts: readonly Part[]): Part[] {
  const groups = new Map<unknown, Part[]>([[undefined, []]]);
  for (const part of parts) {
    const group = groups.get(part.sequence.adapter);
    if (group) group.push(part);
    else groups.set(part.sequence.adapter, [part]);
  }
  return [...groups.values()].flat();
}

/** The pass of these parts, in their order. Their tables must have room for the rows. */
export function passOfParts(parts: readonly Part[], store: CacheRows): Pass {
  const rows = parts.reduce((sum, part) => sum + rowsOf(part), 0);
  const keys = parts.reduce((sum, part) => sum + part.from + rowsOf(part), 0);
  const [tokens, positions, slots] = [new Int32Array(rows), new Int32Array(rows), new Int32Array(rows)];
  const keyRows = new Int32Array(keys);
  const segments: Segment[] = [];
  const adapters: { adapter: AdapterRows["adapter"]; first: number; count: number }[] = [];
  let [query, key] = [0, 0];
  for (const part of parts) {
    const { sequence, from, count, proposed } = part;
    const { table, adapter } = sequence;
    const queries = count + proposed.length;
    for (let i = 0; i < queries; i++) {
      tokens[query + i] = i < count ? sequence.tokens[from + i] : proposed[i - count];
      positions[query + i] = from + i;
    }
    slots.set(table.rows(from, from + queries), query);
    keyRows.set(table.rows(0, from + queries), key);
    segments.push({ query, queries, key, keys: from + queries });
    const last = adapters.at(-1);
    if (adapter && last?.adapter === adapter) last.count += queries;
    else if (adapter) adapters.push({ adapter, first: query, count: queries });
    query += queries;
    key += from + queries;
  }
  return { tokens, positions, segments, cache: { store, slots, keyRows }, adapters };
}
