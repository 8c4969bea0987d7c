/**
 * Types whose elements lie one by one. `f32` computes; `bf16` stores (weights as they lie in a file); `i32` counts and
 * indexes; `f64` exists on the reference device alone, for gradient checks.
 */
export type ElementType = "f32" | "f64" | "bf16" | "i32";

/**
 * Types of frozen weights in blocks of a few bits an element, laid out as ggml lays them in a GGUF file: `q8_0` and
 * `q4_1` are what `to()` quantises to, the others are read. See `quantized/decode.ts` for what each means.
 */
export type BlockType = "q4_0" | "q4_1" | "q5_0" | "q5_1" | "q8_0" | "q4_k" | "q5_k" | "q6_k";

/** Element types. */
export type DType = ElementType | BlockType;

/** A block: neighbours along the last dimension that share a scale. */
export const BLOCKS: { readonly [K in BlockType]: { readonly elements: number; readonly bytes: number } } = {
  q4_0: { elements: 32, bytes: 18 },
  q4_1: { elements: 32, bytes: 20 },
  q5_0: { elements: 32, bytes: 22 },
  q5_1: { elements: 32, bytes: 24 },
  q8_0: { elements: 32, bytes: 34 },
  q4_k: { elements: 256, bytes: 144 },
  q5_k: { elements: 256, bytes: 176 },
  q6_k: { elements: 256, bytes: 210 },
};

/**
 * A typed array that holds elements of a {@link DType}; bf16 elements are the upper 16 bits of an f32, blocks are bytes.
 */
export type TypedArray = Float32Array | Float64Array | Uint16Array | Int32Array | Uint8Array;

const blockBytes = (type: BlockType): number => BLOCKS[type].bytes / BLOCKS[type].elements;

/** Bytes of one element; of block types a fraction, exact in binary, so that whole blocks come out whole. */
export const BYTES: { readonly [K in DType]: number } = {
  ...{ f32: 4, f64: 8, bf16: 2, i32: 4 },
  ...{ q4_0: blockBytes("q4_0"), q4_1: blockBytes("q4_1"), q5_0: blockBytes("q5_0"), q5_1: blockBytes("q5_1") },
  ...{ q8_0: blockBytes("q8_0"), q4_k: blockBytes("q4_k"), q5_k: blockBytes("q5_k"), q6_k: blockBytes("q6_k") },
};

const ARRAYS = { f32: Float32Array, f64: Float64Array, bf16: Uint16Array, i32: Int32Array } as const;

/** Is it a type of quantised blocks? */
export function isBlocks(dtype: DType): dtype is BlockType {
  return Object.hasOwn(BLOCKS, dtype);
}

/** Is the type one that gradients can flow through? */
export function isFloating(dtype: DType): boolean {
  return dtype !== "i32" && !isBlocks(dtype);
}

/** A typed array of `length` elements over `buffer`, from `byteOffset`; of blocks, their bytes. */
export function typedArray(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray {
  if (isBlocks(dtype)) return new Uint8Array(buffer as ArrayBuffer, byteOffset, length * BYTES[dtype]);
  return new ARRAYS[dtype](buffer as ArrayBuffer, byteOffset, length);
}

/** The type that arithmetic between the two gives: the wider float, or i32 where both are. bf16 computes in f32. */
export function promote(a: DType, b: DType): DType {
  if (a === "f64" || b === "f64") return "f64";
  if (a === "i32" && b === "i32") return "i32";
  return "f32";
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** The value of bf16 bits. */
export function fromBf16(half: number): number {
  bits[0] = half << 16;
  return float[0];
}

/** bf16 bits of a value, rounded to nearest, ties to even, as PyTorch rounds. NaN stays NaN. */
export function toBf16(value: number): number {
  float[0] = value;
  const word = bits[0];
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 0x40;
  return ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value of IEEE half-precision bits. */
export function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** IEEE half-precision bits of a value, rounded to nearest, ties to even. */
export function toF16(value: number): number {
  float[0] = value;
  const word = bits[0];
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  // Below 2^-14 halves are multiples of 2^-24.
  if (magnitude < 0x38800000) return sign | roundEven(Math.abs(float[0]) * 2 ** 24);
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

function roundEven(value: number): number {
  const down = Math.floor(value);
  const rest = value - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}
