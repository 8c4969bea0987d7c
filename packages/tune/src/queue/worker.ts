import { Worker } from "bullmq";
import { getArchive, putArchive } from "./archives.ts";
import { type ConnectionEvents, connect, QueueError } from "./connection.ts";
import { QUEUE_NAME, type QueueAnswer, queuedSchema } from "./queue.ts";

/** A job that dies with so many workers is given up: it may be what kills them. */
const MOST_DEATHS = 10;

export interface WorkOptions extends ConnectionEvents {
  readonly url: string;
  /** So many seconds without a sign of life of its worker, and a job is another's. */
  readonly lockSeconds: number;
  /** Does a job. What it throws is the job's failure. */
  handle(payload: unknown, archive: Uint8Array | undefined): Promise<QueueAnswer>;
  /** Ends the work; a job that is under way goes to another worker. */
  readonly signal: AbortSignal;
  /** The worker waits for jobs. */
  onReady(): void;
}

/**
 * Takes jobs from the queue, one at a time, until the signal aborts. A worker that is killed loses no job: its lock on it ends, and
 * the next worker that looks takes it.
 *
 * @throws QueueError where no queue answers; the signal's reason
 */
export async function workOn({ url, lockSeconds, handle, signal, onReady, ...events }: WorkOptions): Promise<never> {
  const redis = await connect(url, events);
  const worker = new Worker(
    QUEUE_NAME,
    async ({ data }) => {
      const queued = queuedSchema.safeParse(data);
      if (!queued.success)
        throw new QueueError("the job was not made by this version of the program; use the same on all machines");
      const { payload, archive: key } = queued.data;
      const { result, archive } = await handle(payload, key && (await getArchive(redis, key)));
      return { result, ...(archive && { archive: await putArchive(redis, archive) }) };
    },
    {
      connection: redis,
      concurrency: 1,
      lockDuration: 1000 * lockSeconds,
      stalledInterval: 500 * lockSeconds,
      maxStalledCount: MOST_DEATHS,
      drainDelay: 1,
    },
  );
  // Told by the connection itself.
  worker.on("error", () => {});
  await worker.waitUntilReady();
  onReady();
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await aborted.promise;
  } finally {
    // Not in order: the job that is under way is to be another worker's.
    redis.disconnect();
  }
}
