import { CommanderError } from "@commander-js/extra-typings";

/** The command was used wrongly: exit status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Something that was asked for cannot be done, for a reason the user can act on: exit status 1. */
export class CommandError extends Error {
  override readonly name = "CommandError";
}

/** Stopped by a signal; the reason of the `AbortSignal` that every command gets. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
  readonly signal: "SIGINT" | "SIGTERM";

  constructor(signal: "SIGINT" | "SIGTERM") {
    super("interrupted");
    this.signal = signal;
  }
}

/** Exit statuses of every command; a stop by SIGTERM is told as a shell does: 128 and the signal's number. */
export const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130, terminated: 143 } as const;

const SYSTEM: Record<string, string> = {
  ENOENT: "there is no such file or folder; check the path",
  EACCES: "permission denied; check who may read and write there",
  EPERM: "permission denied; check who may read and write there",
  EISDIR: "this is a folder where a file is needed; check the path",
  ENOTDIR: "a part of this path is a file where a folder is needed; check the path",
  EEXIST: "something of this name is already there; choose another name",
  ENOSPC: "the disk is full; free some space or choose another place",
  EDQUOT: "the disk quota is used up; free some space or choose another place",
  EFBIG: "the file grew beyond the size that the system allows; choose another place",
  EROFS: "the file system is read-only; choose another place",
  ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
  EMFILE: "too many files are open; close some or raise the limit",
  ENOMEM: "there is not enough memory; close other programs or choose a smaller model",
};

/** What an error means, in one sentence for a person. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return `failed: ${String(error)}`;
  const { code, path } = error as NodeJS.ErrnoException;
  // Typed errors of the packages are sentences already, whatever code they carry.
  const isPlain = error.name === "Error" || error.name === "SystemError";
  const system = isPlain && typeof code === "string" ? SYSTEM[code] : undefined;
  if (system !== undefined) return path === undefined ? system : `${path}: ${system}`;
  const message = error.message.trim().replaceAll(/\s*\n\s*/g, " ") || error.name;
  const isMistake = [TypeError, ReferenceError, SyntaxError].some((kind) => error.constructor === kind);
  return isMistake ? `internal error: ${message}; run it again with --debug and report what it prints` : message;
}

/** Is it an error of usage that commander has told already? */
export function isUsageTold(error: unknown): boolean {
  return error instanceof CommanderError;
}

/** The exit status that an error leads to. */
export function exitStatus(error: unknown): number {
  if (error instanceof Interrupted) return error.signal === "SIGINT" ? EXIT.interrupted : EXIT.terminated;
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
  return error instanceof UsageError ? EXIT.usage : EXIT.failed;
}
