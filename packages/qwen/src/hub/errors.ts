/**
 * What went wrong, for callers that act on it:
 * - `invalid`: a name, revision, endpoint or option that cannot be right
 * - `not-found`: the hub has no such model, revision or file
 * - `unauthorized`: private or gated, or a wrong token
 * - `rate-limited`: the hub asks to come back later than is worth waiting for
 * - `unavailable`: no connection, or the hub fails or stalls again and again
 * - `protocol`: an answer that is not the hub's protocol, or is hostile
 * - `too-large`: more than the limits allow
 * - `checksum`: a file is not what the hub says it is
 * - `disk-full`, `storage`: the cache folder cannot be written
 */
export type HubErrorCode =
  | "invalid"
  | "not-found"
  | "unauthorized"
  | "rate-limited"
  | "unavailable"
  | "protocol"
  | "too-large"
  | "checksum"
  | "disk-full"
  | "storage";

/** Finding or downloading a model failed. The message says what, where and what to do. */
export class HubError extends Error {
  override readonly name = "HubError";
  readonly code: HubErrorCode;
  /** The message without what to do. */
  readonly problem: string;
  readonly advice: string | undefined;

  /** @param advice what to do, where `problem` does not say it already */
  constructor(code: HubErrorCode, problem: string, options: { advice?: string; cause?: unknown } = {}) {
    const { advice, cause } = options;
    super(advice === undefined ? problem : `${problem}; ${advice}`, { cause });
    this.code = code;
    this.problem = problem;
    this.advice = advice;
  }
}

/** Turns an error of the file system into a `HubError`; others are given back as they are. */
export function storageError(error: unknown, path: string, doing: string): unknown {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new HubError(
      "disk-full",
      `the disk is full while ${doing} in ${path}. What has arrived is kept: free some space, or choose another cache folder, and run it again`,
      { cause: error },
    );
  }
  const reasons: Record<string, string> = {
    EACCES: "permission denied",
    EPERM: "permission denied",
    EROFS: "the file system is read-only",
    ENOTDIR: "a file stands where a folder is needed",
    ERR_FS_EISDIR: "a folder stands where a file is needed",
    EISDIR: "a folder stands where a file is needed",
    ENAMETOOLONG: "the path is too long",
    EMFILE: "too many open files",
    EIO: "input/output error",
  };
  const isFileError = typeof code === "string" && (error as NodeJS.ErrnoException).syscall !== undefined;
  if (isFileError || reasons[code ?? ""] !== undefined) {
    const reason = reasons[code!] ?? (error as Error).message;
    return new HubError("storage", `cannot write ${path}: ${reason}; choose another cache folder`, { cause: error });
  }
  return error;
}

/** 1536 -> "1.5 kB"; for messages. */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}
