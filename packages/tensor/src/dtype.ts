/**
 * Element types. `f32` computes; `bf16` stores (weights as they lie in a file); `i32` counts and indexes;
 * `f64` exists on the reference device alone, for gradient checks.
 */
export type DType = "f32" | "f64" | "bf16" | "i32";

/** A typed array that holds elements of a {@link DType}; bf16 elements are the upper 16 bits of an f32. */
export type TypedArray = Float32Array | Float64Array | Uint16Array | Int32Array;

/** Bytes of one element. */
export const BYTES: { readonly [K in DType]: number } = { f32: 4, f64: 8, bf16: 2, i32: 4 };

const ARRAYS = { f32: Float32Array, f64: Float64Array, bf16: Uint16Array, i32: Int32Array } as const;

/** Is the type one that gradients can flow through? */
export function isFloating(dtype: DType): boolean {
  return dtype !== "i32";
}

/** A typed array of `length` elements over `buffer`, from `byteOffset`. */
export function typedArray(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray {
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
