import { DataError } from "./error.ts";
import { readBytes } from "./files.ts";

/** The encodings that are read; the names are those of `TextDecoder`. */
export type Encoding = "utf-8" | "gb18030" | "utf-16le" | "utf-16be";

export interface DetectedEncoding {
  encoding: Encoding;
  /** Bytes of the byte order mark at the start, 0 without one. */
  bomLength: number;
}

const BYTE_ORDER_MARKS: readonly { encoding: Encoding; bytes: readonly number[] }[] = [
  { encoding: "utf-8", bytes: [0xef, 0xbb, 0xbf] },
  { encoding: "gb18030", bytes: [0x84, 0x31, 0x95, 0x33] },
  { encoding: "utf-16le", bytes: [0xff, 0xfe] },
  { encoding: "utf-16be", bytes: [0xfe, 0xff] },
];

const LABELS: Record<Encoding, string> = {
  "utf-8": "UTF-8",
  gb18030: "GB18030",
  "utf-16le": "UTF-16 (little endian)",
  "utf-16be": "UTF-16 (big endian)",
};

/**
 * The encoding of a text file: by its byte order mark, else UTF-8 where the whole file is strictly valid UTF-8, else
 * GB18030 (and so GBK and GB2312) where it is valid that.
 *
 * @throws DataError with the byte position where each of the two broke off.
 */
export async function detectEncoding(path: string, signal?: AbortSignal): Promise<DetectedEncoding> {
  const head = await readHead(path, 4, signal);
  for (const { encoding, bytes } of BYTE_ORDER_MARKS) {
    if (bytes.every((byte, i) => head[i] === byte)) return { encoding, bomLength: bytes.length };
  }
  const candidates = ["utf-8", "gb18030"] as const;
  for (const encoding of candidates) {
    if (await isValid(path, encoding, signal)) return { encoding, bomLength: 0 };
  }
  const places: string[] = [];
  for (const encoding of candidates) {
    places.push(`${LABELS[encoding]} (${await findInvalid(path, { encoding, bomLength: 0 }, signal)})`);
  }
  throw new DataError(
    "encoding",
    { file: path },
    `the file is neither ${places.join(" nor ")}; save it as UTF-8 and try again`,
  );
}

/** The text of a file, without its byte order mark, piece by piece; `onBytes` is told how far the reading is. */
export async function* decodeFile(
  path: string,
  detected: DetectedEncoding,
  signal?: AbortSignal,
  onBytes?: (bytesRead: number) => void,
): AsyncGenerator<string> {
  const decoder = strictDecoder(detected.encoding);
  let bytesRead = detected.bomLength;
  try {
    for await (const bytes of readBytes(path, detected.bomLength, signal)) {
      const text = decoder.decode(bytes, { stream: true });
      bytesRead += bytes.length;
      onBytes?.(bytesRead);
      if (text !== "") yield text;
    }
    const rest = decoder.decode();
    if (rest !== "") yield rest;
  } catch (error) {
    if (!isDecodingError(error)) throw error;
    const place = await findInvalid(path, detected, signal);
    throw new DataError(
      "encoding",
      { file: path },
      `the file is not valid ${LABELS[detected.encoding]} (${place}); save it as UTF-8 and try again`,
      { cause: error },
    );
  }
}

async function isValid(path: string, encoding: Encoding, signal?: AbortSignal): Promise<boolean> {
  const decoder = strictDecoder(encoding);
  try {
    for await (const bytes of readBytes(path, 0, signal)) decoder.decode(bytes, { stream: true });
    decoder.decode();
    return true;
  } catch (error) {
    if (isDecodingError(error)) return false;
    throw error;
  }
}

/**
 * Describes the first character that cannot be decoded. A decoder does not tell where it failed and cannot be copied, so
 * a second one follows a piece behind and then takes the last two pieces byte by byte.
 */
async function findInvalid(
  path: string,
  { encoding, bomLength }: DetectedEncoding,
  signal?: AbortSignal,
): Promise<string> {
  const leader = strictDecoder(encoding);
  const follower = strictDecoder(encoding);
  const lines = new LineCounter();
  let offset = bomLength;
  let last: Uint8Array = new Uint8Array(0);
  let tail: Uint8Array | undefined;
  for await (const bytes of readBytes(path, bomLength, signal)) {
    try {
      leader.decode(bytes, { stream: true });
    } catch {
      tail = Buffer.concat([last, bytes]);
      break;
    }
    lines.add(follower.decode(last, { stream: true }));
    offset += last.length;
    last = bytes;
  }
  tail ??= last;

  let start = 0;
  try {
    for (let i = 0; i < tail.length; i++) {
      const text = follower.decode(tail.subarray(i, i + 1), { stream: true });
      if (text !== "") start = i + 1;
      lines.add(text);
    }
  } catch {
    const byte = `0x${tail[start].toString(16).padStart(2, "0")}`;
    return `byte ${byte} at offset ${offset + start}, line ${lines.line}, does not begin a character`;
  }
  return `the character at byte offset ${offset + start}, line ${lines.line}, is cut off`;
}

/** Counts lines as CR, LF and CRLF end them, in text that comes in pieces. */
class LineCounter {
  line = 1;
  #endedInCarriageReturn = false;

  add(text: string): void {
    if (text === "") return;
    this.line += text.match(/\r\n?|\n/g)?.length ?? 0;
    if (this.#endedInCarriageReturn && text.startsWith("\n")) this.line--;
    this.#endedInCarriageReturn = text.endsWith("\r");
  }
}

async function readHead(path: string, length: number, signal?: AbortSignal): Promise<Uint8Array> {
  for await (const bytes of readBytes(path, 0, signal)) return bytes.subarray(0, length);
  return new Uint8Array(0);
}

/** Byte order marks are left to the caller, which skips them: one in the middle of a file is a character. */
function strictDecoder(encoding: Encoding): TextDecoder {
  return new TextDecoder(encoding, { fatal: true, ignoreBOM: true });
}

function isDecodingError(error: unknown): boolean {
  return error instanceof TypeError && "code" in error && error.code === "ERR_ENCODING_INVALID_ENCODED_DATA";
}
