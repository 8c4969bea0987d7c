import { createHash, type Hash } from "node:crypto";
import { constants, type FileHandle, mkdir, open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { isMissing } from "../json-file.ts";
import { formatBytes, HubError, storageError } from "./errors.ts";
import { type Answer, failure, type HttpClient, hostOf, TransientError } from "./http.ts";
import { type Digest, type Remote, type RemoteFile, statusError } from "./protocols.ts";

/** Received in one go, so much makes earlier failures forgotten. */
const PROGRESS = 1 << 20;
const BLOCK = 1 << 20;
/** A wrong checksum may be a resumed file that changed meanwhile; twice it is the hub's. */
const MAX_REJECTED = 2;

export interface Transfer {
  readonly http: HttpClient;
  readonly remote: Remote;
  readonly file: RemoteFile;
  readonly final: string;
  /** Holds what has arrived; kept when the transfer fails or is aborted, and continued by the next one. */
  readonly partial: string;
  /** Told how much of the file is on disk, also when it becomes less. */
  readonly onBytes?: (bytes: number) => void;
  readonly onRetry?: (reason: string, delay: number) => void;
}

/** The bytes do not belong to the file. */
class RejectedError extends Error {}

/**
 * Downloads one file: continues a partial one by `Range`, checks size and checksum, and renames it into place last.
 *
 * @throws HubError, or the reason of the aborted signal
 */
export async function fetchFile(transfer: Transfer): Promise<void> {
  const { http, file, final, partial } = transfer;
  try {
    await mkdir(dirname(partial), { recursive: true });
    await mkdir(dirname(final), { recursive: true });
    const writer = new PartialFile(partial, file);
    let rejected = 0;
    await http.retry(
      `${file.name} at ${hostOf(file.url)}`,
      async () => {
        await writer.open(http.signal);
        try {
          transfer.onBytes?.(writer.length);
          if (writer.length < file.size) await receive(transfer, writer);
          await writer.verify();
        } catch (error) {
          if (!(error instanceof RejectedError)) throw error;
          await writer.restart();
          transfer.onBytes?.(0);
          if (++rejected < MAX_REJECTED) throw new TransientError(error.message);
          throw new HubError(
            "checksum",
            `${file.name} from ${hostOf(file.url)} ${error.message}, twice. The hub, or a proxy on the way, gives out a wrong file: try again later, or use the other source`,
          );
        } finally {
          await writer.close();
        }
      },
      transfer.onRetry,
    );
    await rename(partial, final);
  } catch (error) {
    throw storageError(error, final, `downloading ${file.name} (${formatBytes(file.size)})`);
  }
}

/** Requests what is missing and writes it. Returns when the file has its size. */
async function receive(transfer: Transfer, writer: PartialFile): Promise<void> {
  const { http, remote, file } = transfer;
  const start = writer.length;
  const answer = await http.get(file.url, start > 0 ? { range: `bytes=${start}-` } : {});
  try {
    await checkRange(answer, writer, file);
    if (writer.length !== start) transfer.onBytes?.(writer.length);
    if (answer.status !== 200 && answer.status !== 206) {
      throw failure(answer, () => statusError(remote, answer.status, answer.headers, file.name));
    }
    const from = writer.length;
    const broken = (message: string, cause?: unknown) =>
      new TransientError(message, { progressed: writer.length - from >= PROGRESS, cause });
    try {
      for (let piece = await answer.read(); piece; piece = await answer.read()) {
        if (writer.length + piece.length > file.size) {
          throw new RejectedError(`has more than the ${file.size} bytes that the hub lists`);
        }
        await writer.append(piece);
        transfer.onBytes?.(writer.length);
      }
    } catch (error) {
      throw error instanceof TransientError ? broken(error.message, error) : error;
    }
    if (writer.length < file.size) {
      throw broken(`the connection ended after ${writer.length} of ${file.size} bytes`);
    }
  } finally {
    answer.close();
  }
}

/** Makes sure that the answer's first byte goes where the partial file ends; else starts the file over. */
async function checkRange(answer: Answer, writer: PartialFile, file: RemoteFile): Promise<void> {
  if (answer.status === 200) {
    if (writer.length > 0) await writer.restart(); // the server ignores Range and sends the whole file
  } else if (answer.status === 206) {
    const range = answer.headers.get("content-range")?.match(/^bytes (\d+)-(\d+)\/(\d+|\*)$/);
    const fits = range && Number(range[1]) === writer.length && (range[3] === "*" || Number(range[3]) === file.size);
    if (fits) return;
    await writer.restart();
    throw new TransientError("the server sent another part than was asked for");
  } else if (answer.status === 416) {
    await writer.restart();
    throw new TransientError("the server cannot continue the file (416)");
  }
}

/** The temporary file, with the checksum of what it holds. */
class PartialFile {
  readonly #path: string;
  readonly #size: number;
  readonly #digest: Digest | undefined;
  #handle: FileHandle | undefined;
  #hash: Hash | undefined;
  #hashed = 0;
  #length = 0;

  constructor(path: string, file: RemoteFile) {
    this.#path = path;
    this.#size = file.size;
    this.#digest = file.digest;
    this.#hash = newHash(file.digest, file.size);
  }

  /** Bytes it holds. */
  get length(): number {
    return this.#length;
  }

  async open(signal: AbortSignal | undefined): Promise<void> {
    this.#handle = await openRegular(this.#path);
    this.#length = (await this.#handle.stat()).size;
    if (this.#length > this.#size) return this.restart();
    if (this.#hashed !== this.#length) {
      this.#hash = newHash(this.#digest, this.#size);
      await hashInto(this.#hash, this.#handle, this.#length, signal);
      this.#hashed = this.#length;
    }
  }

  async append(piece: Uint8Array): Promise<void> {
    for (let done = 0; done < piece.length; ) {
      const { bytesWritten } = await this.#handle!.write(piece, done, piece.length - done, this.#length);
      this.#hash?.update(piece.subarray(done, done + bytesWritten));
      done += bytesWritten;
      this.#length += bytesWritten;
      this.#hashed = this.#length;
    }
  }

  async restart(): Promise<void> {
    await this.#handle!.truncate(0);
    this.#hash = newHash(this.#digest, this.#size);
    this.#hashed = 0;
    this.#length = 0;
  }

  /** Checks the checksum of the whole file and sees that it is on disk. */
  async verify(): Promise<void> {
    const { algorithm, hex } = this.#digest ?? {};
    const found = this.#hash?.copy().digest("hex");
    if (found !== hex) throw new RejectedError(`has the ${algorithm} ${found} instead of ${hex}`);
    await this.#handle!.datasync();
  }

  async close(): Promise<void> {
    await this.#handle?.close();
    this.#handle = undefined;
  }
}

/** Opens for reading and writing, never through a link that lies in its place. */
async function openRegular(path: string): Promise<FileHandle> {
  const flags = constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0);
  try {
    return await open(path, flags, 0o644);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ELOOP") throw error;
    await unlink(path);
    return open(path, flags, 0o644);
  }
}

function newHash(digest: Digest | undefined, size: number): Hash | undefined {
  if (!digest) return undefined;
  return digest.algorithm === "sha256" ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}

async function hashInto(
  hash: Hash | undefined,
  handle: FileHandle,
  length: number,
  signal?: AbortSignal,
): Promise<void> {
  if (!hash) return;
  const block = Buffer.allocUnsafe(BLOCK);
  for (let at = 0; at < length; ) {
    signal?.throwIfAborted();
    const { bytesRead } = await handle.read(block, 0, Math.min(BLOCK, length - at), at);
    if (bytesRead === 0) break;
    hash.update(block.subarray(0, bytesRead));
    at += bytesRead;
  }
}

/** True if a file has the size and, unless `sizeOnly`, the checksum that the hub lists. */
export async function matches(
  path: string,
  file: RemoteFile,
  sizeOnly: boolean,
  signal?: AbortSignal,
): Promise<boolean> {
  let handle: FileHandle;
  try {
    handle = await open(path, "r");
  } catch (error) {
    if (isMissing(error)) return false;
    throw storageError(error, path, "checking a file");
  }
  try {
    const info = await handle.stat();
    if (!info.isFile() || info.size !== file.size) return false;
    if (sizeOnly || !file.digest) return true;
    const hash = newHash(file.digest, file.size);
    await hashInto(hash, handle, file.size, signal);
    return hash!.digest("hex") === file.digest.hex;
  } finally {
    await handle.close();
  }
}
