import type { RowAdapter } from "../model/layers.ts";
import { Answer } from "./answer.ts";
import { FairQueue } from "./fair-queue.ts";
import { PAGE_ROWS, PagePool } from "./pages.ts";
import { type Part, rowsOf } from "./parts.ts";
import { PrefixTree } from "./prefix-tree.ts";
import type { Sequence } from "./sequence.ts";

/** What bounds a step. */
export interface SchedulerLimits {
  /** Pages of the cache. */
  readonly pages: number;
  /** Sequences under way at once. */
  readonly maxRunning: number;
  /** Rows of prompts in one step while no answer waits for its next token, and while some do. */
  readonly promptRows: number;
  readonly promptRowsBeside: number;
}

/** Copies keys and values from rows of the cache to others. */
export type CopyRows = (from: Int32Array, to: Int32Array) => void;

/** Rows of an interrupted answer that are computed again in one step. */
const REPLAYED_ROWS = 64;

const pagesFor = (tokens: number): number => Math.ceil(tokens / PAGE_ROWS);

/**
 * Who takes part in the next step, and whose is which page of the cache. Knows nothing of numbers: what it plans, the
 * engine computes.
 *
 * Room: a page nobody needs is taken first, then the kept page of a prefix that was unused the longest, then those of the
 * sequence that was let in last, which goes on later from its tokens. The oldest is never interrupted, so there is always
 * one that comes to its end, and no answer is lost.
 */
export class Scheduler {
  readonly pool: PagePool;
  readonly tree: PrefixTree;
  readonly #limits: SchedulerLimits;
  readonly #queue = new FairQueue<Sequence>();
  /** Interrupted for want of room, the oldest first. They go on before anybody new. */
  readonly #interrupted: Sequence[] = [];
  /** In the order in which they were let in. */
  readonly #running = new Set<Sequence>();
  readonly #copyRows: CopyRows;
  #admissions = 0;

  constructor(limits: SchedulerLimits, copyRows: CopyRows) {
    this.#limits = limits;
    this.#copyRows = copyRows;
    this.pool = new PagePool(limits.pages);
    this.tree = new PrefixTree(this.pool);
  }

