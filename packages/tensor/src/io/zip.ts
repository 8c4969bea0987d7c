// Archives as NumPy's savez makes and reads them. Format: PKWARE's APPNOTE.TXT 6.3.10; sections in brackets.
import { FormatError } from "../errors.ts";

/** A file of an archive. */
export interface ZipEntry {
  readonly name: string;
  readonly bytes: Uint8Array;
}

const [LOCAL, CENTRAL, END, END64, LOCATOR64] = [0x04034b50, 0x02014b50, 0x06054b50, 0x06064b50, 0x07064b50];
const [STORED, DEFLATED] = [0, 8];
const ALL_ONES = 0xffffffff;
/** 1980-01-01, as NumPy writes it: archives of equal content are equal. */
const DATE = 0x21;

let table: Uint32Array | undefined;

/** CRC-32 as in [4.4.7]. */
export function crc32(bytes: Uint8Array): number {
  table ??= Uint32Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    return c;
  });
  let crc = ALL_ONES;
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  return (crc ^ ALL_ONES) >>> 0;
}

function fail(file: string, at: number, problem: string): never {
  throw new FormatError("zip", `${file}: at byte ${at}: ${problem}`);
}

/** Numbers of an archive, none of which is read from beyond its end. */
class Reader {
  readonly file: string;
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  constructor(file: string, bytes: Uint8Array) {
    this.file = file;
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  #inside(at: number, length: number): number {
    if (at + length > this.bytes.length) fail(this.file, at, "the archive ends there; was it cut off?");
    return at;
  }
  u16(at: number): number {
    return this.#view.getUint16(this.#inside(at, 2), true);
  }
  u32(at: number): number {
    return this.#view.getUint32(this.#inside(at, 4), true);
  }
  u64(at: number): number {
    const value = Number(this.#view.getBigUint64(this.#inside(at, 8), true));
    return Number.isSafeInteger(value) ? value : fail(this.file, at, `${value} is no size in this archive`);
  }
  slice(at: number, length: number): Uint8Array {
    return this.bytes.subarray(this.#inside(at, length), at + length);
  }
}

/** The end record [4.3.16]: a comment of up to 65,535 bytes may stand behind it. */
function findEnd(r: Reader): number {
  const last = r.bytes.length - 22;
  for (let at = last; at >= Math.max(0, last - 0xffff); at--) {
    if (r.u32(at) === END && at + 22 + r.u16(at + 20) === r.bytes.length) return at;
  }
  return fail(r.file, Math.max(0, last), "not a zip archive: its end record is missing; was it cut off?");
}

/** Where the central directory lies, and how many files it has. */
function directory(r: Reader): { count: number; offset: number; end: number } {
  const end = findEnd(r);
  const plain = { count: r.u16(end + 10), offset: r.u32(end + 16), end };
  if (plain.count !== 0xffff && plain.offset !== ALL_ONES) return plain;
  const locator = end - 20;
  if (locator < 0 || r.u32(locator) !== LOCATOR64) return plain;
  const wide = r.u64(locator + 8);
  if (r.u32(wide) !== END64) fail(r.file, wide, "the 64-bit end record is missing");
  return { count: r.u64(wide + 32), offset: r.u64(wide + 48), end: wide };
}

interface Entry {
  readonly name: string;
  readonly at: number;
  readonly method: number;
  readonly crc: number;
  readonly packed: number;
  readonly size: number;
  readonly local: number;
}

/** One header of the central directory [4.3.12], with its 64-bit numbers [4.5.3]. */
function readEntry(r: Reader, at: number): Entry & { next: number } {
  if (r.u32(at) !== CENTRAL) fail(r.file, at, "a header of the directory is missing");
  const [flags, method, crc] = [r.u16(at + 8), r.u16(at + 10), r.u32(at + 16)];
  let [packed, size, local] = [r.u32(at + 20), r.u32(at + 24), r.u32(at + 42)];
  const [nameLength, extraLength, commentLength] = [r.u16(at + 28), r.u16(at + 30), r.u16(at + 32)];
  const name = new TextDecoder().decode(r.slice(at + 46, nameLength));
  if (flags & 1) fail(r.file, at + 8, `${name} is encrypted`);
  if (method !== STORED && method !== DEFLATED) fail(r.file, at + 10, `${name} is packed by unknown means (${method})`);
  const extra = at + 46 + nameLength;
  for (let field = extra; field + 4 <= extra + extraLength; field += 4 + r.u16(field + 2)) {
    if (r.u16(field) !== 1) continue;
    let value = field + 4;
    const wide = (narrow: number): number => (narrow === ALL_ONES ? r.u64((value += 8) - 8) : narrow);
    [size, packed, local] = [wide(size), wide(packed), wide(local)];
  }
  return { name, at, method, crc, packed, size, local, next: extra + extraLength + commentLength };
}

/**
 * All files of an archive. Sizes, checksums and places are checked: no two files share bytes, nothing unpacks to more than
 * it says.
 * @throws FormatError naming the byte at which the archive is not what the format says
 */
export async function readZip(bytes: Uint8Array, file: string): Promise<ZipEntry[]> {
  const r = new Reader(file, bytes);
  const { count, offset, end } = directory(r);
  const entries: Entry[] = [];
  const names = new Set<string>();
  let at = offset;
  for (let i = 0; i < count; i++) {
    const { next, ...entry } = readEntry(r, at);
    if (next > end) fail(file, at, "the directory reaches past its end");
    if (names.has(entry.name)) fail(file, at, `${entry.name} stands there twice`);
    names.add(entry.name);
    entries.push(entry);
    at = next;
  }
  const found: ZipEntry[] = [];
  let free = 0;
  for (const entry of [...entries].sort((a, b) => a.local - b.local)) {
    const { name, local } = entry;
    if (r.u32(local) !== LOCAL) fail(file, local, `the header of ${name} is missing`);
    if (local < free) fail(file, local, `${name} overlaps the file before it`);
    const start = local + 30 + r.u16(local + 26) + r.u16(local + 28);
    const packed = r.slice(start, entry.packed);
    free = start + entry.packed;
    if (free > offset) fail(file, start, `${name} reaches into the directory`);
    if (entry.method === STORED && entry.packed !== entry.size)
      fail(file, entry.at + 24, `${name} is not packed, but its sizes differ: ${entry.packed} and ${entry.size}`);
    const content = entry.method === STORED ? packed : await inflate(file, start, entry, packed);
    if (crc32(content) !== entry.crc) fail(file, start, `the checksum of ${name} is wrong; the archive is damaged`);
    found.push({ name, bytes: content });
  }
  return found;
}

async function inflate(file: string, at: number, { name, size }: Entry, packed: Uint8Array): Promise<Uint8Array> {
  // No stream of that kind unpacks to more than about 1,032 times its size.
  if (size > 1100 * packed.length + 64) fail(file, at, `${name} cannot unpack to ${size} bytes`);
  const out = new Uint8Array(size);
  let done = 0;
  const stream = new Blob([packed.slice()]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const reader = stream.getReader();
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      if (done + piece.value.length > size) fail(file, at, `${name} unpacks to more than ${size} bytes`);
      out.set(piece.value, done);
      done += piece.value.length;
    }
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    throw new FormatError("zip", `${file}: at byte ${at}: ${name} cannot be unpacked; the archive is damaged`, {
      cause,
    });
  } finally {
    await reader.cancel().catch(() => {});
  }
  if (done !== size) fail(file, at, `${name} unpacks to ${done} bytes, not ${size}`);
  return out;
}

async function deflate(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes.slice()]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Little-endian numbers of 2 and 4 bytes. */
function record(...numbers: readonly (readonly [value: number, bytes: 2 | 4])[]): Uint8Array {
  const out = new Uint8Array(numbers.reduce((n, [, bytes]) => n + bytes, 0));
  const view = new DataView(out.buffer);
  let at = 0;
  for (const [value, bytes] of numbers) {
    if (bytes === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += bytes;
  }
  return out;
}

/**
 * The pieces of an archive, one file after another; packed where `compress`.
 * @throws FormatError where it would need 64-bit sizes
 */
export async function* writeZip(
  entries: AsyncIterable<ZipEntry>,
  compress: boolean,
): AsyncGenerator<Uint8Array, void, undefined> {
  const central: Uint8Array[] = [];
  let [offset, count] = [0, 0];
  for await (const { name, bytes } of entries) {
    const content = compress ? await deflate(bytes) : bytes;
    if (offset + content.length > ALL_ONES - 0x10000 || bytes.length >= ALL_ONES || count === 0xfffe)
      throw new FormatError("zip", `${name} would make the archive larger than 4 GiB; write several`);
    const title = new TextEncoder().encode(name);
    // Version 2.0; bit 11: the name is UTF-8.
    const head = record(
      [20, 2],
      [0x800, 2],
      [compress ? DEFLATED : STORED, 2],
      [0, 2],
      [DATE, 2],
      [crc32(bytes), 4],
      [content.length, 4],
      [bytes.length, 4],
      [title.length, 2],
      [0, 2],
    );
    const place = record([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]);
    central.push(record([CENTRAL, 4], [20, 2]), head, place, title);
    const local = record([LOCAL, 4]);
    yield* [local, head, title, content];
    offset += local.length + head.length + title.length + content.length;
    count++;
  }
  const size = central.reduce((n, piece) => n + piece.length, 0);
  yield* central;
  yield record([END, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [offset, 4], [0, 2]);
}
