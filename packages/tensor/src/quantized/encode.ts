/** Quantising: numbers to blocks of the two types this package makes, `q8_0` and `q4_1`. */

import { BLOCKS, type BlockType, fromF16, toF16 } from "../dtype.ts";

/** Block types that numbers can be turned into. */
export const QUANTIZABLE = ["q8_0", "q4_1"] as const satisfies readonly BlockType[];
/** A type of blocks that numbers can be rounded to. */
export type QuantizableType = (typeof QUANTIZABLE)[number];

export function isQuantizable(type: string): type is QuantizableType {
  return (QUANTIZABLE as readonly string[]).includes(type);
}

/** The greatest half: scales stop there, so that no finite number becomes infinite. */
export const MAX_HALF = 65504;

const clampedHalf = (value: number): number => toF16(Math.max(-MAX_HALF, Math.min(MAX_HALF, value)));

/** Adding and taking away this number rounds to a whole one, ties to even. */
const ROUNDING = 1.5 * 2 ** 52;

/**
 * Quantises whole blocks. Every element comes back within half a step (`q8_0`: a 127th of the block's greatest
 * magnitude; `q4_1`: a 15th of its range) and the rounding of scale and minimum to half precision. Every step is rounded
 * to f32, so that compiled kernels give the same bytes.
 */
export function encodeBlocks(type: QuantizableType, values: Float32Array, bytes: Uint8Array, at = 0): void {
  const { elements, bytes: size } = BLOCKS[type];
  const encode = type === "q8_0" ? encodeQ8 : encodeQ4;
  for (let i = 0; i < values.length; i += elements) encode(values, i, bytes, at + (i / elements) * size);
}

function putHalf(bytes: Uint8Array, at: number, bits: number): void {
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
}

const inverseOf = (scale: number): number => (scale > 0 ? Math.fround(1 / scale) : 0);

function encodeQ8(values: Float32Array, from: number, bytes: Uint8Array, at: number): void {
  let most = 0;
  for (let j = 0; j < 32; j++) most = Math.max(most, Math.abs(values[from + j]));
  const bits = clampedHalf(Math.fround(most / 127));
  const inverse = inverseOf(fromF16(bits));
  putHalf(bytes, at, bits);
  for (let j = 0; j < 32; j++) {
    const q = Math.min(127, Math.max(-127, Math.fround(values[from + j] * inverse)));
    bytes[at + 2 + j] = q + ROUNDING - ROUNDING;
  }
}

const LEVELS = 15;
const quantized = new Uint8Array(32);

function encodeQ4(values: Float32Array, from: number, bytes: Uint8Array, at: number): void {
  let least = values[from];
  let most = values[from];
  for (let j = 1; j < 32; j++) {
    const x = values[from + j];
    if (x < least) least = x;
    if (x > most) most = x;
  }
  const scaleBits = clampedHalf(Math.fround(Math.max(0, Math.fround(most - least)) / LEVELS));
  // Of zeros of both signs the minimum is the positive one.
  const minimumBits = clampedHalf(least + 0);
  const inverse = inverseOf(fromF16(scaleBits));
  const minimum = fromF16(minimumBits);
  for (let j = 0; j < 32; j++) {
    const steps = Math.fround(Math.fround(values[from + j] - minimum) * inverse);
    quantized[j] = Math.min(LEVELS, Math.max(0, steps)) + ROUNDING - ROUNDING;
  }
  putHalf(bytes, at, scaleBits);
  putHalf(bytes, at + 2, minimumBits);
  for (let j = 0; j < 16; j++) bytes[at + 4 + j] = quantized[j] | (quantized[j + 16] << 4);
}
