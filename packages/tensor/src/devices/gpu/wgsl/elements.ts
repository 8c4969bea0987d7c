import { BLOCKS, type BlockType, type DType, isBlocks } from "../../../dtype.ts";
import type { View } from "../../device.ts";

/** How a shader reads four neighbours of an operand, which is a part of its key. */
export interface Reader {
  readonly dtype: DType;
  /**
   * `four`: f32 or bf16, always at multiples of four elements, bound as vectors; `pair`: bf16 at even places, two in a
   * word; `each`: one after another, any step apart; `block`: quantised, at multiples of four elements.
   */
  readonly access: "four" | "pair" | "each" | "block";
}

/**
 * The reader for runs of four along a dimension.
 *
 * @param first where the view begins in its binding
 */
export function readerOf({ dtype, shape, strides }: View, dimension: number, first: number): Reader {
  if (isBlocks(dtype)) return { dtype, access: "block" };
  const others = strides.filter((_, d) => d !== dimension && shape[d] > 1);
  const all = (multiple: number): boolean => [first, ...others].every((n) => n % multiple === 0);
  const step = shape[dimension] > 1 ? strides[dimension] : 1;
  if (step === 1 && all(4) && shape[dimension] % 4 === 0) return { dtype, access: "four" };
  if (step === 1 && dtype === "bf16" && all(2)) return { dtype, access: "pair" };
  return { dtype, access: "each" };
}

/** The element type of the array that a reader's buffer is bound as. */
export function arrayType({ dtype, access }: Reader): string {
  if (access === "four") return dtype === "f32" ? "vec4f" : "vec2u";
  return dtype === "f32" ? "f32" : "u32";
}

/**
 * WGSL of `quad_NAME(at, step) -> vec4f`: elements at, at+step, at+2·step, at+3·step of the buffer called NAME. Readers other
 * than `each` take the step as 1. Where blocks begin is `p.NAME_byte`.
 */
export function quadSource(name: string, { dtype, access }: Reader): string {
  const head = `fn quad_${name}(at: u32, step: u32) -> vec4f`;
  if (access === "four" && dtype === "f32") return `${head} { return ${name}[at >> 2u]; }\n`;
  if (access === "four" || access === "pair") {
    const pairs = access === "four" ? `${name}[at >> 2u]` : `vec2u(${name}[at >> 1u], ${name}[(at >> 1u) + 1u])`;
    // bf16 is the upper half of an f32.
    return `${head} {
  let u = ${pairs};
  return bitcast<vec4f>(vec4u(u.x << 16u, u.x & 0xffff0000u, u.y << 16u, u.y & 0xffff0000u));
}\n`;
  }
  if (access === "each") {
    const one = `one_${name}`;
    const value =
      dtype === "f32"
        ? `${name}[at]`
        : `bitcast<f32>(select(${name}[at >> 1u] << 16u, ${name}[at >> 1u] & 0xffff0000u, (at & 1u) == 1u))`;
    return `fn ${one}(at: u32) -> f32 { return ${value}; }
${head} { return vec4f(${one}(at), ${one}(at + step), ${one}(at + 2u * step), ${one}(at + 3u * step)); }\n`;
  }
  return blockSource(name, dtype as BlockType, head);
}

/** Reads of bytes, halves and words of the buffer called `name`. */
function byteSource(name: string): string {
  return `
fn byte_${name}(at: u32) -> u32 { return (${name}[at >> 2u] >> (8u * (at & 3u))) & 255u; }
// The four bytes from a multiple of two on.
fn word_${name}(at: u32) -> u32 {
  let low = ${name}[at >> 2u];
  if ((at & 2u) == 0u) { return low; }
  return (low >> 16u) | (${name}[(at >> 2u) + 1u] << 16u);
}
// IEEE half precision by its bits: a device may flush small ones to zero when it unpacks them itself.
fn half_${name}(at: u32) -> f32 {
  let h = (${name}[at >> 2u] >> (8u * (at & 2u))) & 0xffffu;
  let fraction = h & 1023u;
  let exponent = (h >> 10u) & 31u;
  let small = f32(fraction) * 5.9604644775390625e-8;
  let wide = bitcast<f32>((select(exponent + 112u, 255u, exponent == 31u) << 23u) | (fraction << 13u));
  let magnitude = select(wide, small, exponent == 0u);
  return select(magnitude, -magnitude, h >= 0x8000u);
}
`;
}

