import type { Diagnosis, SampleAnswer, TrainResult, Verdict } from "@tslm/lora";
import { duration } from "../progress.ts";
import type { Context } from "../run.ts";
import { table } from "../table.ts";
import { shellWord } from "../terminal.ts";

/** What is told at the end. */
export interface Report {
  out: string;
  result: TrainResult;
  /** Steps that the run would have without an early end. */
  total: number;
  samples: readonly SampleAnswer[];
  diagnosis: Diagnosis;
  /** Undefined where none could be written. */
  reportFile: string | undefined;
  /** Where the adapter is: in `out`, aside, or undefined where an earlier one in `out` is better. */
  folder: string | undefined;
}

const HEADLINE = {
  learned: "Learned.",
  underfitting: "Not learned yet (underfitting).",
  memorised: "Known by heart only (memorised).",
  "never-stops": "Learned, but the answers do not stop.",
  collapse: "The model broke (collapse).",
  divergence: "The loss rose (divergence).",
  unchanged: "Nothing was learned: the adapter is unchanged.",
  nan: "The numbers broke (NaN).",
} satisfies Record<Verdict, string>;

/** What went right or wrong, and what to change. */
export function tellDiagnosis({ terminal }: Context, { verdict, reasons, advice }: Diagnosis): void {
  const { green, yellow } = terminal.colors;
  terminal.say((verdict === "learned" ? green : yellow)([HEADLINE[verdict], ...reasons].join(" ")));
  for (const line of advice) terminal.say(`  - ${line}`);
}

const WHY_STOPPED = {
  "early-stop": "the validation loss had not improved for the evaluations that --early-stop allows",
  learned: "every sample question was answered",
  asked: "it was asked to",
  hopeless: "there was no hope left",
};

/** Why the run ended before its last step, and which step's weights were kept. */
function describeEnd({ steps, best, stopped, step }: TrainResult, total: number): string[] {
  const lines: string[] = [];
  if (stopped !== undefined) lines.push(`Stopped after step ${steps.length} of ${total}: ${WHY_STOPPED[stopped]}.`);
  if (best !== undefined) {
    const last = steps.findLast(({ validation_loss }) => validation_loss !== undefined);
    const kept = step === best.step ? "whose weights the adapter has" : `the adapter has the weights of step ${step}`;
    lines.push(
      `Validation loss ${last!.validation_loss!.toFixed(3)} at the end; lowest ${best.validation_loss.toFixed(3)} after step ${best.step}, ${kept}`,
    );
  }
  return lines;
}

/** Tells people how it went, what it means and how to go on. */
export function tell(context: Context, { out, result, total, samples, diagnosis, reportFile, folder }: Report): void {
  const { terminal } = context;
  const { steps, tokens, seconds, tokens_per_second } = result;
  const [first, last] = [steps[0].loss, steps[steps.length - 1].loss];
  terminal.say(
    `Trained ${steps.length} steps, ${tokens} tokens in ${duration(seconds)} (${tokens_per_second.toFixed(0)} a second); loss ${first.toFixed(3)} → ${last.toFixed(3)}`,
  );
  for (const line of describeEnd(result, total)) terminal.say(line);
  terminal.print(
    table(
      ["Question", "Before", "After"],
      samples.map(({ prompt, before, after }) => [prompt, before, after]),
      terminal.columns,
    ),
  );
  tellDiagnosis(context, diagnosis);
  if (folder === undefined) terminal.say(`The adapter in ${out} stays as it is: that of an earlier try is better.`);
  const [question, adapter] = [samples[0].prompt, folder ?? out].map(shellWord);
  const isAside = folder !== undefined && folder !== out;
  const where = isAside
    ? `The adapter was put aside in ${folder}; ${out} is as it was before.`
    : `The adapter is in ${out}.`;
  terminal.say(`${where} Ask it:  bun run ask ${question} --adapter ${adapter}`);
  if (!isAside) terminal.say(`Serve it:  bun run serve --adapter ${adapter}`);
  if (reportFile !== undefined) terminal.say(`The run's curves and answers:  ${shellWord(reportFile)}`);
}
