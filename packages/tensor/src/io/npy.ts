// NumPy's files of one array. Format: NEP 1 and numpy/lib/_format_impl.py, versions 1.0 to 3.0.
import type { Device } from "../devices/device.ts";
import { defaultDevice } from "../devices/registry.ts";
import { fromF16, isBlocks } from "../dtype.ts";
import { DTypeError, FormatError } from "../errors.ts";
import { type Shape, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { fileSystem, readFile } from "./file-system.ts";

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
/** The data begins at a multiple of this. */
const ALIGNMENT = 64;
/** Longest header read, in bytes: as NumPy's `max_header_size`. */
const MAX_HEADER_BYTES = 10_000;

/** What the header says. */
interface NpyHeader {
  /** Element type without its byte order: `f4`, `i8`, … */
  readonly kind: string;
  readonly littleEndian: boolean;
  readonly fortranOrder: boolean;
  readonly shape: Shape;
  /** First byte of the data. */
  readonly start: number;
}

interface Kind {
  readonly bytes: number;
  /** What it becomes: f64 only where the device has it. */
  readonly dtype: "f32" | "f64" | "i32";
  read(view: DataView, at: number, littleEndian: boolean): number;
}

const KINDS: Readonly<Record<string, Kind>> = {
  f2: { bytes: 2, dtype: "f32", read: (view, at, little) => fromF16(view.getUint16(at, little)) },
  f4: { bytes: 4, dtype: "f32", read: (view, at, little) => view.getFloat32(at, little) },
  f8: { bytes: 8, dtype: "f64", read: (view, at, little) => view.getFloat64(at, little) },
  b1: { bytes: 1, dtype: "i32", read: (view, at) => Number(view.getUint8(at) !== 0) },
  i1: { bytes: 1, dtype: "i32", read: (view, at) => view.getInt8(at) },
  u1: { bytes: 1, dtype: "i32", read: (view, at) => view.getUint8(at) },
  i2: { bytes: 2, dtype: "i32", read: (view, at, little) => view.getInt16(at, little) },
  u2: { bytes: 2, dtype: "i32", read: (view, at, little) => view.getUint16(at, little) },
  i4: { bytes: 4, dtype: "i32", read: (view, at, little) => view.getInt32(at, little) },
  u4: { bytes: 4, dtype: "i32", read: (view, at, little) => view.getUint32(at, little) },
  i8: { bytes: 8, dtype: "i32", read: (view, at, little) => Number(view.getBigInt64(at, little)) },
  u8: { bytes: 8, dtype: "i32", read: (view, at, little) => Number(view.getBigUint64(at, little)) },
};

function fail(file: string, at: number, problem: string): never {
  throw new FormatError("npy", `${file}: at byte ${at}: ${problem}`);
}

/** Reads the header's Python dictionary, which has three entries of known forms and nothing else. */
function parseHeader(file: string, bytes: Uint8Array): NpyHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 10 || MAGIC.some((byte, i) => bytes[i] !== byte))
    fail(file, 0, "not an .npy file: it does not begin with \\x93NUMPY");
  const [major, minor] = [bytes[6], bytes[7]];
  if (major < 1 || major > 3 || minor !== 0) fail(file, 6, `version ${major}.${minor} of the format is unknown`);
  const lengthBytes = major === 1 ? 2 : 4;
  const first = 8 + lengthBytes;
  if (bytes.length < first) fail(file, 8, "the file ends in its header; was it cut off?");
  const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER_BYTES) fail(file, 8, `a header of ${length} bytes, more than ${MAX_HEADER_BYTES}`);
  if (first + length > bytes.length) fail(file, 8, `a header of ${length} bytes, but the file ends; was it cut off?`);

  // Latin-1 in the first two versions, UTF-8 in the third; the names that count are ASCII in both.
  const text = new TextDecoder("latin1").decode(bytes.subarray(first, first + length));
  const dictionary = /^\s*\{(.*)\}\s*$/s.exec(text)?.[1];
  if (dictionary === undefined) fail(file, first, "the header is not a Python dictionary");
  const entries = new Map<string, { value: string; at: number }>();
  const entry = /\s*(?:'(\w+)'|"(\w+)")\s*:\s*('[^']*'|"[^"]*"|True|False|\([^()]*\)|\[[^[\]]*\])\s*(?:,|$)/y;
  while (entry.lastIndex < dictionary.trimEnd().length) {
    const at = first + text.indexOf("{") + 1 + entry.lastIndex;
    const found = entry.exec(dictionary);
    if (!found) return fail(file, at, "the header has an entry that cannot be read");
    const name = found[1] ?? found[2];
    if (entries.has(name)) fail(file, at, `the header names ${name} twice`);
    entries.set(name, { value: found[3], at });
  }
  const [descr, order, sizes] = ["descr", "fortran_order", "shape"].map((name) => {
    return entries.get(name) ?? fail(file, first, `the header has no ${name}`);
  });
  if (entries.size !== 3) fail(file, first, "the header has entries besides descr, fortran_order and shape");

  const type = /^['"]([<>|=])?(\w+)['"]$/.exec(descr.value);
  if (!type || !Object.hasOwn(KINDS, type[2])) {
    const known = Object.keys(KINDS).join(", ");
    throw new DTypeError(
      "npy",
      `${file}: at byte ${descr.at}: elements of type ${descr.value} cannot be computed with, only ${known}`,
    );
  }
  if (order.value !== "True" && order.value !== "False") fail(file, order.at, `fortran_order is ${order.value}`);
  if (!/^\((?:\s*\d+L?\s*,)*(?:\s*\d+L?)?\s*\)$/.test(sizes.value) || /^\(\s*\d+L?\s*\)$/.test(sizes.value))
    fail(file, sizes.at, `${sizes.value} is not a shape`);
  const shape = (sizes.value.match(/\d+/g) ?? []).map(Number);
  if (!shape.every(Number.isSafeInteger) || !Number.isSafeInteger(sizeOf(shape)))
    fail(file, sizes.at, `a shape of ${sizes.value} is too large`);
  return {
    ...{ kind: type[2], littleEndian: type[1] !== ">", fortranOrder: order.value === "True" },
    ...{ shape, start: first + length },
  };
}

