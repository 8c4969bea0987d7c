import { join } from "node:path";
import type { Command } from "@commander-js/extra-typings";
import { adapterFolderOf, type Checkpoint, checkResumable, findCheckpoint, type RunSettings } from "@tslm/lora";
import { z } from "zod";
import { CommandError } from "../errors.ts";
import { flagOf } from "../options.ts";
import type { Context } from "../run.ts";
import { settingsOf, type TrainCommandOptions } from "./options.ts";
import { OF_THE_CALL } from "./own-options.ts";

/** What of the command a checkpoint remembers. */
const rememberedSchema = z.object({
  /** All options that had a value. */
  options: z.record(z.string(), z.unknown()),
  /** The answers before training. */
  before: z.array(
    z.object({
      ...{ question: z.string(), expected: z.string().optional(), answer: z.string() },
      entropy: z.number().optional(),
    }),
  ),
  device: z.object({ name: z.string(), isa: z.string() }),
  /** The folder in which the run is written down, seen from the adapter's. */
  run: z.string().optional(),
});
export type Remembered = z.output<typeof rememberedSchema>;

/** Options that a resumed run takes from the call. */
const FROM_THE_CALL = [...OF_THE_CALL, "out"] as const satisfies (keyof TrainCommandOptions)[];
/** Options that may be others when a run is gone on with: files, whose content is compared, and what changes no number. */
const MAY_DIFFER = [
  ...["data", "model", "validation"],
  ...["device", "threads", "memoryLimit", "fix", "saveEvery", "runs", "ui", "uiPort", "sampleEvery"],
] as const satisfies (keyof TrainCommandOptions)[];

/** A run that is gone on with. */
export interface ResumedRun {
  checkpoint: Checkpoint;
  remembered: Remembered;
}

const has = (list: readonly string[], name: string): boolean => list.includes(name);

/**
 * The options of a call: those of the run that it goes on with, and what the call itself says. Without `--resume` they
 * are the call's.
 *
 * @throws CheckpointError when there is nothing to go on from
 */
export async function resumedRun(
  { terminal }: Context,
  // biome-ignore lint/suspicious/noExplicitAny: whatever options it has.
  command: Command<any, any, any>,
  given: TrainCommandOptions,
): Promise<{ options: TrainCommandOptions; resumed?: ResumedRun }> {
  if (given.resume === undefined) return { options: given };
  const { checkpoint, broken } = await findCheckpoint(given.resume === true ? given.out : given.resume);
  for (const problem of broken) terminal.warn(`${problem}; going on from the checkpoint before it`);
  const parsed = rememberedSchema.safeParse(checkpoint.extra);
  if (!parsed.success) throw new CommandError(`${checkpoint.folder} was not made by this command; begin anew`);
  const isGiven = (name: string): boolean => {
    const source = command.getOptionValueSource(name);
    return source !== undefined && source !== "default";
  };
  const options: Record<string, unknown> = { ...parsed.data.options };
  for (const [name, value] of Object.entries(given)) {
    if (isGiven(name) || has(FROM_THE_CALL, name)) options[name] = value;
  }
  if (!isGiven("out")) options.out = given.resume === true ? given.out : adapterFolderOf(checkpoint);
  return { options: options as unknown as TrainCommandOptions, resumed: { checkpoint, remembered: parsed.data } };
}

/** Refuses to go on with another model, other data or settings, and says what the run goes on from. */
export function checkResumedRun(
  { terminal }: Context,
  { checkpoint, remembered }: ResumedRun,
  now: RunSettings,
  { total, device }: { total: number; device: { name: string; isa: string } },
): void {
  checkResumable(checkpoint, now, flagOf);
  terminal.say(`Going on from step ${checkpoint.step} of ${total}, saved in ${checkpoint.folder}`);
  const { name, isa } = remembered.device;
  if (name === device.name && isa === device.isa) return;
  terminal.warn(
    `the steps so far were computed by ${name} (${isa}), those to come by ${device.name} (${device.isa}), which round differently in the last digits`,
  );
}

/** The folder in which the run was written down so far. */
export function runFolderOf({ checkpoint, remembered: { run } }: ResumedRun): string | undefined {
  return run === undefined ? undefined : join(adapterFolderOf(checkpoint), run);
}

/** What a checkpoint remembers of the options. */
export function rememberedOptions(options: TrainCommandOptions): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => !has(FROM_THE_CALL, name)));
}

/** The options that decide the numbers of a run, by their names in {@link TrainCommandOptions}. */
export function decidingOptions(options: TrainCommandOptions): RunSettings["options"] {
  const all = Object.entries({ ...options, ...settingsOf(options) });
  return Object.fromEntries(all.filter(([name]) => !has([...FROM_THE_CALL, ...MAY_DIFFER], name)));
}
