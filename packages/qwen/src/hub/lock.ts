import { randomUUID } from "node:crypto";
import { mkdir, open, readFile, rename, stat, unlink, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { isMissing } from "../json-file.ts";
import { storageError } from "./errors.ts";

export interface LockOptions {
  signal?: AbortSignal;
  /** Called once if another process holds the lock. */
  onWait?: () => void;
  /** A lock not refreshed for so long is a dead process's. Milliseconds, default 15,000. */
  stale?: number;
  /** Milliseconds between looks at a held lock, default 250. */
  poll?: number;
}

/**
 * Takes a lock among processes: a file that names its owner, refreshed while it is held. A lock whose process has died
 * (on this machine) or which was not refreshed (on a shared disk) is taken over. Waits while another process holds it.
 *
 * Not a library's: the usual one installs handlers for a dozen signals when it is imported, which changes how a
 * program that computes in native code can be interrupted.
 *
 * @returns releases the lock
 */
export async function acquireLock(file: string, options: LockOptions = {}): Promise<() => Promise<void>> {
  const { signal, stale = 15_000, poll = 250 } = options;
  const token = JSON.stringify({ pid: process.pid, host: hostname(), id: randomUUID() });
  let waited = false;
  try {
    await mkdir(dirname(file), { recursive: true });
    while (!(await create(file, token))) {
      signal?.throwIfAborted();
      if (await takeAway(file, stale)) continue;
      if (!waited) options.onWait?.();
      waited = true;
      await new Promise((resolve) => setTimeout(resolve, poll));
      signal?.throwIfAborted();
    }
  } catch (error) {
    throw storageError(error, file, "taking the lock");
  }
  const refresh = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => {});
  }, stale / 5);
  refresh.unref();
  return async () => {
    clearInterval(refresh);
    if ((await read(file)) === token) await unlink(file).catch(() => {});
  };
}

async function create(file: string, token: string): Promise<boolean> {
  try {
    const handle = await open(file, "wx");
    try {
      await handle.writeFile(token);
    } finally {
      await handle.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function read(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Removes a dead process's lock; true if the lock is gone. Renaming first lets only one of two finders remove it. */
async function takeAway(file: string, stale: number): Promise<boolean> {
  try {
    const [content, { mtimeMs }] = await Promise.all([read(file), stat(file)]);
    if (Date.now() - mtimeMs < stale && !ownerIsDead(content)) return false;
    const grave = `${file}.${randomUUID()}`;
    await rename(file, grave);
    await unlink(grave);
    return true;
  } catch (error) {
    if (isMissing(error)) return true;
    throw error;
  }
}

function ownerIsDead(content: string | undefined): boolean {
  try {
    const { pid, host } = JSON.parse(content ?? "");
    if (host !== hostname() || !Number.isInteger(pid) || pid <= 0) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}
