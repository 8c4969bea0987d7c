import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHECKPOINTS_FOLDER } from "@tslm/lora";
import { MAX_ARCHIVE_BYTES, packFolder, type QueueAnswer, settingsSchema, unpackFolder } from "@tslm/tune";
import { z } from "zod";
import { CommandError } from "../errors.ts";
import { type Fixed, runTrial } from "./trial.ts";

/** Options whose files go with a job. */
export const FILE_FLAGS = ["--data", "--validation", "--config"] as const;

/** Options that no job may set: they name places on the worker's machine, or are the worker's own. */
const REFUSED: readonly string[] = [
  ...[
    "--out",
    "--runs",
    "--threads",
    "--init",
    "--init-adapter",
    "--resume",
    "--ui",
    "--ui-port",
    "--json",
    "--debug",
    "--fix",
    "--estimate",
  ],
  ...FILE_FLAGS,
];

/** A trial as it goes through the queue. */
export const queuedTrialSchema = z.object({
  job: z.object({ trial: z.int().min(0), rung: z.int().min(0), epochs: z.int().min(1), settings: settingsSchema }),
  fixed: z
    .array(
      z
        .tuple([
          z
            .string()
            .regex(/^--[a-z][a-z-]*$/)
            .refine((flag) => !REFUSED.includes(flag), "an option that a job may not set"),
          z.string().nullable(),
        ])
        .readonly(),
    )
    .readonly(),
  keyTexts: z.array(z.string()).readonly(),
  /** By the option that takes them. */
  files: z.record(z.string(), z.object({ name: z.string().regex(/^[^/\\\0]{1,255}$/), base64: z.base64() })),
});
export type QueuedTrial = z.input<typeof queuedTrialSchema>;

export interface QueuedTrialOptions {
  readonly threads: number;
  /** The base model on this machine; the job's unless given. */
  readonly model?: string;
  /** Called when the job is understood. */
  onTrial(trial: z.output<typeof queuedTrialSchema>): void;
}

/**
 * Trains a trial that came through the queue, in a folder of its own that is removed afterwards.
 *
 * @returns the result, and the trial's folder: adapter and checkpoint; where that is too large, the adapter
 * @throws CommandError for a job that is not understood, and what {@link runTrial} throws
 */
export async function runQueuedTrial(
  payload: unknown,
  archive: Uint8Array | undefined,
  { threads, model, onTrial }: QueuedTrialOptions,
  signal: AbortSignal,
): Promise<QueueAnswer> {
  const parsed = queuedTrialSchema.safeParse(payload);
  if (!parsed.success) {
    const [{ path, message }] = parsed.error.issues;
    throw new CommandError(
      `the job is not understood: ${path.join(".")}: ${message}; use the same version on all machines`,
    );
  }
  const { job, fixed, keyTexts, files } = parsed.data;
  onTrial(parsed.data);
  const home = await mkdtemp(join(tmpdir(), "tslm-worker-"));
  try {
    const given: [string, string][] = [];
    for (const flag of FILE_FLAGS) {
      const file = files[flag];
      if (file === undefined) continue;
      const path = join(home, `${flag.slice(2)}-${file.name}`);
      await writeFile(path, Buffer.from(file.base64, "base64"));
      given.push([flag, path]);
    }
    const others = model === undefined ? fixed : fixed.filter(([flag]) => flag !== "--model");
    const all: Fixed = [...others, ...given, ...(model === undefined ? [] : [["--model", model] as const])];
    const folder = join(home, "trial");
    if (archive) await unpackFolder(archive, folder);
    const result = await runTrial({ job, fixed: all, keyTexts, folder, runs: join(home, "runs"), threads }, signal);
    if (!(await stat(folder).catch(() => undefined)) || result.status === "failed")
      return { result, archive: undefined };
    const whole = await packFolder(folder);
    const isAdapter = (name: string): boolean => !name.startsWith(`${CHECKPOINTS_FOLDER}/`);
    // Without its checkpoint the trial's next round begins at the beginning.
    return { result, archive: whole.length <= MAX_ARCHIVE_BYTES ? whole : await packFolder(folder, isAdapter) };
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}
