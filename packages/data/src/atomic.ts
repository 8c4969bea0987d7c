import { randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, realpath, rename, rm, rmdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { DataError } from "./error.ts";
import { explainSystemError, statIfThere } from "./files.ts";

/** Takes text for the file; settles when more may come. */
export type Write = (text: string) => Promise<void>;

/** Text is gathered to pieces of this many UTF-16 code units before it goes to the system. */
const PIECE_LENGTH = 65536;

/**
 * Writes a UTF-8 file so that it is either there whole or not at all: into a `.part` file beside it, which is renamed when
 * `produce` is done, and removed, with the folders made for it, when anything fails or `signal` aborts. An earlier file of that name
 * stays until the rename. Through a symbolic link the file it points to is written.
 *
 * @returns what `produce` returns
 * @throws DataError "output" when the path cannot be written; what `produce` throws
 */
export async function writeAtomically<T>(
  path: string,
  produce: (write: Write) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  signal?.throwIfAborted();
  const target = await findTarget(path);
  const folder = dirname(target);
  const part = join(folder, `.${randomUUID()}.part`);
  let firstMade: string | undefined;
  let file: FileHandle | undefined;
  try {
    firstMade = await explained(path, () => mkdir(folder, { recursive: true }));
    const opened = await explained(path, () => open(part, "wx"));
    file = opened;
    let gathered = "";
    const flush = () => {
      const bytes = Buffer.from(gathered);
      gathered = "";
      return explained(path, () => writeAll(opened, bytes));
    };
    const result = await produce(async (text) => {
      gathered += text;
      if (gathered.length >= PIECE_LENGTH) await flush();
    });
    await flush();
    await explained(path, () => opened.sync());
    file = undefined;
    await explained(path, () => opened.close());
    signal?.throwIfAborted();
    await explained(path, () => rename(part, target));
    return result;
  } catch (error) {
    await file?.close().catch(() => {});
    await rm(part, { force: true }).catch(() => {});
    if (firstMade !== undefined) await removeFolders(folder, firstMade);
    throw error;
  }
}

async function findTarget(path: string): Promise<string> {
  const found = await explained(path, () => statIfThere(path));
  if (found?.isDirectory() || /[/\\]$/.test(path)) {
    throw new DataError("output", { file: path }, "cannot be written: this is a folder; give the path of a file in it");
  }
  if (found && !found.isFile()) {
    throw new DataError("output", { file: path }, "cannot be written: this is a pipe or a device; give a file's path");
  }
  return found ? explained(path, () => realpath(path)) : resolve(path);
}

async function explained<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw explainSystemError(error, "output", path, "cannot be written");
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at, bytes.length - at)).bytesWritten;
}

/** Removes the folders from `folder` up to `firstMade`, as long as they are empty. */
async function removeFolders(folder: string, firstMade: string): Promise<void> {
  let current = folder;
  try {
    for (;;) {
      await rmdir(current);
      if (current.length <= firstMade.length) return;
      current = dirname(current);
    }
  } catch {
    // Something else was put there meanwhile: it stays.
  }
}
