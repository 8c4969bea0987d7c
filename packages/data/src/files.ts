import { type BigIntStats, createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { DataError, type DataErrorCode } from "./error.ts";

/** What the system's error codes mean to the person who gave the path. */
const REASONS: Record<string, string> = {
  ENOENT: "there is no such file; check the path",
  EACCES: "permission denied; check who may read and write there",
  EPERM: "permission denied; check who may read and write there",
  EISDIR: "this is a folder; give the path of a file",
  ENOTDIR: "a part of this path is a file, not a folder; check the path",
  EEXIST: "a part of this path is a file, not a folder; check the path",
  ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
  ENOSPC: "the disk is full; free some space or choose another place",
  EDQUOT: "the disk quota is used up; free some space or choose another place",
  EFBIG: "the file grew beyond the size that the system allows; raise the limit or choose another place",
  EROFS: "the file system is read-only; choose another place",
  EMFILE: "too many files are open; close some or raise the limit",
};

/** A system error as a `DataError` that says what was being done; anything else as it came. */
export function explainSystemError(error: unknown, code: DataErrorCode, file: string, doing: string): unknown {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return error;
  if (error instanceof DataError) return error;
  return new DataError(code, { file }, `${doing}: ${REASONS[error.code] ?? error.message}`, { cause: error });
}

export async function statIfThere(path: string): Promise<BigIntStats | undefined> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Checks that `path` is a file that holds something, and gives its size in bytes. */
export async function checkInput(path: string): Promise<number> {
  let found: BigIntStats | undefined;
  try {
    found = await statIfThere(path);
  } catch (error) {
    throw explainSystemError(error, "unreadable", path, "cannot be read");
  }
  if (found === undefined) throw new DataError("missing-file", { file: path }, `cannot be read: ${REASONS.ENOENT}`);
  if (found.isDirectory()) throw new DataError("not-a-file", { file: path }, `cannot be read: ${REASONS.EISDIR}`);
  if (!found.isFile()) {
    throw new DataError(
      "not-a-file",
      { file: path },
      "this is a pipe or a device, but the file is read more than once; save it as a regular file first",
    );
  }
  if (found.size === 0n) {
    throw new DataError("empty", { file: path }, "the file is empty; give one with rows");
  }
  return Number(found.size);
}

/** The bytes of a file from `start` on, in pieces of 64 KiB; read only as fast as they are taken. */
export async function* readBytes(path: string, start: number, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  signal?.throwIfAborted();
  try {
    for await (const bytes of createReadStream(path, { start, highWaterMark: 65536 })) {
      signal?.throwIfAborted();
      yield bytes;
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    throw explainSystemError(error, "unreadable", path, "cannot be read");
  }
}
