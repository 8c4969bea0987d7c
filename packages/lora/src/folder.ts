import { randomUUID } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { z } from "zod";
import { AdapterError } from "./errors.ts";

/** A complete save that has not been moved into its folder yet. */
const COMMITTED = ".saved";
/** A save in progress, followed by its process and a number of its own. */
const STAGING = ".saving-";
/** A folder that is being removed. */
const REMOVED = ".removed-";
/** A save that has not gone on for so long was interrupted. */
const STALE_MILLISECONDS = 3_600_000;
/** JSON files of an adapter are small; a larger one is something else. */
const MAX_JSON_BYTES = 64 * 2 ** 20;

/** What is written into one file: its text, or a function that writes the file at a path. */
export type FileContent = string | ((path: string) => Promise<void>);

/**
 * Writes files of a folder together: an interruption at any moment leaves all of them as they were, or all new. They
 * are written into a folder inside, which one rename declares complete; then each is moved to its place. A move that
 * was interrupted is finished by {@link finishSave}, which every save and load begins with. Other files stay.
 *
 * @throws AdapterError when the folder cannot be written, naming why
 */
export async function saveFolder(folder: string, files: Readonly<Record<string, FileContent>>): Promise<void> {
  await explained(folder, "cannot be written", async () => {
    await mkdir(folder, { recursive: true });
    await finishSave(folder);
    await removeStale(folder);
    const staging = await stage(folder, files);
    try {
      await rename(staging, join(folder, COMMITTED));
    } catch (error) {
      await rm(staging, { recursive: true, force: true }).catch(() => {});
      throw error;
    }
    await finishSave(folder);
  });
}

/**
 * Makes a folder of files in one step: an interruption at any moment leaves it whole or not there. One that is there
 * already is replaced.
 *
 * @param ready called when everything is on the disk but not in its place yet
 * @throws AdapterError when the folder cannot be written, naming why
 */
export async function createFolder(
  folder: string,
  files: Readonly<Record<string, FileContent>>,
  ready?: () => Promise<void>,
): Promise<void> {
  const parent = dirname(folder);
  const create = async (): Promise<void> => {
    await mkdir(parent, { recursive: true });
    await removeStale(parent);
    const staging = await stage(parent, files);
    try {
      await ready?.();
      await removeFolder(folder);
      await rename(staging, folder);
    } catch (error) {
      await rm(staging, { recursive: true, force: true }).catch(() => {});
      throw error;
    }
    await flush(parent);
  };
  // Where someone removes the parent meanwhile it is made again.
  await explained(folder, "cannot be written", () => create().catch(againIfGone).catch(againIfGone));

  function againIfGone(error: NodeJS.ErrnoException): Promise<void> {
    if (error.code !== "ENOENT") throw error;
    return create();
  }
}

/** Removes a folder, if it is there, so that a half of it is never seen under its name. */
export async function removeFolder(folder: string): Promise<void> {
  const removed = join(dirname(folder), `${REMOVED}${randomUUID()}`);
  try {
    await rename(folder, removed);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  await rm(removed, { recursive: true, force: true });
}

/** Writes files into a folder of their own inside `parent`, outlasting a power cut; leaves nothing when that fails. */
async function stage(parent: string, files: Readonly<Record<string, FileContent>>): Promise<string> {
  const staging = join(parent, `${STAGING}${process.pid}-${randomUUID()}`);
  try {
    await mkdir(staging);
    for (const [name, content] of Object.entries(files)) {
      const path = join(staging, name);
      if (typeof content === "string") await writeFile(path, content);
      else await content(path);
      await flush(path);
    }
    await flush(staging);
    return staging;
  } catch (error) {
    await rm(staging, { recursive: true, force: true }).catch(() => {});
    throw systemError(error);
  }
}

/** The system's error below an error that names a file of the staging folder, which means nothing to a user. */
function systemError(error: unknown): unknown {
  for (let one = error; one instanceof Error; one = one.cause) {
    // Errors of the web have a number there.
    if (typeof (one as NodeJS.ErrnoException).code === "string") return one;
  }
  return error;
}

/** Moves the files of a complete but interrupted save to their places; without one, does nothing. */
export async function finishSave(folder: string): Promise<void> {
  const committed = join(folder, COMMITTED);
  const names = await readdir(committed).catch(() => undefined);
  if (!names) return;
  await explained(folder, "holds a save that was interrupted and cannot be completed", async () => {
    for (const name of names) await rename(join(committed, name), join(folder, name));
    await flush(folder);
    await rmdir(committed);
  });
}

/** Removes what interrupted saves and removals left. */
async function removeStale(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const isLeft = name.startsWith(REMOVED) || (name.startsWith(STAGING) && (await isAbandoned(name, path)));
    if (isLeft) await rm(path, { recursive: true, force: true });
  }
}

async function isAbandoned(name: string, path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) return false;
  return Date.now() - found.mtimeMs > STALE_MILLISECONDS || !isRunning(Number.parseInt(name.slice(STAGING.length), 10));
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/** Makes a file, or a folder's list of names, outlast a power cut; Windows cannot open folders, and needs not. */
async function flush(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  EACCES: "access is denied",
  EPERM: "access is denied",
  EEXIST: "there is a file of that name",
  ENOTDIR: "a part of the path is a file, not a folder",
  EISDIR: "it is a folder",
  EROFS: "the file system is read-only",
  ENOSPC: "the disk is full; free some space or choose another place",
  EDQUOT: "the disk quota is used up; free some space or choose another place",
};

/** Runs `action`; an error of the system becomes a sentence about `path`. */
async function explained<T>(path: string, problem: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (cause instanceof AdapterError || typeof code !== "string") throw cause;
    throw new AdapterError(path, `${problem}: ${REASONS[code] ?? message}`, { cause });
  }
}

/**
 * Reads a JSON file; undefined when there is none.
 * @throws AdapterError when it cannot be read or is not JSON in UTF-8
 */
export async function readJson(path: string): Promise<unknown> {
  const bytes = await explained(path, "cannot be read", async () => {
    const { size } = await stat(path);
    if (size > MAX_JSON_BYTES) throw new AdapterError(path, `has ${size} bytes, too many for such a file`);
    return readFile(path);
  }).catch((error) => {
    const { code } = (error.cause ?? {}) as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  });
  if (bytes === undefined) return undefined;
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new AdapterError(path, `is not JSON in UTF-8 (${(cause as Error).message}); was it cut off?`, { cause });
  }
}

/** Checks a file's content against a schema; the first problem becomes an AdapterError that names the field. */
export function checkJson<T extends z.ZodType>(schema: T, value: unknown, path: string): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = issue.path.map(String).join(".");
  throw new AdapterError(path, field ? `${field}: ${issue.message}` : issue.message, { cause: result.error });
}
