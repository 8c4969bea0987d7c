/**
 * Byte-level BPE, trained (Sennrich, Haddow & Birch, "Neural machine translation of rare words with subword units", ACL
 * 2016; on bytes as in GPT-2): text is split by Qwen2's pattern, each piece is a list of bytes, and the most frequent
 * neighbours are merged again and again.
 */

/** How Qwen2 splits text before BPE, as its tokenizer.json writes it. */
export const SPLIT_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** The character that stands for each byte in vocabulary and merges: GPT-2's `bytes_to_unicode`. */
export const BYTE_TO_CHAR: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

export interface Bpe {
  /** Tokens in order of their ids: the 256 bytes, then what each merge makes. */
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [string, string])[];
}

export interface BpeOptions {
  /** Number of tokens, the 256 bytes included. */
  readonly size: number;
  /** Longest token in bytes. Short ones keep whole sentences of a small corpus from becoming tokens. */
  readonly maxBytes: number;
}

/**
 * Learns merges from texts. Of pairs that are equally frequent the one of lower ids comes first, so the result depends
 * on the texts alone.
 *
 * @throws RangeError if the texts hold too few pairs for a vocabulary of that size
 */
export function trainBpe(texts: Iterable<string>, { size, maxBytes }: BpeOptions): Bpe {
  const words = countWords(texts);
  const tokens = [...BYTE_TO_CHAR];
  const merges: [string, string][] = [];
  while (tokens.length < size) {
    const best = mostFrequentPair(words, tokens, maxBytes);
    if (best === undefined) {
      throw new RangeError(`the texts make ${tokens.length} tokens of at most ${maxBytes} bytes, not ${size}`);
    }
    const [left, right] = best;
    merges.push([tokens[left], tokens[right]]);
    const made = tokens.push(tokens[left] + tokens[right]) - 1;
    for (const word of words) mergePair(word.ids, left, right, made);
  }
  return { tokens, merges };
}

interface Word {
  /** Token ids, at first the bytes. */
  readonly ids: number[];
  readonly count: number;
}

function countWords(texts: Iterable<string>): Word[] {
  const split = new RegExp(SPLIT_PATTERN, "gu");
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [piece] of text.normalize("NFC").matchAll(split)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  return Array.from(counts, ([piece, count]) => ({ ids: [...new TextEncoder().encode(piece)], count }));
}

function mostFrequentPair(
  words: readonly Word[],
  tokens: readonly string[],
  maxBytes: number,
): [number, number] | undefined {
  // A pair is one number, left · size + right: ordered as (left, right) are.
  const size = tokens.length;
  const counts = new Map<number, number>();
  for (const { ids, count } of words) {
    for (let i = 1; i < ids.length; i++) {
      const pair = ids[i - 1] * size + ids[i];
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  }
  let best = -1;
  let most = 0;
  for (const [pair, count] of counts) {
    if (count < most || (count === most && pair > best)) continue;
    if (tokens[Math.floor(pair / size)].length + tokens[pair % size].length > maxBytes) continue;
    best = pair;
    most = count;
  }
  return best < 0 ? undefined : [Math.floor(best / size), best % size];
}

function mergePair(ids: number[], left: number, right: number, made: number): void {
  let end = 0;
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      ids[end++] = made;
      i++;
    } else ids[end++] = ids[i];
  }
  ids.length = end;
}
