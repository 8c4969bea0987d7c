import { PAGE_ROWS, type PagePool } from "./pages.ts";

/** A page of a prompt, reached by the pages before it. */
export interface PrefixNode {
  readonly id: number;
  readonly parent: PrefixNode | undefined;
  /** Its tokens, fewer than a page's where a prompt ended: the rest of the page is somebody's answer. */
  readonly tokens: readonly number[];
  readonly key: string;
  /** -1 for a root. */
  readonly page: number;
  readonly children: Map<string, PrefixNode>;
}

/**
 * Pages whose keys and values are known, by the tokens that they and all pages before them hold: a tree with a root for
 * every adapter (keys depend on it). It holds each of its pages once; those that nobody else holds go when room is
 * needed, the longest unused first, leaves before what leads to them.
 */
export class PrefixTree {
  readonly #pool: PagePool;
  readonly #roots = new Map<unknown, PrefixNode>();
  /** All nodes but the roots, the longest unused first. */
  readonly #byUse = new Set<PrefixNode>();
  #nodes = 0;

  constructor(pool: PagePool) {
    this.#pool = pool;
  }

  /** Pages in the tree. */
  get size(): number {
    return this.#byUse.size;
  }
  /** Pages that only the tree holds. */
  get kept(): number {
    let kept = 0;
    for (const { page } of this.#byUse) if (this.#pool.holders(page) === 1) kept++;
    return kept;
  }

  /** Where the prompts of an adapter (or of none) begin. */
  root(adapter: unknown): PrefixNode {
    let root = this.#roots.get(adapter);
    if (!root) {
      root = { id: this.#nodes++, parent: undefined, tokens: [], key: "", page: -1, children: new Map() };
      this.#roots.set(adapter, root);
    }
    return root;
  }

  /** The key of the tokens `from … to`, at most a page. */
  static key(tokens: readonly number[], from: number, to = from + PAGE_ROWS): string {
    return tokens.slice(from, to).join();
  }

  /** The page after `node` that holds the tokens of `key`, held for the caller; undefined where there is none. */
  find(node: PrefixNode, key: string): PrefixNode | undefined {
    const found = node.children.get(key);
    if (!found) return undefined;
    this.#pool.hold(found.page);
    this.touch(found);
    return found;
  }

  /**
   * The page after `node` that begins with the most of the tokens from `from` up to `to`, and how many these are: rows
   * that can be copied. Not held for the caller.
   */
  closest(node: PrefixNode, tokens: readonly number[], from: number, to: number): { page: number; rows: number } {
    let best: PrefixNode | undefined;
    let rows = 0;
    for (const child of node.children.values()) {
      const most = Math.min(child.tokens.length, to - from);
      let same = 0;
      while (same < most && child.tokens[same] === tokens[from + same]) same++;
      if (same > rows) [best, rows] = [child, same];
    }
    if (best) this.touch(best);
    return { page: best?.page ?? -1, rows };
  }

  /** Adds a page whose first rows, one for each token, were computed. The tree holds it too. */
  add(parent: PrefixNode, tokens: readonly number[], page: number): PrefixNode {
    const key = tokens.join();
    const node: PrefixNode = { id: this.#nodes++, parent, tokens, key, page, children: new Map() };
    parent.children.set(key, node);
    this.#pool.hold(page);
    this.#byUse.add(node);
    return node;
  }

  /** A page was used just now. */
  touch(node: PrefixNode): void {
    if (this.#byUse.delete(node)) this.#byUse.add(node);
  }

  /** Gives back the page that was unused the longest; false where each is held by somebody else too. */
  evict(): boolean {
    for (const node of this.#byUse) {
      if (node.children.size > 0 || this.#pool.holders(node.page) > 1) continue;
      this.#remove(node);
      return true;
    }
    return false;
  }

  /** Forgets all prompts of an adapter. */
  forget(adapter: unknown): void {
    const root = this.#roots.get(adapter);
    if (!root) return;
    this.#roots.delete(adapter);
    const removeBelow = (node: PrefixNode): void => {
      for (const child of [...node.children.values()]) {
        removeBelow(child);
        this.#remove(child);
      }
    };
    removeBelow(root);
  }

  #remove(node: PrefixNode): void {
    node.parent?.children.delete(node.key);
    this.#byUse.delete(node);
    this.#pool.release(node.page);
  }
}
