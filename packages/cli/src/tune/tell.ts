import {
  bestOf,
  type Effect,
  effects,
  finalResults,
  type SearchState,
  type Settings,
  type SettledResult,
  type TrialResult,
} from "@tslm/tune";
import { duration } from "../progress.ts";
import type { Context } from "../run.ts";
import { columns, table } from "../table.ts";
import { shellWord, type Terminal } from "../terminal.ts";
import { settingFlags } from "./trial.ts";

/** A search as it is told. */
export interface ToldSearch {
  readonly state: SearchState;
  readonly keyTexts: readonly string[];
  readonly out: string;
  readonly home: string;
  readonly draws: (trial: number) => Settings | undefined;
}

const percent = (share: number | undefined): string => (share === undefined ? "–" : `${Math.round(100 * share)}%`);
const number = (x: number | undefined): string => (x === undefined ? "–" : x.toFixed(3));

function outcome({ status, verdict }: TrialResult): string {
  return verdict ?? status;
}

/** A line when a training has ended. */
export function sayResult(terminal: Terminal, result: TrialResult, { rank, alpha, lr, repeat }: Settings): void {
  const { trial, epochs, answered, loss, validation_loss, seconds } = result;
  const parts = [
    `rank ${rank}, alpha ${alpha}, rate ${lr}, repeats ${repeat}, ${epochs} epochs`,
    `${outcome(result)}${answered === undefined ? "" : `, ${percent(answered)} answered`}`,
    ...(loss === undefined ? [] : [`loss ${number(loss)}`]),
    ...(validation_loss === undefined ? [] : [`validation ${number(validation_loss)}`]),
    duration(seconds),
  ];
  terminal.say(`Trial ${trial + 1}: ${parts.join(" · ")}`);
}

/** All trials with what they came to at last, the best first. */
function trialsTable({ state, draws }: ToldSearch): string {
  const rows = finalResults(state.results).map((result) => {
    const { rank, alpha, lr, repeat } = draws(result.trial)!;
    const { trial, epochs, answered, loss, validation_loss, seconds } = result;
    return [
      ...[trial + 1, rank, alpha, lr, repeat, epochs].map(String),
      ...[percent(answered), number(loss), number(validation_loss), outcome(result), duration(seconds)],
    ];
  });
  const head = [
    "Trial",
    "Rank",
    "Alpha",
    "Rate",
    "Repeats",
    "Epochs",
    "Answered",
    "Loss",
    "Validation",
    "Outcome",
    "Time",
  ];
  return columns([head, ...rows]);
}

/** What each setting did, after the first round. */
function effectsTable(found: readonly Effect[]): string {
  const rows = found.flatMap(({ setting, correlation, groups }) =>
    groups.map(({ label, trials, answered, loss, broken }, i) => [
      i === 0 ? setting : "",
      ...[label, String(trials), percent(answered), number(loss), broken === 0 ? "" : String(broken)],
      i === 0 && correlation !== undefined ? correlation.toFixed(2) : "",
    ]),
  );
  return columns([
    ["Setting", "Value", "Trials", "Answered", "Loss (median)", "Broken", "Correlation with loss"],
    ...rows,
  ]);
}

/** The command that trains with the best settings. */
function trainingCommand({ state, keyTexts, draws, out }: ToldSearch, { trial, epochs }: TrialResult): string {
  const options = [...state.fixed, ...settingFlags(draws(trial)!, epochs, keyTexts)];
  const words = options.flatMap(([flag, value]) => (value === null ? [flag] : [flag, shellWord(value)]));
  return `bun run train ${words.join(" ")} --out ${shellWord(out)}`;
}

/** Tells people what was tried, what helped, and what is best. @param report the page's path */
export function tellSearch({ terminal }: Context, told: ToldSearch, report: string | undefined): void {
  const { state, draws, out } = told;
  if (state.results.length === 0) return;
  terminal.print(trialsTable(told));
  const found = effects(state.space, state.results, (trial) => draws(trial)!);
  if (found.length > 0) {
    terminal.print("\nWhat each setting did, after the first round:");
    terminal.print(effectsTable(found));
  }
  if (report !== undefined) terminal.say(`The same with plots:  ${shellWord(report)}`);
  const best = bestOf(state.results);
  if (best === undefined) return;
  const { green, yellow } = terminal.colors;
  if (best.samples.length > 0) {
    const samples = best.samples.map(({ question, before, after }) => [question, before, after]);
    terminal.print(table(["Question", "Before", "After"], samples, terminal.columns));
  }
  const paint = best.verdict === "learned" ? green : yellow;
  terminal.say(
    paint(
      `Best: trial ${best.trial + 1} (${outcome(best)}), of ${state.results.length} trainings in ${duration(state.seconds)}.`,
    ),
  );
  terminal.say(`Its adapter is in ${out}. The same training:  ${trainingCommand(told, best)}`);
  if (best.samples.length > 0) {
    terminal.say(`Ask it:  bun run ask ${shellWord(best.samples[0].question)} --adapter ${shellWord(out)}`);
  }
}

/** The result for programs and for the page. */
export function searchJson(told: ToldSearch) {
  const { state, draws, out } = told;
  const settled = (result: TrialResult): SettledResult => ({ ...result, settings: draws(result.trial)! });
  const best = bestOf(state.results);
  return {
    ...(best && { best: settled(best), adapter: out, command: trainingCommand(told, best) }),
    trials: finalResults(state.results).map(settled),
    results: state.results.map(settled),
    trainings: state.results.length,
    seconds: state.seconds,
    effects: effects(state.space, state.results, (trial) => draws(trial)!),
  };
}