/** Four bytes as numbers. */
const BYTES_OF_WORD = "vec4f(vec4u(w & 255u, (w >> 8u) & 255u, (w >> 16u) & 255u, w >> 24u))";
/** Bits 0 to 3 as numbers. */
const BITS_OF_WORD = "vec4f(vec4u(w & 1u, (w >> 1u) & 1u, (w >> 2u) & 1u, (w >> 3u) & 1u))";

/**
 * Four elements from place `j` of the block that begins at byte `b`, by the definitions of `quantized/decode.ts`. Products of
 * a half, a scale and a level are exact in f32, so one rounding remains.
 */
const DECODE: { readonly [K in BlockType]: (name: string) => string } = {
  q8_0: (n) => `
  let w = i32(word_${n}(b + 2u + j));
  return vec4f((vec4i(w << 24u, w << 16u, w << 8u, w) >> vec4u(24u))) * half_${n}(b);`,
  q4_0: (n) => `return (levels_${n}(b + 2u, j) - 8.0) * half_${n}(b);`,
  q4_1: (n) => `return fma(levels_${n}(b + 4u, j), vec4f(half_${n}(b)), vec4f(half_${n}(b + 2u)));`,
  q5_0: (n) => `
  let fifth = bits_${n}(word_${n}(b + 2u) >> j);
  return (levels_${n}(b + 6u, j) + 16.0 * fifth - 16.0) * half_${n}(b);`,
  q5_1: (n) => `
  let fifth = bits_${n}(word_${n}(b + 4u) >> j);
  return fma(levels_${n}(b + 8u, j) + 16.0 * fifth, vec4f(half_${n}(b)), vec4f(half_${n}(b + 2u)));`,
  q4_k: (n) => `
  let group = j >> 5u;
  let s = scales_${n}(b, group);
  let w = (word_${n}(b + 16u + 32u * (group >> 1u) + (j & 31u)) >> (4u * (group & 1u))) & 0x0f0f0f0fu;
  return fma(bytes_${n}(w), vec4f(s.x), vec4f(-s.y));`,
  q5_k: (n) => `
  let group = j >> 5u;
  let s = scales_${n}(b, group);
  let low = (word_${n}(b + 48u + 32u * (group >> 1u) + (j & 31u)) >> (4u * (group & 1u))) & 0x0f0f0f0fu;
  let fifth = (word_${n}(b + 16u + (j & 31u)) >> group) & 0x01010101u;
  return fma(bytes_${n}(low | (fifth << 4u)), vec4f(s.x), vec4f(-s.y));`,
  q6_k: (n) => `
  let side = j >> 7u;
  let group = (j >> 5u) & 3u;
  let i = j & 31u;
  let low = (word_${n}(b + 64u * side + 32u * (group & 1u) + i) >> (4u * (group >> 1u))) & 0x0f0f0f0fu;
  let upper = (word_${n}(b + 128u + 32u * side + i) >> (2u * group)) & 0x03030303u;
  let scale = f32((i32(byte_${n}(b + 192u + (j >> 4u))) << 24u) >> 24u);
  return (bytes_${n}(low | (upper << 4u)) - 32.0) * (half_${n}(b + 208u) * scale);`,
};

function blockSource(name: string, type: BlockType, head: string): string {
  const { elements, bytes } = BLOCKS[type];
  const shift = Math.log2(elements);
  return `${byteSource(name)}
fn bytes_${name}(w: u32) -> vec4f { return ${BYTES_OF_WORD}; }
fn bits_${name}(w: u32) -> vec4f { return ${BITS_OF_WORD}; }
// Levels j to j+3 of 32 in 16 bytes of 4 bits each: the low halves, then the high ones.
fn levels_${name}(start: u32, j: u32) -> vec4f {
  return bytes_${name}((word_${name}(start + (j & 15u)) >> (4u * (j >> 4u))) & 0x0f0f0f0fu);
}
// d·scale and dmin·minimum of one of eight groups.
fn scales_${name}(b: u32, j: u32) -> vec2f {
  let near = byte_${name}(b + 4u + j);
  let far = byte_${name}(b + 8u + j);
  let before = byte_${name}(b + (j & 3u) + 4u);
  let scale = select((far & 15u) | ((before >> 6u) << 4u), near & 63u, j < 4u);
  let minimum = select((far >> 4u) | ((near >> 6u) << 4u), far & 63u, j < 4u);
  return vec2f(half_${name}(b) * f32(scale), half_${name}(b + 2u) * f32(minimum));
}
${head} {
  let b = p.${name}_byte + (at >> ${shift}u) * ${bytes}u;
  let j = at & ${elements - 1}u;
  ${DECODE[type](name)}
}
`;
}
