import type { Device } from "../devices/device.ts";
import { defaultDevice } from "../devices/registry.ts";
import { BYTES, type DType, type ElementType, isBlocks } from "../dtype.ts";
import { DTypeError, FormatError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { fileSystem } from "./file-system.ts";
import type { ByteSource, WriteOptions } from "./files.ts";
import { widenHalves } from "./halves.ts";
import {
  fail,
  formatHeader,
  type Header,
  headerLength,
  type NewTensor,
  parseHeader,
  type TensorInfo,
} from "./header.ts";
import { encodeSource, storedBytes, type TensorSource } from "./source.ts";

export type { TensorInfo } from "./header.ts";

/** Element types read as they lie in the file; F16 is copied. */
const READABLE: Readonly<Record<string, DType>> = { F32: "f32", F64: "f64", BF16: "bf16", I32: "i32" };
const NAMES: { readonly [K in ElementType | "f16"]: NewTensor["dtype"] } = {
  ...({ f32: "F32", f64: "F64", bf16: "BF16", f16: "F16", i32: "I32" } as const),
};

/** A safetensors file, opened or in memory. */
export class SafetensorsFile {
  /** The path, or the name given to bytes: what errors call it. */
  readonly file: string;
  readonly #source: ByteSource;
  readonly #header: Header;

  /** Checks the whole header. @throws FormatError naming what is wrong with it */
  constructor(file: string, source: ByteSource) {
    this.file = file;
    this.#source = source;
    const { byteLength } = source;
    const length = headerLength(file, source.bytes(0, Math.min(8, byteLength)), byteLength);
    this.#header = parseHeader(file, source.bytes(8, length), byteLength);
  }

  /** Text that the writer left, such as `format`. */
  get metadata(): Readonly<Record<string, string>> {
    return this.#header.metadata;
  }
  /** Names of all tensors, in the order of their bytes. */
  names(): string[] {
    return [...this.#header.tensors.keys()];
  }
  has(name: string): boolean {
    return this.#header.tensors.has(name);
  }
  /** Element type, shape and place. @throws FormatError when there is no such tensor */
  info(name: string): TensorInfo {
    return this.#header.tensors.get(name) ?? fail(this.file, `there is no tensor ${name}`);
  }
  /** The tensor's bytes as they lie in the file. */
  bytes(name: string): Uint8Array {
    const { offset, byteLength } = this.info(name);
    return this.#source.bytes(offset, byteLength);
  }
  /**
   * The tensor, mapped: bf16 stays bf16, nothing is copied where the device can read it in place. It outlives `close`.
   * Its values must not be changed. F16 is copied, as bf16 where a matrix fits that, else
   * widened to f32.
   * @throws FormatError when there is no such tensor, DTypeError when its element type cannot be computed with
   */
  tensor(name: string, { device = defaultDevice() }: { device?: Device } = {}): Tensor {
    const { dtype, shape } = this.info(name);
    if (dtype === "F16") return widenHalves(this.bytes(name), shape, device);
    if (!Object.hasOwn(READABLE, dtype)) {
      throw new DTypeError(
        "safetensors",
        `${this.file}: tensor ${name} is ${dtype}; only F32, F64, BF16, F16 and I32 can be computed with`,
      );
    }
    return Tensor.map(this.bytes(name), shape, READABLE[dtype], device);
  }
  /** Every tensor by name; see {@link tensor}. */
  tensors(options: { device?: Device } = {}): Map<string, Tensor> {
    return new Map(this.names().map((name) => [name, this.tensor(name, options)]));
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
 * Opens a safetensors file and checks its header: mapped from disk in Bun, each tensor read when asked for in Node.
 * @throws FormatError when the file is not what the format says; TensorError when it cannot be read
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const source = fileSystem("openSafetensors", "fetch the bytes and give them to parseSafetensors").open(path);
  try {
    return new SafetensorsFile(path, source);
  } catch (error) {
    source.close();
    throw error;
  }
}

/**
 * A safetensors file from its bytes, which must not change while tensors of it live.
 * @param name what errors call it
 * @throws FormatError when the bytes are not what the format says
 */
export function parseSafetensors(bytes: Uint8Array, name = "bytes"): SafetensorsFile {
  return new SafetensorsFile(name, {
    byteLength: bytes.byteLength,
    bytes: (offset, length) => bytes.subarray(offset, offset + length),
    close() {},
  });
}

/** Header first, then one piece a tensor, read from its device when its turn comes. */
async function* serialize(
  tensors: ReadonlyMap<string, Tensor | TensorSource>,
  metadata: Readonly<Record<string, string>> | undefined,
  { progress }: WriteOptions,
): AsyncGenerator<Uint8Array> {
  const made = [...tensors].map(([name, tensor]) => {
    if (name === "__metadata__" || !name.isWellFormed()) {
      throw new FormatError("safetensors", `${JSON.stringify(name)} cannot name a tensor`);
    }
    const { shape } = tensor;
    const dtype = tensor instanceof Tensor ? tensor.dtype : tensor.type;
    if (dtype !== "f16" && isBlocks(dtype)) {
      throw new DTypeError(
        "safetensors",
        `tensor ${name} is ${dtype}, which safetensors has no name for; use writeGguf`,
      );
    }
    const byteLength = tensor instanceof Tensor ? tensor.size * BYTES[tensor.dtype] : storedBytes(tensor.type, shape);
    return { name, tensor, dtype: NAMES[dtype], shape, byteLength };
  });
  const { header, order } = formatHeader(made, metadata);
  yield header;
  let done = 0;
  for (const { tensor } of order) {
    progress?.(done++, tensors.size);
    if (tensor instanceof Tensor) yield await tensor.bytes();
    else yield* encodeSource(tensor);
  }
  progress?.(done, tensors.size);
}

/**
 * Writes tensors to a safetensors file, byte for byte as the `safetensors` library would. The file is there whole or
 * not at all. Tensors are read one at a time, and those of a {@link TensorSource} are made and encoded one at a time;
 * they must not be disposed of before this has settled.
 * @throws TensorError when the file cannot be written, naming why
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor | TensorSource>,
  metadata?: Readonly<Record<string, string>>,
  options: WriteOptions = {},
): Promise<void> {
  await fileSystem("writeSafetensors", "take the bytes from serializeSafetensors").write(
    path,
    serialize(tensors, metadata, options),
  );
}

/** The bytes of a safetensors file. See {@link writeSafetensors}. */
export async function serializeSafetensors(
  tensors: ReadonlyMap<string, Tensor | TensorSource>,
  metadata?: Readonly<Record<string, string>>,
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
