import { files } from "#files";
import type { Device } from "../devices/device.ts";
import { defaultDevice } from "../devices/registry.ts";
import { BYTES, type DType } from "../dtype.ts";
import { DTypeError, FormatError, TensorError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import type { ByteSource, WriteOptions } from "./files.ts";
import {
  DEFAULT_ALIGNMENT,
  failGguf,
  GGML_TYPES,
  GGUF_MAGIC,
  GGUF_VERSION,
  type GgufHeader,
  type GgufTensorInfo,
  type GgufValue,
  parseGgufHeader,
  VALUE_TYPES,
} from "./gguf-header.ts";
import { widenHalves } from "./halves.ts";
import { checkSource, encodeSource, storedBytes, type TensorSource } from "./source.ts";

export type { GgufTensorInfo, GgufValue } from "./gguf-header.ts";

/** Element types read as they lie in the file; F16 is copied. */
const READABLE: ReadonlyMap<string, DType> = new Map<string, DType>([
  ...(["f32", "f64", "bf16", "i32"] as const).map((dtype) => [dtype.toUpperCase(), dtype] as const),
  ...(["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"] as const).map(
    (dtype) => [dtype.toUpperCase(), dtype] as const,
  ),
]);

/** A GGUF file, opened or in memory. */
export class GgufFile {
  /** The path, or the name given to bytes: what errors call it. */
  readonly file: string;
  readonly #source: ByteSource;
  readonly #header: GgufHeader;

  /** Checks the whole header. @throws FormatError naming what is wrong with it */
  constructor(file: string, source: ByteSource) {
    this.file = file;
    this.#source = source;
    this.#header = parseGgufHeader(file, (length) => source.bytes(0, length), source.byteLength);
  }

  get metadata(): ReadonlyMap<string, GgufValue> {
    return this.#header.metadata;
  }
  /** Names of all tensors, in the order of the file. */
  names(): string[] {
    return [...this.#header.tensors.keys()];
  }
  has(name: string): boolean {
    return this.#header.tensors.has(name);
  }
  /** Element type, shape and place. @throws FormatError when there is no such tensor */
  info(name: string): GgufTensorInfo {
    return this.#header.tensors.get(name) ?? failGguf(this.file, `there is no tensor ${name}`);
  }
  /**
   * The tensor, mapped: blocks and bf16 stay as they are, nothing is copied where the device can read it in place. It
   * outlives `close`. Its values must not be changed. F16 is copied, as bf16 where a matrix fits that, else widened to f32.
   * @throws FormatError when there is no such tensor, DTypeError when its element type cannot be computed with
   */
  tensor(name: string, { device = defaultDevice() }: { device?: Device } = {}): Tensor {
    const { type, shape, offset, byteLength } = this.info(name);
    const dtype = READABLE.get(type);
    if (byteLength === undefined || (dtype === undefined && type !== "F16")) {
      const known = [...READABLE.keys(), "F16"].join(", ");
      throw new DTypeError("gguf", `${this.file}: tensor ${name} is ${type}; only ${known} can be computed with`);
    }
    const bytes = this.#source.bytes(offset, byteLength);
    if (dtype !== undefined) return Tensor.map(bytes, shape, dtype, device);
    return widenHalves(bytes, shape, device);
  }
  /** Gives the file back. Tensors made from it stay. */
  close(): void {
    this.#source.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Opens a GGUF file and checks its header; tensors are read when asked for.
 * @throws FormatError naming what is wrong with the file, TensorError when it cannot be read
 */
export async function openGguf(path: string): Promise<GgufFile> {
  if (!files) throw new TensorError("openGguf", "there are no files here; give the bytes to parseGguf");
  const source = files.open(path);
  try {
    return new GgufFile(path, source);
  } catch (error) {
    source.close();
    throw error;
  }
}

/** A GGUF file in memory. @param name what errors call it */
export function parseGguf(bytes: Uint8Array, name = "bytes"): GgufFile {
  return new GgufFile(name, {
    byteLength: bytes.byteLength,
    bytes: (offset, length) => bytes.subarray(offset, offset + length),
    close() {},
  });
}

/** Metadata to write: whole numbers become uint32 or int64, others float32; `{ float32 }` keeps a whole one a float. */
export type GgufEntry = string | number | boolean | { readonly float32: number } | readonly (string | number)[];

class Writer {
  #bytes = new Uint8Array(1 << 16);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;
  readonly #text = new TextEncoder();

  #take(n: number): number {
    const at = this.#at;
    this.#at += n;
    if (this.#at > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#at, 2 * this.#bytes.length));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }
  uint32(value: number): void {
    const at = this.#take(4);
    this.#view.setUint32(at, value, true);
  }
  uint64(value: number): void {
    const at = this.#take(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }
  string(text: string): void {
    const bytes = this.#text.encode(text);
    this.uint64(bytes.length);
    const at = this.#take(bytes.length);
    this.#bytes.set(bytes, at);
  }
  entry(value: GgufEntry): void {
    if (Array.isArray(value)) {
      this.uint32(VALUE_TYPES.array);
      const text = typeof value[0] === "string";
      this.uint32(text ? VALUE_TYPES.string : VALUE_TYPES.int32);
      this.uint64(value.length);
      for (const item of value as readonly (string | number)[]) {
        if (typeof item === "string") this.string(item);
        else this.#view.setInt32(this.#take(4), item, true);
      }
    } else if (typeof value === "string") {
      this.uint32(VALUE_TYPES.string);
      this.string(value);
    } else if (typeof value === "boolean") {
      this.uint32(VALUE_TYPES.bool);
      const at = this.#take(1);
      this.#bytes[at] = value ? 1 : 0;
    } else this.#number(value as number | { float32: number });
  }
  #number(value: number | { float32: number }): void {
    const whole = typeof value === "number" && Number.isSafeInteger(value);
    if (whole && value >= 0 && value < 2 ** 32) {
      this.uint32(VALUE_TYPES.uint32);
      this.uint32(value);
    } else if (whole) {
      this.uint32(VALUE_TYPES.int64);
      const at = this.#take(8);
      this.#view.setBigInt64(at, BigInt(value), true);
    } else {
      this.uint32(VALUE_TYPES.float32);
      const at = this.#take(4);
      this.#view.setFloat32(at, typeof value === "number" ? value : value.float32, true);
    }
  }
  /** What was written, filled up with zeros to a multiple. */
  aligned(multiple: number): Uint8Array {
    this.#take(-this.#at & (multiple - 1));
    return this.#bytes.subarray(0, this.#at);
  }
}

const padding = (length: number): number => -length & (DEFAULT_ALIGNMENT - 1);

/** Bytes and ggml's name of the type that a tensor is written in. */
function stored(t: Tensor | TensorSource): { type: string; bytes: number } {
  if (t instanceof Tensor) return { type: t.dtype.toUpperCase(), bytes: t.size * BYTES[t.dtype] };
  return { type: t.type.toUpperCase(), bytes: storedBytes(t.type, t.shape) };
}

async function* serialize(
  tensors: ReadonlyMap<string, Tensor | TensorSource>,
  metadata: ReadonlyMap<string, GgufEntry>,
  { progress }: WriteOptions,
): AsyncGenerator<Uint8Array> {
  const writer = new Writer();
  writer.uint32(GGUF_MAGIC);
  writer.uint32(GGUF_VERSION);
  writer.uint64(tensors.size);
  writer.uint64(metadata.size);
  for (const [key, value] of metadata) {
    writer.string(key);
    writer.entry(value);
  }
  const numbers = new Map([...GGML_TYPES].map(([number, { name }]) => [name, number]));
  let offset = 0;
  for (const [name, t] of tensors) {
    if (!name.isWellFormed()) throw new FormatError("gguf", `${JSON.stringify(name)} cannot name a tensor`);
    if (!(t instanceof Tensor)) checkSource("gguf", name, t);
    const { type, bytes } = stored(t);
    writer.string(name);
    writer.uint32(t.shape.length);
    for (const n of t.shape.toReversed()) writer.uint64(n);
    writer.uint32(numbers.get(type)!);
    writer.uint64(offset);
    offset += bytes + padding(bytes);
  }
  yield writer.aligned(DEFAULT_ALIGNMENT);
  let done = 0;
  for (const t of tensors.values()) {
    progress?.(done++, tensors.size);
    if (t instanceof Tensor) yield await t.bytes();
    else yield* encodeSource(t);
    yield new Uint8Array(padding(stored(t).bytes));
  }
  progress?.(done, tensors.size);
}

/**
 * Writes tensors, quantised ones as their blocks, to a GGUF file, which is there whole or not at all. Tensors are read
 * one at a time, and those of a {@link TensorSource} are made and encoded one at a time; they must not be disposed of
 * before this has settled.
 * @throws TensorError when the file cannot be written, naming why
 */
export async function writeGguf(
  path: string,
  tensors: ReadonlyMap<string, Tensor | TensorSource>,
  metadata: ReadonlyMap<string, GgufEntry> = new Map(),
  options: WriteOptions = {},
): Promise<void> {
  if (!files) throw new TensorError("writeGguf", "there are no files here; take the bytes from serializeGguf");
  await files.write(path, serialize(tensors, metadata, options));
}

/** The bytes of a GGUF file. See {@link writeGguf}. */
export async function serializeGguf(
  tensors: ReadonlyMap<string, Tensor | TensorSource>,
  metadata: ReadonlyMap<string, GgufEntry> = new Map(),
  options: WriteOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  for await (const piece of serialize(tensors, metadata, options)) pieces.push(piece);
  const out = new Uint8Array(pieces.reduce((n, piece) => n + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}
