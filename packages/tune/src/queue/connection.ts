import { Redis } from "ioredis";

/** A queue that cannot be reached or used; a sentence for people. */
export class QueueError extends Error {
  override readonly name = "QueueError";
}

/** Told when the connection is lost, and when it is there again. */
export interface ConnectionEvents {
  onLost?(sentence: string): void;
  onBack?(sentence: string): void;
}

/** Longest wait for an answer to the first call. */
const CONNECT_MS = 5000;
/** Longest wait between two tries to connect again. */
const RETRY_MS = 2000;

/** A queue's address as it may be shown: without its password. */
export function shownUrl(url: string): string {
  const { protocol, host, pathname } = new URL(url);
  return `${protocol}//${host}${pathname === "/" ? "" : pathname}`;
}

/**
 * Connects to Redis or Valkey. A connection that breaks later is made again, for as long as it takes, and what was asked meanwhile waits.
 *
 * @param url `redis://[[user]:password@]host[:port][/database]`, or `rediss://` for TLS
 * @throws QueueError where nothing answers, or refuses
 */
export async function connect(url: string, { onLost, onBack }: ConnectionEvents = {}): Promise<Redis> {
  if (!/^rediss?:\/\/[^/]/.test(url) || !URL.canParse(url)) {
    throw new QueueError(`${url}: a queue's address is such as redis://localhost:6379 or rediss://:PASSWORD@HOST:6379`);
  }
  const shown = shownUrl(url);
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    maxRetriesPerRequest: null,
    retryStrategy: (times) => (isUp ? Math.min(RETRY_MS, 100 * times) : null),
  });
  let isUp = false;
  let problem: Error | undefined;
  redis.on("error", (error) => {
    problem ??= error;
  });
  try {
    await redis.connect();
    await redis.ping();
  } catch (error) {
    redis.disconnect();
    throw new QueueError(explain(shown, problem ?? (error as Error)));
  }
  isUp = true;
  let isLost = false;
  redis.on("close", () => {
    if (isLost || redis.status === "end") return;
    isLost = true;
    onLost?.(`the connection to ${shown} is lost; trying again until it is back`);
  });
  redis.on("ready", () => {
    if (!isLost) return;
    isLost = false;
    onBack?.(`the connection to ${shown} is back`);
  });
  return redis;
}

function explain(shown: string, { message }: Error): string {
  if (/NOAUTH|WRONGPASS|invalid password|ERR AUTH/i.test(message)) {
    return `${shown} refuses the password; write redis://:PASSWORD@HOST:PORT`;
  }
  return `${shown}: no queue answers there (${message}); start Redis or Valkey, or correct the address`;
}
