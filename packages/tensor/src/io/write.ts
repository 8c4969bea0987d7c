// Shared by Bun and Node.
import { type FileHandle, mkdir, open, realpath, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { TensorError } from "../errors.ts";

/** What the system's error codes mean, and what to do. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  EACCES: "access is denied",
  EPERM: "access is denied",
  EISDIR: "it is a folder",
  ENOTDIR: "a part of the path is not a folder",
  EROFS: "the file system is read-only",
  ENOSPC: "the disk is full; free some space or choose another disk",
  EDQUOT: "the disk quota is used up; free some space or choose another disk",
  EMFILE: "too many files are open",
  EFBIG: "the file would be larger than is allowed here",
  ENOMEM: "memory does not suffice",
};

function sentence(path: string, action: string, cause: unknown): TensorError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const reason = (code !== undefined && REASONS[code]) || message;
  return new TensorError("file", `cannot ${action} ${path}: ${reason}`, { cause });
}

/** Runs `body`, turning an error of the system into a sentence that names the file. */
export function explain<T>(path: string, action: string, body: () => T): T {
  try {
    return body();
  } catch (cause) {
    throw cause instanceof TensorError ? cause : sentence(path, action, cause);
  }
}

/** See `FileSystem.makeFolder`. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch((cause: Error) => {
    throw sentence(path, "make", cause);
  });
}

/** See `FileSystem.write`. */
export async function write(path: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  let file: FileHandle | undefined;
  // Through a symbolic link, the file that it points to is written.
  const target = await realpath(path).catch(() => path);
  const part = `${target}.${crypto.randomUUID()}.part`;
  try {
    file = await open(part, "wx");
    for await (const piece of pieces) {
      for (let done = 0; done < piece.length; ) {
        done += (await file.write(piece, done, Math.min(piece.length - done, 2 ** 30))).bytesWritten;
      }
    }
    await file.sync();
    await file.close();
    file = undefined;
    await rename(part, target);
    await syncFolder(dirname(target));
  } catch (cause) {
    await file?.close().catch(() => {});
    await rm(part, { force: true }).catch(() => {});
    throw cause instanceof TensorError || !(cause as NodeJS.ErrnoException).code
      ? cause
      : sentence(path, "write", cause);
  }
}

/** Makes the rename itself outlast a power cut, where the system can (Windows cannot open a folder). */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r").catch(() => undefined);
  await folder?.sync().catch(() => {});
  await folder?.close();
}
