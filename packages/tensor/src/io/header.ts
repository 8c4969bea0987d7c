import { FormatError } from "../errors.ts";
import { type Shape, show, sizeOf } from "../shape.ts";

/** One tensor of a safetensors file. */
export interface TensorInfo {
  /** Element type as the file names it: `F32`, `BF16`, … */
  readonly dtype: string;
  readonly shape: Shape;
  /** First byte, counted from the file's beginning. */
  readonly offset: number;
  readonly byteLength: number;
}

/** What the header of a safetensors file says, checked. */
export interface Header {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

/** Largest header accepted, in bytes: the limit of the `safetensors` library. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Bits of one element of every type that the format knows. */
const BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
};

/** @throws FormatError naming the file, and what of it (a tensor, or the header) is wrong */
export function fail(file: string, problem: string, cause?: unknown): never {
  throw new FormatError("safetensors", `${file}: ${problem}`, { cause });
}

/**
 * The length of the header, from the file's first 8 bytes.
 * @param fileLength length of the whole file
 */
export function headerLength(file: string, first: Uint8Array, fileLength: number): number {
  if (fileLength < 8) fail(file, `${fileLength} bytes are too few for a safetensors file; was it cut off?`);
  const view = new DataView(first.buffer, first.byteOffset, 8);
  const length = Number(view.getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES) {
    fail(file, `not a safetensors file: its header would have ${length} bytes, more than ${MAX_HEADER_BYTES}`);
  }
  if (8 + length > fileLength) {
    fail(file, `the header has ${length} bytes but the file only ${fileLength}; was it cut off? Fetch it again`);
  }
  return length;
}

/**
 * Reads the header's JSON and checks all of it: nothing that a hostile or broken file says is trusted later.
 * @param bytes the header, without the 8 bytes of its length
 */
export function parseHeader(file: string, bytes: Uint8Array, fileLength: number): Header {
  let text = "";
  let parsed: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    parsed = JSON.parse(text);
  } catch (cause) {
    fail(file, "not a safetensors file: its header is not JSON in UTF-8", cause);
  }
  if (!isRecord(parsed)) fail(file, "not a safetensors file: its header is not a JSON object");
  const twice = repeatedKey(text);
  if (twice !== undefined) fail(file, `the header names ${JSON.stringify(twice)} twice`);

  const metadata: Record<string, string> = Object.create(null);
  const found: [string, TensorInfo][] = [];
  const start = 8 + bytes.byteLength;
  for (const [name, entry] of Object.entries(parsed)) {
    if (name !== "__metadata__") found.push([name, tensorInfo(file, name, entry, start, fileLength)]);
    // mlx writes null where there is none.
    else if (entry !== null && !isRecord(entry)) fail(file, "__metadata__ is not an object");
    else {
      for (const [key, value] of Object.entries(entry ?? {})) {
        if (typeof value !== "string") fail(file, `__metadata__ ${JSON.stringify(key)} is not text`);
        metadata[key] = value;
      }
    }
  }
  found.sort(([, a], [, b]) => a.offset - b.offset || a.byteLength - b.byteLength);
  let end = start;
  for (const [name, info] of found) {
    if (info.offset < end) fail(file, `tensor ${name} overlaps the one before it`);
    if (info.offset > end) fail(file, `${info.offset - end} bytes before tensor ${name} belong to no tensor`);
    end += info.byteLength;
  }
  if (end !== fileLength) fail(file, `${fileLength - end} bytes at its end belong to no tensor`);
  return { metadata, tensors: new Map(found) };
}

function tensorInfo(file: string, name: string, entry: unknown, start: number, fileLength: number): TensorInfo {
  const wrong = (problem: string): never => fail(file, `tensor ${name}: ${problem}`);
  if (!isRecord(entry)) return wrong("its entry in the header is not an object");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(BITS, dtype)) {
    return wrong(`element type ${JSON.stringify(dtype)} is unknown`);
  }
  if (!isSizes(shape)) return wrong(`${JSON.stringify(shape)} is not a shape`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[1] < offsets[0]) {
    return wrong(`${JSON.stringify(offsets)} are not data_offsets [begin, end]`);
  }
  const [begin, end] = offsets;
  if (end > fileLength - start) {
    return wrong(`its bytes end at ${start + end} but the file at ${fileLength}; was it cut off? Fetch it again`);
  }
  const bits = sizeOf(shape) * BITS[dtype];
  if (!Number.isSafeInteger(bits) || bits % 8 !== 0 || bits / 8 !== end - begin) {
    return wrong(`${end - begin} bytes are not a ${dtype} tensor of shape ${show(shape)}`);
  }
  return { dtype, shape, offset: start + begin, byteLength: end - begin };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

/** The first key that stands twice in one object of a valid JSON text; `JSON.parse` would take the last silently. */
function repeatedKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g;
  for (let match = token.exec(json); match; match = token.exec(json)) {
    const [text, colon] = match;
    if (text === "{") open.push(new Set());
    else if (text === "[") open.push(undefined);
    else if (text === "}" || text === "]") open.pop();
    else if (colon !== undefined) {
      const key: string = JSON.parse(text.slice(0, text.length - colon.length));
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

/** A tensor that is to be written. */
export interface NewTensor {
  readonly name: string;
  /** As the file names it. */
  readonly dtype: "F64" | "F32" | "I32" | "BF16" | "F16";
  readonly shape: Shape;
  readonly byteLength: number;
}

/** How the library sorts: wider types first, so that every tensor is aligned. */
const ORDER: readonly NewTensor["dtype"][] = ["F64", "F32", "I32", "BF16", "F16"];

/**
 * The header, its length before it and spaces to a multiple of 8 behind it, and the tensors in the order of their
 * bytes: the same as the `safetensors` library writes.
 */
export function formatHeader<T extends NewTensor>(
  tensors: readonly T[],
  metadata: Readonly<Record<string, string>> | undefined,
): { header: Uint8Array<ArrayBuffer>; order: T[] } {
  const encoder = new TextEncoder();
  const sorted = tensors
    .map((tensor) => ({ tensor, rank: ORDER.indexOf(tensor.dtype), name: encoder.encode(tensor.name) }))
    .sort((a, b) => a.rank - b.rank || compareBytes(a.name, b.name));
  const entries: string[] = [];
  if (metadata && Object.keys(metadata).length > 0) entries.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let begin = 0;
  for (const { tensor } of sorted) {
    const end = begin + tensor.byteLength;
    const entry = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] };
    entries.push(`${JSON.stringify(tensor.name)}:${JSON.stringify(entry)}`);
    begin = end;
  }
  const json = encoder.encode(`{${entries.join()}}`);
  const length = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, 8);
  return { header, order: sorted.map(({ tensor }) => tensor) };
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length && i < b.length; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}
