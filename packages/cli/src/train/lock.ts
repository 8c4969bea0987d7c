import { Database, SQLiteError } from "bun:sqlite";
import { statSync } from "node:fs";
import { mkdir, rmdir, unlink } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { CommandError } from "../errors.ts";
import type { Context } from "../run.ts";

/** So long one who ends may take: to save a checkpoint after Ctrl-C, or to notice that its parent is gone. */
const PATIENCE_MS = 3000;
const EVERY_MS = 100;

/**
 * Keeps others from writing into a folder as long as this process works on it. The lock is one of the operating system's (SQLite
 * takes it, on an empty file beside the folder), so it ends with the process, however that ends: there are no stale ones.
 */
export class FolderLock {
  readonly #path: string;
  readonly #file: Database;
  /** The uppermost folder that was made for the file. */
  readonly #made: string | undefined;

  private constructor(path: string, file: Database, made: string | undefined) {
    this.#path = path;
    this.#file = file;
    this.#made = made;
  }

  /**
   * Waits a little for one who is about to end.
   *
   * @throws CommandError when another process has the folder; the signal's reason when it aborts
   */
  static async take(
    { signal, terminal }: Pick<Context, "signal" | "terminal">,
    folder: string,
    patience = PATIENCE_MS,
  ): Promise<FolderLock> {
    const place = resolve(folder);
    const path = join(dirname(place), `.${basename(place)}.lock`);
    const made = await mkdir(dirname(place), { recursive: true });
    const until = performance.now() + patience;
    for (let isTold = false; ; isTold = true) {
      signal.throwIfAborted();
      const file = lock(path);
      if (file !== undefined) return new FolderLock(path, file, made);
      if (performance.now() >= until) {
        throw new CommandError(
          `another training or search is writing into ${folder} now; wait until it has ended (bun run runs shows it), or give another --out`,
        );
      }
      if (!isTold) terminal.say(`Waiting for another training or search to let go of ${folder}`);
      await setTimeout(EVERY_MS);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Before the lock is let go: nobody may lock a file that is being removed. Where open files cannot be removed it stays.
    await unlink(this.#path).catch(() => {});
    this.#file.close();
    if (this.#made !== undefined) await removeEmpty(dirname(this.#path), this.#made);
  }
}

/** Removes a folder and those above it, up to one of them, as long as nothing is in them. */
async function removeEmpty(folder: string, upTo: string): Promise<void> {
  const isEmpty = await rmdir(folder).then(
    () => true,
    () => false,
  );
  if (isEmpty && folder !== upTo) await removeEmpty(dirname(folder), upTo);
}

/** The locked file; undefined where another has it. */
function lock(path: string): Database | undefined {
  for (;;) {
    const before = identityOf(path);
    const file = tryToLock(path);
    if (file === undefined) return undefined;
    // One that its owner removed while it was being opened is not the one that others find.
    if (before !== undefined && before === identityOf(path)) return file;
    file.close();
  }
}

/** What tells a file from another that had its name, and perhaps its inode, before it; undefined where there is none. */
function identityOf(path: string): string | undefined {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found && `${found.ino} ${found.birthtimeNs} ${found.ctimeNs}`;
}

function tryToLock(path: string): Database | undefined {
  let file: Database | undefined;
  try {
    file = new Database(path, { create: true });
    // Without a journal nothing but the empty file is made.
    file.run("PRAGMA journal_mode = MEMORY");
    file.run("BEGIN EXCLUSIVE");
    return file;
  } catch (error) {
    file?.close();
    if (error instanceof SQLiteError && error.code === "SQLITE_BUSY") return undefined;
    const why = (error as Error).message;
    throw new CommandError(`${dirname(path)}: no file can be made here (${why}); choose another place`, {
      cause: error,
    });
  }
}
