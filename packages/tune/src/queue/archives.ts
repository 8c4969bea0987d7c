import { createHash, randomUUID } from "node:crypto";
import type { Redis } from "ioredis";
import { z } from "zod";
import { QueueError } from "./connection.ts";

/** Largest archive that goes through the queue: Redis holds it in memory. */
export const MAX_ARCHIVE_BYTES = 64 * 2 ** 20;
/** What nobody fetches is forgotten after so many seconds. */
export const KEPT_SECONDS = 7 * 24 * 3600;

/** Where in Redis the files of a trial lie. */
export const archiveSchema = z.object({ key: z.string(), sha256: z.string() });
export type ArchiveKey = z.output<typeof archiveSchema>;

const digest = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Puts an archive under a key of its own. @throws QueueError when it is too large */
export async function putArchive(redis: Redis, bytes: Uint8Array): Promise<ArchiveKey> {
  if (bytes.length > MAX_ARCHIVE_BYTES) {
    throw new QueueError(
      `the adapter has ${(bytes.length / 2 ** 20).toFixed(0)} MiB and ${MAX_ARCHIVE_BYTES / 2 ** 20} MiB may go through the queue; choose lower ranks or fewer --targets`,
    );
  }
  const key = `tslm-tune-archive:${randomUUID()}`;
  await redis.set(key, Buffer.from(bytes), "EX", KEPT_SECONDS);
  return { key, sha256: digest(bytes) };
}

/** The bytes of an archive; undefined where it is not there any more. @throws QueueError when they are others */
export async function getArchive(redis: Redis, { key, sha256 }: ArchiveKey): Promise<Uint8Array | undefined> {
  const bytes = await redis.getBuffer(key);
  if (bytes === null) return undefined;
  if (digest(bytes) !== sha256) throw new QueueError(`${key}: its content has changed on the way`);
  return bytes;
}
