// A storage lies in two places: as bytes here, and as f32 numbers where kernels read them. One of them, or both, are current.
import { BLOCKS, BYTES, type DType, fromBf16, isBlocks, typedArray } from "../../../dtype.ts";
import { decodeBlocks } from "../../../quantized/decode.ts";
import { type Backend, type Handle, MOST_ELEMENTS } from "./backend.ts";

/** A storage's content. */
export class Place {
  readonly byteLength: number;
  readonly #backend: Backend;
  #bytes: Uint8Array<ArrayBuffer> | undefined;
  #handle: Handle | undefined;
  /** Type of the elements that the handle holds. */
  #dtype: DType = "f32";
  /** Does the handle hold what the bytes do not? */
  #ahead = false;

  constructor(backend: Backend, byteLength: number, bytes?: Uint8Array) {
    this.#backend = backend;
    this.byteLength = byteLength;
    this.#bytes = bytes as Uint8Array<ArrayBuffer> | undefined;
  }

  /** The bytes, brought here first where kernels wrote last. */
  bytes(): Uint8Array<ArrayBuffer> {
    this.#bytes ??= new Uint8Array(this.byteLength);
    if (this.#ahead) {
      const values = this.#backend.download(this.#handle!);
      const { buffer, byteOffset } = this.#bytes;
      const array = this.#dtype === "i32" ? Int32Array : Float32Array;
      new array(buffer, byteOffset, Math.floor(this.byteLength / 4)).set(values.subarray(0, this.byteLength / 4));
      this.#ahead = false;
    }
    return this.#bytes;
  }

  /** The bytes, to be written: what kernels have is no longer current. */
  bytesToWrite(): Uint8Array<ArrayBuffer> {
    const bytes = this.bytes();
    this.#drop();
    return bytes;
  }

  /** The elements as numbers for kernels; undefined where f32 does not hold them all, or no kernel takes so many. */
  handle(dtype: DType): Handle | undefined {
    if (this.#handle && this.#dtype === dtype) return this.#handle;
    const values = this.#values(dtype);
    if (!values) return undefined;
    this.#drop();
    this.#handle = this.#backend.upload(values);
    this.#dtype = dtype;
    return this.#handle;
  }

  #values(dtype: DType): Float32Array | undefined {
    if (isBlocks(dtype)) {
      const { elements, bytes: size } = BLOCKS[dtype];
      const count = Math.ceil(this.byteLength / size) * elements;
      if (count === 0 || count > MOST_ELEMENTS) return undefined;
      const values = new Float32Array(count);
      values.set(decodeBlocks(dtype, this.bytes(), 0, Math.floor(this.byteLength / size) * elements));
      return values;
    }
    const count = Math.floor(this.byteLength / BYTES[dtype]);
    if (count === 0 || count > MOST_ELEMENTS) return undefined;
    const bytes = this.bytes();
    const array = typedArray(dtype, bytes.buffer, bytes.byteOffset, count);
    if (dtype === "bf16") return Float32Array.from(array as Uint16Array, fromBf16);
    if (dtype === "i32" && array.some((value) => Math.abs(value) > MOST_ELEMENTS)) return undefined;
    return Float32Array.from(array);
  }

  /** What a kernel wrote takes the place of all that was there. */
  become(handle: Handle, dtype: "f32" | "i32"): void {
    this.#drop();
    this.#handle = handle;
    this.#dtype = dtype;
    this.#ahead = true;
  }

  #drop(): void {
    if (this.#handle) this.#backend.free(this.#handle);
    this.#handle = undefined;
    this.#ahead = false;
  }

  free(): void {
    this.#drop();
    this.#bytes = undefined;
  }
}
