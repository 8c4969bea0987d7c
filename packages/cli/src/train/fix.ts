import type { Command } from "@commander-js/extra-typings";
import { type Changes, type Diagnosis, isAnswered, type SampleAnswer, VERDICTS } from "@tslm/lora";
import { CommandError } from "../errors.ts";
import { shellWord } from "../terminal.ts";
import type { TrainCommandOptions } from "./options.ts";
import { fileOptions, keyOf, valueSchema } from "./run-file/schema.ts";

/** Runs after the first with `--fix` alone. */
const USUAL_TRIES = 3;

/** A run was given up on the way; its diagnosis says why. */
export class GivenUpError extends CommandError {
  readonly diagnosis: Diagnosis;

  constructor(step: number, diagnosis: Diagnosis) {
    super(`training was given up after step ${step}. ${diagnosis.reasons.join(" ")} Nothing was saved`);
    this.diagnosis = diagnosis;
  }
}

/** Where an adapter is put with which the model is worse than without, so that it can be looked at. */
export function rejectedFolder(out: string): string {
  return `${out.replace(/[/\\]+$/, "")}.rejected`;
}

/** A run came to its end and broke the model; its diagnosis says how. */
export class BrokenModelError extends CommandError {
  constructor(out: string, { verdict }: Diagnosis) {
    super(
      `training broke the model (${verdict}). ${out} is as it was before; this run's adapter was put aside in ${rejectedFolder(out)}`,
    );
  }
}

/** How good an adapter is, to compare those of several tries: by its verdict, then by answers, then by its loss. */
export type Score = readonly [verdict: number, answered: number, loss: number];

/** The score of a run that ended. */
export function scoreOf({ verdict }: Diagnosis, samples: readonly SampleAnswer[], lastLoss: number): Score {
  const answered = samples.filter(({ prompt, expected, after }) => expected && isAnswered(after, expected, prompt));
  return [-VERDICTS.indexOf(verdict), answered.length, -lastLoss];
}

/** Is a score above another, or the only one? */
export function isBetter(score: Score, than: Score | undefined): boolean {
  if (than === undefined) return true;
  const at = score.findIndex((part, i) => part !== than[i]);
  return at >= 0 && score[at] > than[at];
}

/** How often `--fix` may train again. */
export function triesOf({ fix }: Pick<TrainCommandOptions, "fix">): number {
  return fix === undefined ? 0 : fix === true ? USUAL_TRIES : fix;
}

/**
 * The options with a diagnosis' changes made; undefined where nothing would be another.
 *
 * @param command whose options they are
 */
export function withChanges(
  // biome-ignore lint/suspicious/noExplicitAny: whatever options it has.
  command: Command<any, any, any>,
  options: TrainCommandOptions,
  changes: Changes,
): TrainCommandOptions | undefined {
  const all = fileOptions(command as never);
  const changed: Record<string, unknown> = { ...options };
  for (const [key, value] of Object.entries(changes)) {
    const option = all.find((one) => keyOf(one) === key)!;
    const name = option.attributeName();
    const parsed = valueSchema(option).parse(value);
    // The last repetition that fits a row counts.
    changed[name] = key === "repeat" ? [...(options.repeat ?? []), ...(parsed as unknown[])] : parsed;
  }
  const isSame = JSON.stringify(changed) === JSON.stringify(options);
  return isSame ? undefined : (changed as unknown as TrainCommandOptions);
}

/** The changes as they would stand on the command line. */
export function flagsOf(changes: Changes): string {
  return Object.entries(changes)
    .flatMap(([key, value]) => [value].flat().map((one) => `--${key} ${shellWord(String(one))}`))
    .join(" ");
}
