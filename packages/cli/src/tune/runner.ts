import { rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { findCheckpoint } from "@tslm/lora";
import { JobQueue, packFolder, resultSchema, type TrialJob, type TrialResult, unpackFolder } from "@tslm/tune";
import { CommandError } from "../errors.ts";
import type { Context } from "../run.ts";
import { CONVERTED_DATA, DEFAULT_DATA } from "../train/data.ts";
import { FILE_FLAGS, type QueuedTrial } from "./queued-trial.ts";
import { Slots } from "./slots.ts";
import { runTrial, type TrialPlan } from "./trial.ts";

/** Where the trials of a search are trained. */
export interface Runner {
  run(job: TrialJob, signal: AbortSignal): Promise<TrialResult>;
  /** Trainings that may run at once now. */
  slots(results: readonly TrialResult[]): number;
  /** A result is on the disk. */
  saved(result: TrialResult): Promise<void>;
  close(): Promise<void>;
}

export interface RunnerOptions {
  readonly plan: TrialPlan;
  /** The search's folder. */
  readonly home: string;
  readonly folderOf: (trial: number) => string;
  readonly parallel?: number;
}

/** Trains on this machine. */
export function localRunner({ plan, home, folderOf, parallel, threads }: RunnerOptions & { threads?: number }): Runner {
  const slots = new Slots({ parallel, threads });
  let known: readonly TrialResult[] = [];
  return {
    run: (job, signal) =>
      runTrial(
        { ...plan, job, folder: folderOf(job.trial), runs: join(home, "runs"), threads: slots.threads(known) },
        signal,
      ),
    slots(results) {
      known = results;
      return slots.count(results);
    },
    saved: async () => {},
    close: async () => {},
  };
}

/** How often the workers are counted. */
const COUNT_MS = 2000;

/** Lets workers train, over a queue. @throws QueueError where none answers */
export async function queueRunner(
  { terminal }: Context,
  { plan, folderOf, parallel, url, id }: RunnerOptions & { url: string; id: string },
): Promise<Runner> {
  const warn = (sentence: string): void => terminal.warn(sentence);
  const queue = await JobQueue.open(url, {
    onLost: warn,
    onBack: (sentence) => terminal.say(sentence),
    onRepeat: warn,
  });
  const files = await readFiles(plan.fixed);
  const fixed = plan.fixed.filter(([flag]) => !(flag in files));
  const jobId = ({ trial, rung }: Pick<TrialJob, "trial" | "rung">): string => `${id}-${trial}-${rung}`;
  let workers = await queue.workers();
  const say = (): void => {
    if (workers > 0) terminal.say(`Workers: ${workers}`);
    else terminal.say("No worker is there yet. On each machine:  bun run worker --queue URL");
  };
  say();
  const counting = setInterval(async () => {
    const before = workers;
    workers = await queue.workers().catch(() => before);
    if (workers !== before) say();
  }, COUNT_MS);
  return {
    async run(job, signal) {
      const folder = folderOf(job.trial);
      const isGoingOn = job.rung > 0 && (await findCheckpoint(folder).catch(() => undefined)) !== undefined;
      const archive = isGoingOn ? await packFolder(folder) : undefined;
      const payload = { job, fixed, keyTexts: plan.keyTexts, files } satisfies QueuedTrial;
      const answer = await queue.run(jobId(job), payload, archive, signal);
      const parsed = resultSchema.safeParse(answer.result);
      const isThis = parsed.data?.trial === job.trial && parsed.data.rung === job.rung;
      if (!parsed.success || !isThis)
        throw new CommandError("a worker's answer is not one of this program's; use the same version on all machines");
      if (answer.archive) await unpackFolder(answer.archive, folder);
      else await rm(folder, { recursive: true, force: true });
      return parsed.data;
    },
    slots: () => Math.min(parallel ?? Number.POSITIVE_INFINITY, Math.max(1, workers)),
    saved: (result) => queue.forget(jobId(result)),
    async close() {
      clearInterval(counting);
      await queue.close();
    },
  };
}

/** The files that the options name, with what is in them. */
async function readFiles(fixed: TrialPlan["fixed"]): Promise<QueuedTrial["files"]> {
  const given = fixed.filter(([flag]) => (FILE_FLAGS as readonly string[]).includes(flag));
  const all = given.some(([flag]) => flag === "--data") ? given : [...given, ["--data", DEFAULT_DATA] as const];
  const files: QueuedTrial["files"] = {};
  for (const [flag, path] of all) {
    // The data that ships with the program has been cleaned by now.
    const file = path === DEFAULT_DATA ? CONVERTED_DATA : path!;
    files[flag] = { name: basename(file), base64: Buffer.from(await Bun.file(file).bytes()).toString("base64") };
  }
  return files;
}
