import { plainLength } from "./automaton.ts";

/** What a constraint needs of a tokenizer. */
export interface ConstraintTokenizer {
  /** One more than the highest token id. */
  readonly size: number;
  readonly eosTokenId?: number | undefined;
  /** The bytes that a token stands for. */
  tokenBytes(id: number): Uint8Array;
  /** Is it a control token such as `<|im_end|>`? These stand for no text. */
  isSpecial(id: number): boolean;
}

/**
 * Byte strings of tokens as a tree in preorder: node i's children come right behind it, and its subtree ends before
 * `end[i]`.
 */
export interface Trie {
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  readonly end: Int32Array;
  /** The token whose bytes end here, or -1. */
  readonly token: Int32Array;
  /** Most characters of a token at or below the node. */
  readonly most: Uint16Array;
  readonly deepest: number;
}

/** A tokenizer's tokens, in the order in which masks need them. */
export class TokenTries {
  /** Words of a mask. */
  readonly words: number;
  /** Whole characters of plain text, which within strings are mostly all allowed; and all the others. */
  readonly plain: Trie;
  readonly other: Trie;
  readonly #tokenizer: ConstraintTokenizer;
  readonly #lengths: Int16Array;
  readonly #masks: (Uint32Array | undefined)[] = [];

  constructor(tokenizer: ConstraintTokenizer) {
    this.#tokenizer = tokenizer;
    this.words = (tokenizer.size + 31) >> 5;
    this.#lengths = new Int16Array(tokenizer.size);
    const plain: number[] = [];
    const other: number[] = [];
    for (let id = 0; id < tokenizer.size; id++) {
      const bytes = tokenizer.tokenBytes(id);
      this.#lengths[id] = -1;
      if (bytes.length === 0 || tokenizer.isSpecial(id)) continue;
      this.#lengths[id] = plainLength(bytes);
      (this.#lengths[id] < 0 ? other : plain).push(id);
    }
    this.plain = trieOf(tokenizer, plain, this.#lengths);
    this.other = trieOf(tokenizer, other, this.#lengths);
  }

  bytes(token: number): Uint8Array | undefined {
    const { size, tokenBytes, isSpecial } = this.#tokenizer;
    if (!(Number.isInteger(token) && token >= 0 && token < size)) return undefined;
    const bytes = tokenBytes.call(this.#tokenizer, token);
    return bytes.length === 0 || isSpecial.call(this.#tokenizer, token) ? undefined : bytes;
  }

  /** Mask of the plain tokens of at most so many characters. Must not be changed. */
  plainMask(characters: number): Uint32Array {
    const most = Math.min(characters, this.plain.most[0] ?? 0);
    let mask = this.#masks[most];
    if (!mask) {
      mask = new Uint32Array(this.words);
      for (let id = 0; id < this.#lengths.length; id++) {
        const length = this.#lengths[id];
        if (length > 0 && length <= most) mask[id >> 5] |= 1 << (id & 31);
      }
      this.#masks[most] = mask;
    }
    return mask;
  }
}

/** So many tokens are sorted by insertion, more by counting. */
const FEW = 24;

/** Sorts by one byte after the other (radix, the first byte first), and writes the nodes down on the way. */
function trieOf(tokenizer: ConstraintTokenizer, ids: readonly number[], lengths: Int16Array): Trie {
  const bytesOf = ids.map((id) => tokenizer.tokenBytes(id));
  const room = bytesOf.reduce((sum, bytes) => sum + bytes.length, 1);
  const [byte, depth, end] = [new Uint8Array(room), new Uint16Array(room), new Int32Array(room)];
  const [token, most] = [new Int32Array(room).fill(-1), new Uint16Array(room)];
  const order = Int32Array.from(ids, (_, i) => i);
  const spare = new Int32Array(order.length);
  let nodes = 1;
  let deepest = 0;

  // Node 0 is the root. The tokens of order[from..to) share the first `level` bytes, which lead to `node`.
  const fill = (node: number, from: number, to: number, level: number): void => {
    deepest = Math.max(deepest, level);
    let rest = from;
    for (let i = from; i < to; i++) {
      if (bytesOf[order[i]].length > level) continue;
      const id = ids[order[i]];
      // Of tokens with the same bytes the first is the one that encoding makes.
      if (token[node] < 0) token[node] = id;
      most[node] = Math.max(most[node], Math.max(0, lengths[id]));
      order[i] = order[rest];
      rest++;
    }
    sortByByte(rest, to, level);
    for (let first = rest; first < to; ) {
      const b = bytesOf[order[first]][level];
      let last = first + 1;
      while (last < to && bytesOf[order[last]][level] === b) last++;
      const child = nodes++;
      byte[child] = b;
      depth[child] = level + 1;
      if (last - first === 1) chain(child, order[first], level + 1);
      else fill(child, first, last, level + 1);
      end[child] = nodes;
      most[node] = Math.max(most[node], most[child]);
      first = last;
    }
  };
  const counts = new Int32Array(257);
  const sortByByte = (from: number, to: number, level: number): void => {
    if (to - from <= FEW) {
      for (let i = from + 1; i < to; i++) {
        const index = order[i];
        const b = bytesOf[index][level];
        let at = i;
        for (; at > from && bytesOf[order[at - 1]][level] > b; at--) order[at] = order[at - 1];
        order[at] = index;
      }
      return;
    }
    counts.fill(0);
    for (let i = from; i < to; i++) counts[bytesOf[order[i]][level] + 1]++;
    for (let b = 0; b < 256; b++) counts[b + 1] += counts[b];
    for (let i = from; i < to; i++) spare[from + counts[bytesOf[order[i]][level]]++] = order[i];
    order.set(spare.subarray(from, to), from);
  };
  // The rest of a token that shares nothing more with others.
  const chain = (first: number, index: number, level: number): void => {
    const bytes = bytesOf[index];
    const length = Math.max(0, lengths[ids[index]]);
    let node = first;
    for (let i = level; i < bytes.length; i++) {
      node = nodes++;
      byte[node] = bytes[i];
      depth[node] = i + 1;
    }
    for (let i = first; i <= node; i++) {
      end[i] = nodes;
      most[i] = length;
    }
    token[node] = ids[index];
    deepest = Math.max(deepest, bytes.length);
  };
  fill(0, 0, order.length, 0);
  end[0] = nodes;
  return {
    byte: byte.slice(0, nodes),
    depth: depth.slice(0, nodes),
    end: end.slice(0, nodes),
    token: token.slice(0, nodes),
    most: most.slice(0, nodes),
    deepest,
  };
}

const known = new WeakMap<ConstraintTokenizer, TokenTries>();

/** The tries of a tokenizer, made at the first use (about a tenth of a second for 151,665 tokens). */
export function tokenTries(tokenizer: ConstraintTokenizer): TokenTries {
  let tries = known.get(tokenizer);
  if (!tries) known.set(tokenizer, (tries = new TokenTries(tokenizer)));
  return tries;
}
