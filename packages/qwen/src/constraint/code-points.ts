/** Code points first to last, both included. */
export type CodeRange = readonly [first: number, last: number];
/** Bytes first to last, both included. */
export type ByteRange = readonly [first: number, last: number];

export const LAST_CODE_POINT = 0x10ffff;

/** Sorted and joined. */
export function normalize(ranges: readonly CodeRange[]): CodeRange[] {
  const sorted = ranges.filter(([a, b]) => a <= b).sort((x, y) => x[0] - y[0]);
  const out: [number, number][] = [];
  for (const [first, last] of sorted) {
    const before = out.at(-1);
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else out.push([first, last]);
  }
  return out;
}

/** All code points that are not in the ranges. */
export function invert(ranges: readonly CodeRange[]): CodeRange[] {
  const out: CodeRange[] = [];
  let next = 0;
  for (const [first, last] of normalize(ranges)) {
    if (first > next) out.push([next, first - 1]);
    next = last + 1;
  }
  if (next <= LAST_CODE_POINT) out.push([next, LAST_CODE_POINT]);
  return out;
}

/** Those of the first that are also in the second. */
export function intersect(a: readonly CodeRange[], b: readonly CodeRange[]): CodeRange[] {
  return invert([...invert(a), ...invert(b)]);
}

/** First code points of two, three and four bytes, and what ends each length. */
const LENGTHS: readonly CodeRange[] = [
  [0, 0x7f],
  [0x80, 0x7ff],
  [0x800, 0xd7ff],
  [0xe000, 0xffff],
  [0x10000, LAST_CODE_POINT],
];

/** The sequences of byte ranges that are the UTF-8 of the code points, surrogates left out. */
export function utf8Sequences(ranges: readonly CodeRange[]): ByteRange[][] {
  const out: ByteRange[][] = [];
  for (const [first, last] of ranges) {
    for (const [from, to] of LENGTHS) {
      const [a, b] = [Math.max(first, from), Math.min(last, to)];
      if (a <= b) split(a, b, out);
    }
  }
  return out;
}

/** Takes a range whose code points have one length apart until each byte's range is free of the others. */
function split(first: number, last: number, out: ByteRange[][]): void {
  for (let bits = 6; bits <= 18; bits += 6) {
    if (last < 0x80) break;
    const mask = (1 << bits) - 1;
    if ((first & ~mask) === (last & ~mask)) continue;
    if ((first & mask) !== 0) {
      split(first, first | mask, out);
      split((first | mask) + 1, last, out);
      return;
    }
    if ((last & mask) !== mask) {
      split(first, (last & ~mask) - 1, out);
      split(last & ~mask, last, out);
      return;
    }
  }
  const [a, b] = [utf8(first), utf8(last)];
  out.push(a.map((byte, i) => [byte, b[i]]));
}

function utf8(code: number): number[] {
  const tail = (shift: number): number => 0x80 | ((code >> shift) & 0x3f);
  if (code < 0x80) return [code];
  if (code < 0x800) return [0xc0 | (code >> 6), tail(0)];
  if (code < 0x10000) return [0xe0 | (code >> 12), tail(6), tail(0)];
  return [0xf0 | (code >> 18), tail(12), tail(6), tail(0)];
}

/** Characters that stand in a JSON string as `JSON.stringify` writes them, not as themselves. */
const ESCAPED: readonly CodeRange[] = [
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
];

/** As {@link utf8Sequences}, but as the characters are written in a JSON string: one way each, that of `JSON.stringify`. */
export function jsonSequences(ranges: readonly CodeRange[]): ByteRange[][] {
  const out = utf8Sequences(intersect(ranges, invert(ESCAPED)));
  for (const [first, last] of intersect(ranges, ESCAPED)) {
    for (let code = first; code <= last; code++) {
      const written = JSON.stringify(String.fromCharCode(code)).slice(1, -1);
      out.push(Array.from(written, (char) => [char.charCodeAt(0), char.charCodeAt(0)]));
    }
  }
  return out;
}