/** Where a tensor that is read is made. */
export interface NpyOptions {
  /** The default device unless given. */
  readonly device?: Device;
  /** What errors call the bytes. */
  readonly name?: string;
}

/**
 * The array of an `.npy` file, from its bytes: NumPy's `load`. f16 and f32 become f32; f64 stays where the device has it, else
 * becomes f32; whole numbers and booleans become i32.
 * @throws FormatError naming the byte at which the file is not what the format says; DTypeError for complex numbers, text
 * and the like
 */
export function parseNpy(bytes: Uint8Array, { device = defaultDevice(), name = "bytes" }: NpyOptions = {}): Tensor {
  const { kind, littleEndian, fortranOrder, shape, start } = parseHeader(name, bytes);
  const { bytes: size, dtype: wide, read } = KINDS[kind];
  const count = sizeOf(shape);
  if (bytes.length - start !== count * size) {
    fail(name, start, `${bytes.length - start} bytes of data, not ${count * size} for [${shape}] of ${kind}`);
  }
  const dtype = wide === "f64" && !device.dtypes.includes("f64") ? "f32" : wide;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new (dtype === "i32" ? Int32Array : dtype === "f64" ? Float64Array : Float32Array)(count);
  for (let i = 0; i < count; i++) {
    const value = read(view, start + i * size, littleEndian);
    if (dtype === "i32" && (value > 2 ** 31 - 1 || value < -(2 ** 31)))
      fail(name, start + i * size, `${value} is no 32-bit number, and whole numbers become i32`);
    values[i] = value;
  }
  if (!fortranOrder || shape.length < 2) return Tensor.from(values, shape, { dtype, device });
  const reversed = Tensor.from(values, [...shape].reverse(), { dtype, device });
  return reversed.permute(...shape.map((_, d) => shape.length - 1 - d));
}

const DESCRIPTIONS = { f32: "<f4", f64: "<f8", i32: "<i4", bf16: "<f4" } as const;

/**
 * The bytes of an `.npy` file, byte for byte as NumPy's `save` writes it. Waits for the device. bf16, for which NumPy has no
 * name, becomes f32.
 * @throws DTypeError for quantised blocks
 */
export async function serializeNpy(t: Tensor): Promise<Uint8Array<ArrayBuffer>> {
  if (isBlocks(t.dtype)) throw new DTypeError("npy", `${t.dtype} blocks have no name there; use to('f32')`);
  const shape = t.rank === 1 ? `(${t.shape[0]},)` : `(${t.shape.join(", ")})`;
  const text = `{'descr': '${DESCRIPTIONS[t.dtype]}', 'fortran_order': False, 'shape': ${shape}, }`;
  // NumPy leaves room for the first size to grow to 20 digits, as where rows are appended.
  const growth = t.rank === 0 ? 0 : Math.max(0, 21 - String(t.shape[0]).length);
  const length = text.length + growth;
  const total = Math.ceil((10 + length + 1) / ALIGNMENT) * ALIGNMENT;
  const header = `${text.padEnd(total - 11)}\n`;

  const values = await t.data();
  const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const out = new Uint8Array(total + data.length);
  out.set(MAGIC);
  out.set([1, 0, header.length & 0xff, header.length >>> 8], 6);
  out.set(new TextEncoder().encode(header), 10);
  out.set(data, total);
  return out;
}

/** Reads an `.npy` file; see {@link parseNpy}. @throws TensorError when it cannot be read */
export async function readNpy(path: string, options: Omit<NpyOptions, "name"> = {}): Promise<Tensor> {
  const bytes = readFile("readNpy", "fetch the bytes and give them to parseNpy", path);
  return parseNpy(bytes, { ...options, name: path });
}
/** Writes an `.npy` file, which is there whole or not at all; see {@link serializeNpy}. @throws TensorError naming why it cannot */
export async function writeNpy(path: string, t: Tensor): Promise<void> {
  const system = fileSystem("writeNpy", "take the bytes from serializeNpy");
  await system.write(
    path,
    (async function* () {
      yield await serializeNpy(t);
    })(),
  );
}