  get running(): number {
    return this.#running.size;
  }
  get waiting(): number {
    let siblings = 0;
    for (const sequence of this.#running) siblings += siblingsOf(sequence).length;
    return this.#queue.size + this.#interrupted.length + siblings;
  }
  get isIdle(): boolean {
    return this.#running.size + this.#queue.size + this.#interrupted.length === 0;
  }
  /** Does any sequence go through this adapter? */
  uses(adapter: RowAdapter): boolean {
    const isOf = (sequence: Sequence): boolean => sequence.adapter === adapter;
    return [...this.#running].some(isOf) || this.#interrupted.some(isOf) || this.#queue.some(isOf);
  }

  submit(sequence: Sequence): void {
    this.#queue.push(sequence, sequence);
  }

  /** Ends those whose time is up or who are not wanted any more. */
  reap(why: (sequence: Sequence) => "cancelled" | "deadline" | undefined): void {
    const over = this.#queue.remove((sequence) => why(sequence) !== undefined);
    for (const sequence of [...this.#running, ...this.#interrupted]) if (why(sequence)) over.push(sequence);
    for (const sequence of over) {
      const reason = why(sequence)!;
      for (const each of [sequence, ...siblingsOf(sequence).splice(0)]) each.finish(reason);
      this.end(sequence);
    }
  }

  /** Takes a sequence out that has ended. */
  end(sequence: Sequence): void {
    sequence.release();
    this.#running.delete(sequence);
    const at = this.#interrupted.indexOf(sequence);
    if (at >= 0) this.#interrupted.splice(at, 1);
  }

  /** Lets in who is next, as long as there is room. */
  admit(now: number): void {
    for (;;) {
      const next = this.#interrupted[0] ?? this.#queue.peek();
      if (!next || !this.#hasRoomFor(next)) return;
      if (next === this.#interrupted[0]) this.#interrupted.shift();
      else this.#queue.shift();
      this.#letIn(next, now);
    }
  }

  /** The parts of the next step: of prompts, and of answers (one row, or those of proposed tokens, or of a replay). */
  plan(propose: (answer: Answer, answering: number) => readonly number[]): { prompts: Part[]; answers: Part[] } {
    const prompts = this.#planPrompts([...this.#running].some((sequence) => restOfPrompt(sequence) === 0));
    /** What will be computed once the prompts' pass is done. */
    const after = new Map(prompts.map(({ sequence, from, count }) => [sequence, from + count]));
    const answering = [...this.#running].filter((sequence) => {
      const computed = after.get(sequence) ?? sequence.computed;
      return computed >= sequence.prefillLength && computed < sequence.tokens.length;
    });
    const answers: Part[] = [];
    for (const sequence of answering) {
      if (!this.#running.has(sequence)) continue;
      const from = after.get(sequence) ?? sequence.computed;
      const left = sequence.tokens.length - from;
      const count = Math.min(left, REPLAYED_ROWS);
      let proposed = count === left ? propose(sequence as Answer, answering.length) : [];
      // Room for guesses is nobody's loss.
      if (proposed.length > 0 && !this.#reserve(sequence, from + count + proposed.length, false)) proposed = [];
      if (this.#reserve(sequence, from + count, true)) answers.push({ sequence, from, count, proposed });
    }
    const goesOn = ({ sequence }: Part): boolean => this.#running.has(sequence);
    return { prompts: prompts.filter(goesOn), answers: answers.filter(goesOn) };
  }

  /** Rows of the sequence were computed, up to `computed`. */
  advance(sequence: Sequence, computed: number): void {
    sequence.computed = computed;
    if (sequence.sharesPrefix) this.#share(sequence);
  }

  /** Lets the other answers of a request go on from where its first stands. @returns those for which there was room */
  fork(first: Answer, now: number): Answer[] {
    const begun: Answer[] = [];
    for (const sibling of first.siblings.splice(0)) {
      const { computed, table } = first;
      const whole = Math.floor(computed / PAGE_ROWS);
      const rest = computed % PAGE_ROWS;
      const own = rest > 0 && this.#running.size < this.#limits.maxRunning ? this.#take() : undefined;
      if (this.#running.size >= this.#limits.maxRunning || (rest > 0 && own === undefined)) {
        this.#interrupted.push(sibling);
        continue;
      }
      for (let i = 0; i < whole; i++) {
        this.pool.hold(table.page(i));
        sibling.table.push(table.page(i));
      }
      if (own !== undefined) {
        sibling.table.push(own);
        this.#copyRows(table.rows(computed - rest, computed), sibling.table.rows(computed - rest, computed));
      }
      sibling.computed = computed;
      sibling.prefix = first.prefix;
      sibling.cached = first.cached;
      this.#letIn(sibling, now);
      begun.push(sibling);
    }
    return begun;
  }

  #letIn(sequence: Sequence, now: number): void {
    sequence.order = this.#admissions++;
    this.#running.add(sequence);
    if (sequence instanceof Answer) sequence.admitted(now);
  }

  /** Is there room for the tokens that it has, beside what is promised to those who are running? */
  #hasRoomFor({ tokens }: Sequence): boolean {
    if (this.#running.size === 0) return true;
    if (this.#running.size >= this.#limits.maxRunning) return false;
    let promised = 0;
    for (const { tokens, table } of this.#running)
      promised += Math.max(1, pagesFor(tokens.length) - table.capacity / PAGE_ROWS);
    return pagesFor(tokens.length) + 1 + promised <= this.pool.free + this.tree.kept;
  }

  #planPrompts(beside: boolean): Part[] {
    let left = beside ? this.#limits.promptRowsBeside : this.#limits.promptRows;
    const parts: Part[] = [];
    /** Pages that this step computes: who needs the same one waits for it. */
    const coming = new Set<string>();
    for (const sequence of this.#running) {
      if (left === 0) break;
      if (restOfPrompt(sequence) === 0) continue;
      this.#reuse(sequence);
      const page = this.#comingPage(sequence);
      if (page !== undefined && coming.has(page)) continue;
      this.#reuseRows(sequence);
      const { computed: from } = sequence;
      const count = Math.min(left, restOfPrompt(sequence));
      if (count === 0 || !this.#reserve(sequence, from + count, true)) continue;
      if (page !== undefined) coming.add(page);
      parts.push({ sequence, from, count, proposed: [] });
      left -= count;
    }
    return parts;
  }

  /** Takes pages of the prompt that others have computed. */
  #reuse(sequence: Sequence): void {
    const { tokens, prefillLength, table } = sequence;
    if (!sequence.sharesPrefix || sequence.computed % PAGE_ROWS !== 0) return;
    let { node, pages } = (sequence.prefix ??= { node: this.tree.root(sequence.adapter), pages: 0 });
    if (pages * PAGE_ROWS !== sequence.computed) return;
    while ((pages + 1) * PAGE_ROWS <= prefillLength) {
      const found = this.tree.find(node, PrefixTree.key(tokens, pages * PAGE_ROWS));
      if (!found) break;
      if (table.capacity > pages * PAGE_ROWS) table.replace(pages, found.page);
      else table.push(found.page);
      node = found;
      pages++;
    }
    sequence.prefix = { node, pages };
    this.#found(sequence, pages * PAGE_ROWS);
  }

  /** Copies rows of the prompt from a page of which only the beginning is the same. */
  #reuseRows(sequence: Sequence): void {
    const { tokens, computed, prefillLength, prefix, table } = sequence;
    if (!prefix || prefix.pages * PAGE_ROWS !== computed || computed === prefillLength) return;
    const { page, rows } = this.tree.closest(prefix.node, tokens, computed, prefillLength);
    // Making room may take away the page that is to be copied.
    if (rows > 0) this.pool.hold(page);
    if (rows > 0 && this.#reserve(sequence, computed + rows, false)) {
      const from = Int32Array.from({ length: rows }, (_, i) => page * PAGE_ROWS + i);
      this.#copyRows(from, table.rows(computed, computed + rows));
      this.#found(sequence, computed + rows);
    }
    if (rows > 0) this.pool.release(page);
  }

  /** Rows up to `computed` need not be computed. */
  #found(sequence: Sequence, computed: number): void {
    if (sequence instanceof Answer && sequence.tokens.length === sequence.promptLength) {
      sequence.cached += computed - sequence.computed;
    }
    sequence.computed = computed;
  }

  /** Names the whole page of the prompt that comes next, the same for all who need the same one. */
  #comingPage({ tokens, computed, prefillLength, prefix, sharesPrefix }: Sequence): string | undefined {
    if (!sharesPrefix || !prefix || prefix.pages * PAGE_ROWS !== computed) return undefined;
    if (computed + PAGE_ROWS > prefillLength) return undefined;
    return `${prefix.node.id} ${PrefixTree.key(tokens, computed)}`;
  }

  /** Puts rows of the prompt that are computed into the tree, and takes whole pages that are there already. */
  #share(sequence: Sequence): void {
    if (sequence.isShared) return;
    const { tokens, computed, prefillLength, table } = sequence;
    let { node, pages } = (sequence.prefix ??= { node: this.tree.root(sequence.adapter), pages: 0 });
    while ((pages + 1) * PAGE_ROWS <= Math.min(computed, prefillLength)) {
      const key = PrefixTree.key(tokens, pages * PAGE_ROWS);
      const found = this.tree.find(node, key);
      if (found) table.replace(pages, found.page);
      node = found ?? this.tree.add(node, tokens.slice(pages * PAGE_ROWS, (pages + 1) * PAGE_ROWS), table.page(pages));
      pages++;
    }
    sequence.prefix = { node, pages };
    if (computed < prefillLength) return;
    sequence.isShared = true;
    // The answer goes on in the same page; what the tree says of it ends before.
    const rest = tokens.slice(pages * PAGE_ROWS, prefillLength);
    if (rest.length > 0 && !node.children.has(rest.join())) this.tree.add(node, rest, table.page(pages));
  }

  /** A page for one more holder, if need be one that was kept for reuse. */
  #take(): number | undefined {
    return this.pool.take() ?? (this.tree.evict() ? this.pool.take() : undefined);
  }

  /**
   * Makes room for `length` tokens of a running sequence.
   *
   * @param interrupts whether others, let in later, may have to wait for it, and itself for those let in before
   * @returns false where there is none
   */
  #reserve(sequence: Sequence, length: number, interrupts: boolean): boolean {
    while (sequence.table.capacity < length) {
      const page = this.#take();
      if (page !== undefined) {
        sequence.table.push(page);
        continue;
      }
      if (!interrupts) return false;
      const last = [...this.#running].at(-1)!;
      this.#interrupt(last);
      if (last === sequence) return false;
    }
    return true;
  }

  #interrupt(sequence: Sequence): void {
    sequence.release();
    this.#running.delete(sequence);
    this.#interrupted.unshift(sequence);
    this.#interrupted.sort((a, b) => a.order - b.order);
  }
}

/** Rows of the prompt that are still to be computed in its chunks. */
function restOfPrompt({ computed, prefillLength }: Sequence): number {
  return Math.max(0, prefillLength - computed);
}

function siblingsOf(sequence: Sequence): Answer[] {
  return sequence instanceof Answer ? sequence.siblings : [];
}

/** Rows of several parts. */
export function totalRows(parts: readonly Part[]): number {
  return parts.reduce((sum, part) => sum + rowsOf(part), 0);
}
