/**
 * Quantising as ggml's reference functions do it (`quantize_row_q4_0_ref` and its like of `ggml-quants.c`), byte for byte:
 * what llama.cpp's own converter would write. For block types that only files need; the two that are computed with as
 * well are in `encode.ts`.
 */

import { BLOCKS, type BlockType, toF16 } from "../dtype.ts";

/** Block types that are made for files alone. */
export const FILE_BLOCKS = ["q4_0", "q5_0", "q5_1"] as const satisfies readonly BlockType[];
export type FileBlock = (typeof FILE_BLOCKS)[number];

const { fround, trunc, abs, min } = Math;
const quantized = new Uint8Array(32);

function putHalf(bytes: Uint8Array, at: number, value: number): void {
  const bits = toF16(value);
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
}

/** 16 bytes of low nibbles: elements 0 to 15 in the low halves, 16 to 31 in the high ones. */
function putNibbles(bytes: Uint8Array, at: number): void {
  for (let j = 0; j < 16; j++) bytes[at + j] = (quantized[j] & 15) | ((quantized[j + 16] & 15) << 4);
}

/** The fifth bits, element j in bit j of 4 bytes. */
function putFifthBits(bytes: Uint8Array, at: number): void {
  bytes.fill(0, at, at + 4);
  for (let j = 0; j < 32; j++) bytes[at + (j >> 3)] |= (quantized[j] >> 4) << (j & 7);
}

/** The element of greatest magnitude, the first of equals, with its sign. */
function extreme(values: Float32Array, from: number): number {
  let most = 0;
  let found = 0;
  for (let j = from; j < from + 32; j++) {
    if (abs(values[j]) > most) {
      most = abs(values[j]);
      found = values[j];
    }
  }
  return found;
}

/** d, and q = x/d around the middle level: the extreme element gets the lowest level, exactly. */
function symmetric(values: Float32Array, from: number, levels: number): number {
  const middle = levels / 2;
  const d = fround(extreme(values, from) / -middle);
  const inverse = d === 0 ? 0 : fround(1 / d);
  for (let j = 0; j < 32; j++) {
    quantized[j] = min(levels - 1, trunc(fround(fround(values[from + j] * inverse) + fround(middle + 0.5))));
  }
  return d;
}

type Encode = (values: Float32Array, from: number, bytes: Uint8Array, at: number) => void;

const ENCODE: { readonly [K in FileBlock]: Encode } = {
  q4_0(values, from, bytes, at) {
    putHalf(bytes, at, symmetric(values, from, 16));
    putNibbles(bytes, at + 2);
  },
  q5_0(values, from, bytes, at) {
    putHalf(bytes, at, symmetric(values, from, 32));
    putFifthBits(bytes, at + 2);
    putNibbles(bytes, at + 6);
  },
  q5_1(values, from, bytes, at) {
    let least = values[from];
    let most = least;
    for (let j = from + 1; j < from + 32; j++) {
      if (values[j] < least) least = values[j];
      if (values[j] > most) most = values[j];
    }
    const d = fround(fround(most - least) / 31);
    const inverse = d === 0 ? 0 : fround(1 / d);
    for (let j = 0; j < 32; j++) {
      quantized[j] = trunc(fround(fround(fround(values[from + j] - least) * inverse) + 0.5));
    }
    putHalf(bytes, at, d);
    putHalf(bytes, at + 2, least);
    putFifthBits(bytes, at + 4);
    putNibbles(bytes, at + 8);
  },
};

/** Quantises whole blocks; `values` holds a multiple of 32 numbers. */
export function encodeFileBlocks(type: FileBlock, values: Float32Array): Uint8Array<ArrayBuffer> {
  const { elements, bytes: size } = BLOCKS[type];
  const bytes = new Uint8Array((values.length / elements) * size);
  const encode = ENCODE[type];
  for (let i = 0; i < values.length; i += elements) encode(values, i, bytes, (i / elements) * size);
  return bytes;
}
