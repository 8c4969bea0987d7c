/**
 * The header of a GGUF file, version 2 or 3, little-endian:
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Everything in it is checked before it is believed.
 */

import { BLOCKS, type BlockType } from "../dtype.ts";
import { FormatError } from "../errors.ts";
import { type Shape, show, sizeOf } from "../shape.ts";

/** A metadata value; 64-bit integers beyond 2⁵³ are BigInts. */
export type GgufValue = string | number | bigint | boolean | readonly GgufValue[];

/** One tensor of a GGUF file. */
export interface GgufTensorInfo {
  /** Element type as ggml calls it: `F32`, `Q4_K`, …; `type 99` for one that is not known here. */
  readonly type: string;
  /** Outermost dimension first, the reverse of the file's order. */
  readonly shape: Shape;
  /** First byte, counted from the file's beginning. */
  readonly offset: number;
  /** Undefined where the type is not known. */
  readonly byteLength: number | undefined;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** In the order of the file. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
}

export const GGUF_MAGIC = 0x46554747;
export const GGUF_VERSION = 3;
export const DEFAULT_ALIGNMENT = 32;
/** More than any model has, few enough to be checked in a moment. */
const MAX_TENSORS = 1 << 17;
const MAX_KEYS = 1 << 16;
const MAX_NAME_BYTES = 65535;
const MAX_DIMENSIONS = 4;
const MAX_ALIGNMENT = 1 << 20;
/** Arrays in arrays. */
const MAX_DEPTH = 4;
/** Elements of arrays in all: the tokens and merges of a vocabulary are some 300,000. */
const MAX_ELEMENTS = 1 << 24;

/** Number of a metadata type in the file. */
export const VALUE_TYPES = {
  ...{ uint8: 0, int8: 1, uint16: 2, int16: 3, uint32: 4, int32: 5, float32: 6 },
  ...{ bool: 7, string: 8, array: 9, uint64: 10, int64: 11, float64: 12 },
} as const;

/** Bytes that a value takes at least. */
const LEAST_BYTES: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];

interface StoredType {
  readonly name: string;
  /** Elements and bytes of a block. */
  readonly elements: number;
  readonly bytes: number;
}

const block = (type: BlockType): StoredType => ({ name: type.toUpperCase(), ...BLOCKS[type] });
const plain = (name: string, bytes: number): StoredType => ({ name, elements: 1, bytes });

/** ggml's tensor types, by their number. */
export const GGML_TYPES: ReadonlyMap<number, StoredType> = new Map([
  [0, plain("F32", 4)],
  [1, plain("F16", 2)],
  [2, block("q4_0")],
  [3, block("q4_1")],
  [6, block("q5_0")],
  [7, block("q5_1")],
  [8, block("q8_0")],
  [10, { name: "Q2_K", elements: 256, bytes: 84 }],
  [11, { name: "Q3_K", elements: 256, bytes: 110 }],
  [12, block("q4_k")],
  [13, block("q5_k")],
  [14, block("q6_k")],
  [24, plain("I8", 1)],
  [25, plain("I16", 2)],
  [26, plain("I32", 4)],
  [27, plain("I64", 8)],
  [28, plain("F64", 8)],
  [30, plain("BF16", 2)],
]);

/** @throws FormatError naming the file and what of it is wrong */
export function failGguf(file: string, problem: string, cause?: unknown): never {
  throw new FormatError("gguf", `${file}: ${problem}`, { cause });
}

/** Gives at least `length` bytes from the beginning, or all there are. */
export type ReadFirst = (length: number) => Uint8Array;

const FIRST_READ = 1 << 16;

