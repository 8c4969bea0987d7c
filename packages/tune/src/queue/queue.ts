import { type Job, Queue } from "bullmq";
import type { Redis } from "ioredis";
import { z } from "zod";
import { archiveSchema, getArchive, KEPT_SECONDS, putArchive } from "./archives.ts";
import { type ConnectionEvents, connect, QueueError } from "./connection.ts";

/** The name under which BullMQ keeps the jobs. */
export const QUEUE_NAME = "tslm-tune";

const FORMAT = 1;
/** Times a job that failed for another reason than its settings is tried. */
const ATTEMPTS = 2;
/** Largest data of a job. */
export const MAX_JOB_BYTES = 32 * 2 ** 20;
/** How often the state of a job is asked for: an event could be missed while the connection is lost. */
const LOOK_MS = 300;

export const queuedSchema = z.object({
  format: z.literal(FORMAT),
  payload: z.unknown(),
  /** Files that the job begins with. */
  archive: archiveSchema.optional(),
});
export const answerSchema = z.object({ result: z.unknown(), archive: archiveSchema.optional() });

/** What a worker has made of a job. */
export interface QueueAnswer {
  readonly result: unknown;
  readonly archive: Uint8Array | undefined;
}

/** The side of the queue that gives jobs. */
export class JobQueue {
  readonly #redis: Redis;
  readonly #queue: Queue;
  readonly #onRepeat: (sentence: string) => void;

  private constructor(redis: Redis, onRepeat: (sentence: string) => void) {
    this.#redis = redis;
    this.#queue = new Queue(QUEUE_NAME, { connection: redis });
    // Told by the connection itself.
    this.#queue.on("error", () => {});
    this.#onRepeat = onRepeat;
  }

  /** @throws QueueError where nothing answers */
  static async open(
    url: string,
    events: ConnectionEvents & { onRepeat: (sentence: string) => void },
  ): Promise<JobQueue> {
    return new JobQueue(await connect(url, events), events.onRepeat);
  }

  /** Workers that are there now. */
  workers(): Promise<number> {
    return this.#queue.getWorkersCount();
  }

  /**
   * Gives a job and waits for its answer. A job with this id that is there already, from before, is not given again: its answer is
   * taken. It stays in the queue until {@link forget}, so that an answer is not lost with the process that asked.
   *
   * @throws QueueError when the job failed; the signal's reason: a job that no worker has taken yet is then taken back
   */
  async run(id: string, payload: unknown, archive: Uint8Array | undefined, signal: AbortSignal): Promise<QueueAnswer> {
    const aborted = Promise.withResolvers<never>();
    const abort = (): void => aborted.reject(signal.reason);
    signal.throwIfAborted();
    signal.addEventListener("abort", abort, { once: true });
    try {
      // Whatever is asked of a lost connection waits; an abort does not.
      return await Promise.race([this.#await(id, payload, archive, signal), aborted.promise]);
    } finally {
      signal.removeEventListener("abort", abort);
      if (signal.aborted) void this.#takeBack(id);
    }
  }

  /** Removes a job whose answer is in safety. */
  async forget(id: string): Promise<void> {
    const job = await this.#find(id);
    if (job === undefined) return;
    const keys = [
      queuedSchema.safeParse(job.data).data?.archive,
      answerSchema.safeParse(job.returnvalue).data?.archive,
    ];
    for (const archive of keys) if (archive) await this.#redis.del(archive.key);
    await job.remove().catch(() => {});
  }

  async close(): Promise<void> {
    if (this.#redis.status === "ready") await this.#queue.close();
    this.#redis.disconnect();
  }

  async #await(
    id: string,
    payload: unknown,
    archive: Uint8Array | undefined,
    signal: AbortSignal,
  ): Promise<QueueAnswer> {
    const give = async (): Promise<void> => {
      const data = { format: FORMAT, payload, ...(archive && { archive: await putArchive(this.#redis, archive) }) };
      const size = JSON.stringify(data).length;
      if (size > MAX_JOB_BYTES) {
        throw new QueueError(
          `the data has ${size} bytes and ${MAX_JOB_BYTES} may go through the queue; give fewer rows`,
        );
      }
      const kept = { age: KEPT_SECONDS };
      await this.#queue.add("trial", data, {
        jobId: id,
        attempts: ATTEMPTS,
        removeOnComplete: kept,
        removeOnFail: kept,
      });
    };
    const known = await this.#find(id);
    // What failed in an earlier call is tried again.
    if (known && (await known.isFailed())) await this.forget(id);
    if (!known || !(await this.#find(id))) await give();
    for (;;) {
      signal.throwIfAborted();
      const job = await this.#find(id);
      if (job === undefined) {
        this.#onRepeat(
          "the queue has lost a trial, as one does that is started again without its data; it is given again",
        );
        await give();
      } else if (await job.isCompleted()) {
        const answer = answerSchema.safeParse((await this.#find(id))?.returnvalue);
        if (!answer.success) throw new QueueError(`job ${id}: its answer is not one of this program's`);
        const { result, archive: key } = answer.data;
        const bytes = key && (await getArchive(this.#redis, key));
        if (!key || bytes) return { result, archive: bytes };
        await this.forget(id);
      } else if (await job.isFailed()) {
        throw new QueueError(explainFailure((await this.#find(id))?.failedReason));
      }
      await Bun.sleep(LOOK_MS);
    }
  }

  #find(id: string): Promise<Job | undefined> {
    return this.#queue.getJob(id);
  }

  async #takeBack(id: string): Promise<void> {
    const job = await this.#find(id).catch(() => undefined);
    if (job && (await job.isWaiting().catch(() => false))) await this.forget(id).catch(() => {});
  }
}

/** BullMQ's own reason in words for people; a worker's is a sentence already. */
function explainFailure(reason = "a worker gave it up without a reason"): string {
  if (!/stalled more than/.test(reason)) return reason;
  return "too many workers ended in the middle of one trial, perhaps because it needs more memory than they have; start one with more, or choose lower ranks";
}
