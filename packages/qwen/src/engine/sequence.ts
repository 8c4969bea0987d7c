import type { RowAdapter } from "../model/layers.ts";
import { type PagePool, PageTable } from "./pages.ts";
import type { PrefixNode } from "./prefix-tree.ts";

/** Tokens on their way through the model: what the scheduler moves. */
export abstract class Sequence {
  /** The prompt, and behind it the answer so far. */
  readonly tokens: number[];
  readonly promptLength: number;
  readonly adapter: RowAdapter | undefined;
  readonly priority: number;
  readonly client: string;
  readonly table: PageTable;
  /** Tokens whose keys and values are in the cache. */
  computed = 0;
  /** The last of the table's pages that is in the tree of prefixes, and how many there are before and with it. */
  prefix: { node: PrefixNode; pages: number } | undefined;
  /** When it was let in last, as a number that rises; the oldest is never interrupted for want of room. */
  order = -1;

  constructor(
    tokens: readonly number[],
    pool: PagePool,
    { adapter, priority = 0, client = "" }: { adapter?: RowAdapter; priority?: number; client?: string },
  ) {
    this.tokens = [...tokens];
    this.promptLength = tokens.length;
    this.table = new PageTable(pool);
    this.adapter = adapter;
    this.priority = priority;
    this.client = client;
  }

  /** Does its prompt's rest stand in the tree as well? */
  isShared = false;

  /** May its prompt's rows be shared with others? */
  abstract readonly sharesPrefix: boolean;
  /**
   * Tokens whose rows go by the means for many rows, in chunks; those behind them go by the means for few. Of an answer all
   * of the prompt but its last token, which is computed with the answers' rows: a prompt that is known costs one row.
   */
  abstract readonly prefillLength: number;
  /** Why it is to end now, if it is. */
  abstract interrupted(now: number): "cancelled" | "deadline" | undefined;
  /** Ends without more tokens. */
  abstract finish(reason: "cancelled" | "deadline"): void;
  abstract fail(error: unknown): void;

  /** Lets go of its part of the cache; what it has is computed again if it goes on. */
  release(): void {
    this.table.clear();
    this.computed = 0;
    this.prefix = undefined;
    this.isShared = false;
  }
}