/** Reads values one after another, never past the file's end. */
class Reader {
  readonly file: string;
  readonly #read: ReadFirst;
  readonly #fileLength: number;
  #bytes: Uint8Array;
  #view: DataView;
  #at = 0;
  #elements = 0;
  readonly #text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(file: string, read: ReadFirst, fileLength: number) {
    this.file = file;
    this.#read = read;
    this.#fileLength = fileLength;
    this.#bytes = read(Math.min(FIRST_READ, fileLength));
    this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.byteLength);
  }

  get at(): number {
    return this.#at;
  }

  get left(): number {
    return this.#fileLength - this.#at;
  }

  /** Moves over `n` bytes and gives where they begin. */
  #take(n: number, what: string): number {
    if (n > this.left) failGguf(this.file, `ends inside ${what}; was it cut off? Fetch it again`);
    const at = this.#at;
    this.#at += n;
    if (this.#at > this.#bytes.byteLength) {
      this.#bytes = this.#read(Math.min(this.#fileLength, Math.max(this.#at, 4 * this.#bytes.byteLength)));
      this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.byteLength);
    }
    return at;
  }

  uint32(what: string): number {
    const at = this.#take(4, what);
    return this.#view.getUint32(at, true);
  }

  /** A 64-bit count or size that is at most `most`. */
  size(what: string, most = Number.MAX_SAFE_INTEGER): number {
    const at = this.#take(8, what);
    const value = this.#view.getBigUint64(at, true);
    if (value > BigInt(most)) failGguf(this.file, `${what} is ${value}; at most ${most} is accepted`);
    return Number(value);
  }

  string(what: string, most = Number.MAX_SAFE_INTEGER): string {
    const length = this.size(`the length of ${what}`, most);
    const at = this.#take(length, what);
    try {
      return this.#text.decode(this.#bytes.subarray(at, at + length));
    } catch (cause) {
      return failGguf(this.file, `${what} is not text in UTF-8`, cause);
    }
  }

  value(type: number, what: string, depth = 0): GgufValue {
    switch (type) {
      case VALUE_TYPES.string:
        return this.string(what);
      case VALUE_TYPES.array: {
        if (depth === MAX_DEPTH) failGguf(this.file, `${what} has arrays in arrays more than ${MAX_DEPTH} deep`);
        const of = this.uint32(what);
        const count = this.size(`the length of ${what}`, MAX_ELEMENTS);
        const least = LEAST_BYTES[of] ?? failGguf(this.file, `${what} is an array of type ${of}, which GGUF has not`);
        if (count * least > this.left) failGguf(this.file, `ends inside ${what}; was it cut off? Fetch it again`);
        this.#elements += count;
        if (this.#elements > MAX_ELEMENTS) failGguf(this.file, `its arrays have more than ${MAX_ELEMENTS} elements`);
        const values = new Array<GgufValue>(count);
        for (let i = 0; i < count; i++) values[i] = this.value(of, what, depth + 1);
        return values;
      }
      default:
        return this.#scalar(type, what);
    }
  }

  #scalar(type: number, what: string): number | bigint | boolean {
    const bytes = LEAST_BYTES[type] ?? failGguf(this.file, `${what} is of type ${type}, which GGUF has not`);
    const at = this.#take(bytes, what);
    const view = this.#view;
    switch (type) {
      case VALUE_TYPES.uint8:
        return view.getUint8(at);
      case VALUE_TYPES.int8:
        return view.getInt8(at);
      case VALUE_TYPES.uint16:
        return view.getUint16(at, true);
      case VALUE_TYPES.int16:
        return view.getInt16(at, true);
      case VALUE_TYPES.uint32:
        return view.getUint32(at, true);
      case VALUE_TYPES.int32:
        return view.getInt32(at, true);
      case VALUE_TYPES.float32:
        return view.getFloat32(at, true);
      case VALUE_TYPES.float64:
        return view.getFloat64(at, true);
      case VALUE_TYPES.bool: {
        const value = view.getUint8(at);
        if (value > 1) failGguf(this.file, `${what} is a truth value of ${value}`);
        return value === 1;
      }
      default: {
        const value = type === VALUE_TYPES.uint64 ? view.getBigUint64(at, true) : view.getBigInt64(at, true);
        const number = Number(value);
        return Number.isSafeInteger(number) ? number : value;
      }
    }
  }
}

/**
 * Reads and checks a header: every count, length, type and place.
 *
 * @param read gives the file's first bytes, more of them when asked again
 * @throws FormatError naming what is wrong
 */
