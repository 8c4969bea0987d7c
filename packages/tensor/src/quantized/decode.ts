/**
 * What quantised blocks mean: the definition of every block type, byte for byte as ggml lays it out
 * (https://github.com/ggml-org/ggml, `ggml-common.h` and `dequantize_row_*` of `ggml-quants.c`). A block of 32 elements
 * has a scale `d` (and a minimum `m`) in half precision; one of 256 has eight or sixteen groups with small integer
 * scales of their own. Values are exact here; rounding them once gives what f32 code computes.
 */

import { BLOCKS, type BlockType, fromF16 } from "../dtype.ts";

type Decode = (bytes: Uint8Array, at: number, into: Float64Array, to: number) => void;

const half = (bytes: Uint8Array, at: number): number => fromF16(bytes[at] | (bytes[at + 1] << 8));
const signed = (byte: number): number => (byte << 24) >> 24;

/** Element j of a block's 16 bytes of 4-bit numbers: low halves are elements 0 to 15, high halves 16 to 31. */
const nibble = (bytes: Uint8Array, at: number, j: number): number =>
  j < 16 ? bytes[at + j] & 15 : bytes[at + j - 16] >> 4;
/** Bit j of the bytes from `at`. */
const bit = (bytes: Uint8Array, at: number, j: number): number => (bytes[at + (j >> 3)] >> (j & 7)) & 1;

/** The 6-bit scale and minimum of group `j` of 8, from the 12 bytes that `q4_k` and `q5_k` pack them into. */
function scaleAndMinimum(bytes: Uint8Array, at: number, j: number): [number, number] {
  if (j < 4) return [bytes[at + j] & 63, bytes[at + j + 4] & 63];
  return [
    (bytes[at + j + 4] & 15) | ((bytes[at + j - 4] >> 6) << 4),
    (bytes[at + j + 4] >> 4) | ((bytes[at + j] >> 6) << 4),
  ];
}

const DECODE: { readonly [K in BlockType]: Decode } = {
  /** d, 16 bytes: (q − 8)·d */
  q4_0(bytes, at, into, to) {
    const d = half(bytes, at);
    for (let j = 0; j < 32; j++) into[to + j] = (nibble(bytes, at + 2, j) - 8) * d;
  },
  /** d, m, 16 bytes: q·d + m */
  q4_1(bytes, at, into, to) {
    const [d, m] = [half(bytes, at), half(bytes, at + 2)];
    for (let j = 0; j < 32; j++) into[to + j] = nibble(bytes, at + 4, j) * d + m;
  },
  /** d, 32 fifth bits, 16 bytes: (q − 16)·d */
  q5_0(bytes, at, into, to) {
    const d = half(bytes, at);
    for (let j = 0; j < 32; j++) into[to + j] = ((nibble(bytes, at + 6, j) | (bit(bytes, at + 2, j) << 4)) - 16) * d;
  },
  /** d, m, 32 fifth bits, 16 bytes: q·d + m */
  q5_1(bytes, at, into, to) {
    const [d, m] = [half(bytes, at), half(bytes, at + 2)];
    for (let j = 0; j < 32; j++) into[to + j] = (nibble(bytes, at + 8, j) | (bit(bytes, at + 4, j) << 4)) * d + m;
  },
  /** d, 32 signed bytes: q·d */
  q8_0(bytes, at, into, to) {
    const d = half(bytes, at);
    for (let j = 0; j < 32; j++) into[to + j] = signed(bytes[at + 2 + j]) * d;
  },
  /** d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes: q·(d·scale) − dmin·minimum; 32 bytes hold two groups */
  q4_k(bytes, at, into, to) {
    const [d, least] = [half(bytes, at), half(bytes, at + 2)];
    for (let j = 0; j < 8; j++) {
      const [scale, minimum] = scaleAndMinimum(bytes, at + 4, j);
      for (let i = 0; i < 32; i++) {
        const q = (bytes[at + 16 + 32 * (j >> 1) + i] >> (4 * (j & 1))) & 15;
        into[to + 32 * j + i] = q * (d * scale) - least * minimum;
      }
    }
  },
  /** As `q4_k`, with the fifth bits of group j in bit j of 32 bytes before the low four. */
  q5_k(bytes, at, into, to) {
    const [d, least] = [half(bytes, at), half(bytes, at + 2)];
    for (let j = 0; j < 8; j++) {
      const [scale, minimum] = scaleAndMinimum(bytes, at + 4, j);
      for (let i = 0; i < 32; i++) {
        const low = (bytes[at + 48 + 32 * (j >> 1) + i] >> (4 * (j & 1))) & 15;
        const q = low | (((bytes[at + 16 + i] >> j) & 1) << 4);
        into[to + 32 * j + i] = q * (d * scale) - least * minimum;
      }
    }
  },
  /** 128 bytes of low and 64 of upper bits, 16 signed scales (one for 16 elements), d: (q − 32)·(d·scale) */
  q6_k(bytes, at, into, to) {
    const d = half(bytes, at + 208);
    for (let j = 0; j < 256; j++) {
      const side = j >> 7;
      // Four groups of 32 in 64 bytes of low halves and then their high halves, over 32 bytes of upper pairs.
      const group = (j >> 5) & 3;
      const i = j & 31;
      const low = (bytes[at + 64 * side + 32 * (group & 1) + i] >> (4 * (group >> 1))) & 15;
      const upper = (bytes[at + 128 + 32 * side + i] >> (2 * group)) & 3;
      const scale = signed(bytes[at + 192 + (j >> 4)]);
      into[to + j] = ((low | (upper << 4)) - 32) * (d * scale);
    }
  },
};

const one = new Float64Array(256);

/**
 * Decodes `count` elements from element `first` on, counted from the beginning of `bytes`, which begins with a block.
 *
 * @param step elements from one to the next, 1 for a run
 */
export function decodeBlocks(
  type: BlockType,
  bytes: Uint8Array,
  first: number,
  count: number,
  into = new Float64Array(count),
  step = 1,
): Float64Array {
  const { elements, bytes: size } = BLOCKS[type];
  const decode = DECODE[type];
  if (step === 1 && first % elements === 0 && count % elements === 0) {
    for (let i = 0; i < count; i += elements) decode(bytes, ((first + i) / elements) * size, into, i);
    return into;
  }
  let decoded = -1;
  for (let i = 0; i < count; i++) {
    const block = Math.floor((first + i * step) / elements);
    if (block !== decoded) decode(bytes, block * size, one, 0);
    decoded = block;
    into[i] = one[(first + i * step) % elements];
  }
  return into;
}
