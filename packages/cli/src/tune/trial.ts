import { rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { CheckpointError, findCheckpoint, isAnswered, keyFacts, says } from "@tslm/lora";
import type { Settings, TrialJob, TrialResult } from "@tslm/tune";
import { beforeAndAfter, readRun } from "@tslm/watch";
import { z } from "zod";
import { CommandError } from "../errors.ts";

/** An option of `train` as it was given: flag and value. */
export type Fixed = readonly (readonly [flag: string, value: string | null])[];

/** What the trainings of a search have in common. */
export interface TrialPlan {
  /** Options that all share. */
  readonly fixed: Fixed;
  /** Texts that name the rows of the sample questions, for `--repeat`. */
  readonly keyTexts: readonly string[];
}

/** One training to do. */
export interface TrialCall extends TrialPlan {
  readonly job: TrialJob;
  /** Where the trial's adapter and checkpoints are. */
  readonly folder: string;
  /** Where the run is written down. */
  readonly runs: string;
  readonly threads: number;
}

/** The options that make a training of this kind one with these settings. */
export function settingFlags(
  { rank, alpha, lr, repeat }: Settings,
  epochs: number,
  keyTexts: readonly string[],
): Fixed {
  return [
    ["--rank", String(rank)],
    ["--alpha", String(alpha)],
    ["--lr", String(lr)],
    ["--epochs", String(epochs)],
    // One of a user's own for the same rows stands before these, and the last holds.
    ...(repeat === 1 ? [] : keyTexts.map((text) => ["--repeat", `${text}=${repeat}`] as const)),
  ];
}

/** The words of options on a command line. */
export function wordsOf(options: Fixed): string[] {
  return options.flatMap(([flag, value]) => (value === null ? [flag] : [`${flag}=${value}`]));
}

/** What of the result of `train --json` is used here. */
const trainedSchema = z.object({
  steps: z.array(z.object({ epoch: z.int(), loss: z.number() })).min(1),
  best: z.object({ validation_loss: z.number() }).optional(),
  peak_rss_bytes: z.number(),
  rss_file_bytes: z.number(),
  run: z.string().optional(),
  samples: z.array(z.object({ before: z.string(), after: z.string() })),
  diagnosis: z.object({ verdict: z.string() }),
});
/** `isOfSettings`: the settings are to blame, so the trial has failed and the search goes on. */
const failedSchema = z.object({
  error: z.object({ name: z.string(), message: z.string(), isOfSettings: z.boolean() }),
});
/** Before its error a training tells what it means. */
const diagnosedSchema = z.object({ diagnosis: z.object({ verdict: z.string() }) });

/** So long a process that was asked to stop may take to save a checkpoint. */
const GRACE_MS = 20_000;

/**
 * Trains a trial up to the epochs of its job, in a process of its own. It goes on from the trial's checkpoint where the schedule
 * permits, and begins anew where not.
 *
 * @throws CommandError for what is not the settings' fault; the signal's reason when it aborts, with a checkpoint saved
 */
export async function runTrial(call: TrialCall, signal: AbortSignal): Promise<TrialResult> {
  const started = performance.now();
  signal.throwIfAborted();
  let ended = await trainingProcess(await argumentsOf(call), signal);
  if (ended.error?.name === CheckpointError.name) {
    await rm(call.folder, { recursive: true, force: true });
    ended = await trainingProcess(await argumentsOf(call), signal);
  }
  const { trial, rung, epochs } = call.job;
  const common = { trial, rung, epochs, seconds: (performance.now() - started) / 1000 };
  if (ended.error?.isOfSettings) {
    const { message, verdict } = ended.error;
    return { ...common, status: "failed", error: message, verdict, steps: 0, samples: [] };
  }
  if (ended.error) throw new CommandError(`trial ${trial + 1}: ${ended.error.message}`);
  const { steps, best, peak_rss_bytes, rss_file_bytes, run, diagnosis } = ended.result;
  // The log of a run that went on on another machine does not begin with the answers before training; the result has them.
  const told = run === undefined ? [] : beforeAndAfter(await readRun(run));
  const samples = told.map(({ question, expected }, i) => ({ question, expected, ...ended.result.samples[i] }));
  const last = steps.filter(({ epoch }) => epoch === steps.at(-1)!.epoch);
  return {
    ...{ ...common, status: "done", steps: steps.length, verdict: diagnosis.verdict },
    answered: answeredShare(samples),
    loss: last.reduce((sum, { loss }) => sum + loss, 0) / last.length,
    validation_loss: best?.validation_loss,
    memory_bytes: Math.max(0, peak_rss_bytes - rss_file_bytes),
    samples,
  };
}

/** Share of the facts that the answers say, each question counting the same; undefined where the data answers none. */
function answeredShare(
  samples: readonly { question: string; expected?: string; after?: string }[],
): number | undefined {
  const shares = samples.flatMap(({ question, expected, after = "" }) => {
    if (expected === undefined) return [];
    const facts = keyFacts(expected, question);
    if (facts.length === 0) return [Number(isAnswered(after, expected, question))];
    return [facts.filter((fact) => says(after, fact)).length / facts.length];
  });
  return shares.length === 0 ? undefined : shares.reduce((sum, x) => sum + x, 0) / shares.length;
}

async function argumentsOf({ fixed, keyTexts, job, folder, runs, threads }: TrialCall): Promise<string[]> {
  const { settings, epochs } = job;
  const scheduler = fixed.findLast(([flag]) => flag === "--scheduler")?.[1];
  const hasWarmup = fixed.some(([flag, value]) => flag === "--warmup" && Number(value) > 0);
  const mayGrow = scheduler === "constant" && !hasWarmup;
  const call: [string, string | null][] = [
    ["--runs", runs],
    ["--threads", String(threads)],
    ["--json", null],
  ];
  const found = await findCheckpoint(folder).catch(() => undefined);
  const had = found && Number(found.checkpoint.settings.options.epochs);
  if (found && had && (had === epochs || (mayGrow && had < epochs))) {
    const perEpoch = Math.max(1, Math.round(found.checkpoint.total / had));
    const grown = mayGrow ? [["--epochs", String(epochs)] as const, ["--save-every", String(perEpoch)] as const] : [];
    // Where files are may have changed; on another machine it has.
    const places = fixed.filter(([flag]) => flag === "--data" || flag === "--validation" || flag === "--model");
    return wordsOf([["--resume", folder], ...places, ...grown, ...call]);
  }
  await rm(folder, { recursive: true, force: true });
  // A number of steps that is never reached: the checkpoint of the end is the one that the next rung begins with.
  const save = mayGrow ? [["--save-every", "1000000000"] as const] : [];
  return wordsOf([...fixed, ...settingFlags(settings, epochs, keyTexts), ["--out", folder], ...save, ...call]);
}

type Ended =
  | { readonly result: z.output<typeof trainedSchema>; readonly error?: undefined }
  | { readonly error: { name: string; message: string; isOfSettings: boolean; verdict?: string } };

async function trainingProcess(argv: readonly string[], signal: AbortSignal): Promise<Ended> {
  const script = fileURLToPath(new URL("./trial-process.ts", import.meta.url));
  const child = Bun.spawn([process.execPath, script, ...argv], { stdin: "pipe", stdout: "pipe", stderr: "pipe" });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stop = (): void => {
    child.kill("SIGTERM");
    timer = setTimeout(() => child.kill("SIGKILL"), GRACE_MS);
  };
  signal.addEventListener("abort", stop, { once: true });
  try {
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    await child.exited;
    signal.throwIfAborted();
    return read(stdout, stderr, child);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
    child.kill("SIGKILL");
  }
}

function read(stdout: string, stderr: string, { signalCode }: Bun.Subprocess): Ended {
  const [json, before] = stdout.trim().split("\n").reverse().map(parsed);
  const result = trainedSchema.safeParse(json);
  if (result.success) return { result: result.data };
  // One that broke the model has a result in front of its error.
  const ended = trainedSchema.safeParse(before);
  if (ended.success) return { result: ended.data };
  const failed = failedSchema.safeParse(json);
  const told = stderr.split("\n").findLast((line) => line.startsWith("error: "));
  if (failed.success) {
    const { error } = failed.data;
    const verdict = diagnosedSchema.safeParse(before).data?.diagnosis.verdict;
    // Commander has told its own.
    return { error: { ...error, message: told?.slice("error: ".length) ?? error.message, verdict } };
  }
  const how =
    signalCode === "SIGKILL"
      ? "its process was killed, perhaps because memory ran out: try fewer at once, --parallel 1"
      : `its process ended without a result: ${told ?? stderr.trim().split("\n").at(-1)}`;
  return { error: { name: "Error", message: how, isOfSettings: false } };
}

/** A line's value; undefined for one that is no JSON. */
function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