export function parseGgufHeader(file: string, read: ReadFirst, fileLength: number): GgufHeader {
  const reader = new Reader(file, read, fileLength);
  if (fileLength < 24 || reader.uint32("the magic") !== GGUF_MAGIC) {
    failGguf(file, "not a GGUF file: it does not begin with GGUF");
  }
  const version = reader.uint32("the version");
  if (version !== 2 && version !== 3) {
    const swapped = version >= 1 << 24;
    failGguf(file, swapped ? "is big-endian GGUF, which is not read" : `is GGUF version ${version}; 2 and 3 are read`);
  }
  const tensorCount = reader.size("the number of tensors", MAX_TENSORS);
  const keyCount = reader.size("the number of metadata entries", MAX_KEYS);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = reader.string(`the name of metadata entry ${i}`, MAX_NAME_BYTES);
    if (metadata.has(key)) failGguf(file, `metadata ${JSON.stringify(key)} stands there twice`);
    const what = `metadata ${JSON.stringify(key)}`;
    metadata.set(key, reader.value(reader.uint32(what), what));
  }
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== "number" || !(alignment >= 8 && alignment <= MAX_ALIGNMENT) || alignment % 8 !== 0) {
    failGguf(file, `general.alignment is ${alignment}, not a multiple of 8 up to ${MAX_ALIGNMENT}`);
  }

  const found: { name: string; stored: StoredType | undefined; type: string; shape: number[]; offset: number }[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    const name = reader.string(`the name of tensor ${i}`, MAX_NAME_BYTES);
    if (names.has(name)) failGguf(file, `tensor ${JSON.stringify(name)} stands there twice`);
    names.add(name);
    const what = `tensor ${JSON.stringify(name)}`;
    const rank = reader.uint32(what);
    if (rank > MAX_DIMENSIONS) failGguf(file, `${what} has ${rank} dimensions; at most ${MAX_DIMENSIONS} are accepted`);
    const shape = Array.from({ length: rank }, () => reader.size(`a size of ${what}`)).reverse();
    const type = reader.uint32(what);
    const offset = reader.size(`the place of ${what}`);
    const stored = GGML_TYPES.get(type);
    found.push({ name, stored, type: stored?.name ?? `type ${type}`, shape, offset });
  }

  const start = Math.ceil(reader.at / alignment) * alignment;
  const tensors = new Map<string, GgufTensorInfo>();
  for (const { name, stored, type, shape, offset } of found) {
    const what = `tensor ${JSON.stringify(name)}`;
    if (offset % alignment !== 0) failGguf(file, `${what} begins at ${offset}, not at a multiple of ${alignment}`);
    const byteLength = stored && bytesOf(file, what, stored, shape);
    const end = start + offset + (byteLength ?? 0);
    if (!(end <= fileLength)) {
      failGguf(file, `${what} ends at byte ${end} but the file at ${fileLength}; was it cut off? Fetch it again`);
    }
    tensors.set(name, { type, shape, offset: start + offset, byteLength });
  }
  checkOverlap(file, tensors);
  return { metadata, tensors };
}

function bytesOf(file: string, what: string, { name, elements, bytes }: StoredType, shape: Shape): number {
  const size = sizeOf(shape);
  const total = (size / elements) * bytes;
  if (
    !Number.isSafeInteger(size) ||
    (elements > 1 && (shape.at(-1) ?? 1) % elements !== 0) ||
    !Number.isSafeInteger(total)
  ) {
    failGguf(file, `${what} of shape ${show(shape)} cannot be ${name}`);
  }
  return total;
}

function checkOverlap(file: string, tensors: ReadonlyMap<string, GgufTensorInfo>): void {
  const sorted = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || (a.byteLength ?? 0) - (b.byteLength ?? 0));
  let end = 0;
  let before = "";
  for (const [name, { offset, byteLength }] of sorted) {
    if (offset < end) failGguf(file, `tensors ${JSON.stringify(before)} and ${JSON.stringify(name)} overlap`);
    end = offset + (byteLength ?? 0);
    before = name;
  }
}
