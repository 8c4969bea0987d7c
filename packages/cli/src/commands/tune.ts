import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { CONFIG_FILE } from "@tslm/lora";
import {
  bestOf,
  drawsOf,
  newState,
  readState,
  type SearchState,
  search,
  type TrialResult,
  writeSearchReport,
  writeState,
} from "@tslm/tune";
import { CommandError } from "../errors.ts";
import { chooseSamples, questionOf, type Sample } from "../recipe.ts";
import type { Context } from "../run.ts";
import { shellWord } from "../terminal.ts";
import { readData, sha256Of } from "../train/data.ts";
import { FolderLock } from "../train/lock.ts";
import { keepAdapter } from "../tune/keep.ts";
import { spaceOf, type TuneOptions, trainOptionsOf, tuneCommand } from "../tune/options.ts";
import { localRunner, queueRunner } from "../tune/runner.ts";
import { sayResult, searchJson, tellSearch } from "../tune/tell.ts";
import { type Fixed, wordsOf } from "../tune/trial.ts";

/** Trainings of a search that was given no budget. */
const DEFAULT_RUNS = 20;
/** Options that may stand beside `--resume`. */
const WITH_RESUME: readonly string[] = [
  "resume",
  "out",
  "runs",
  "budget",
  "parallel",
  "threads",
  "queue",
  "json",
  "debug",
];

/** `tune`: tries settings of a training within a budget and keeps the best adapter. */
export function tune(context: Context) {
  const { command, fixed } = tuneCommand(context);
  return command.action(async (options) => {
    const { terminal } = context;
    const out = typeof options.resume === "string" ? options.resume : options.out;
    const home = `${out}.tune`;
    context.kept = "No training was finished.";
    await using _lock = await FolderLock.take(context, out);
    const state =
      options.resume === undefined
        ? await begin(context, home, options, fixed, spaceOf(command as never, options.space))
        : await resume(home, command, options);
    const { options: train } = await trainOptionsOf(context, wordsOf(state.fixed));
    const examples = await readData(context, train.data);
    if ((await sha256Of(train.data)) !== state.data) {
      throw new CommandError(
        `${train.data} is not the data that the search in ${home} began with; give that, or begin anew with another --out`,
      );
    }
    const keyTexts = keyTextsOf(chooseSamples(examples, train.sample));
    const draws = drawsOf(state.space, state.seed);
    const folderOf = (trial: number): string => join(home, `trial-${String(trial + 1).padStart(3, "0")}`);

    let kept = existsSync(join(out, CONFIG_FILE)) ? bestOf(state.results) : undefined;
    const keepBest = async (results: readonly TrialResult[]): Promise<void> => {
      const best = bestOf(results);
      if (best === undefined || (kept?.trial === best.trial && kept.rung === best.rung)) return;
      // Before the state: an adapter of a result that nobody knows of is made again, one that is known would be missed.
      if (!results.some(({ trial, rung }) => trial === best.trial && rung > best.rung)) {
        await keepAdapter(folderOf(best.trial), out);
      }
      kept = best;
    };
    await keepBest(state.results);
    const going = state.results.length === 0 ? "" : `; ${state.results.length} are done`;
    terminal.say(`Searching: ${describeBudget(state)}${going}. What is finished is in ${home}`);
    const plan = { fixed: state.fixed, keyTexts };
    const runnerOptions = { plan, home, folderOf, parallel: options.parallel };
    const runner =
      options.queue === undefined
        ? localRunner({ ...runnerOptions, threads: options.threads })
        : await queueRunner(context, { ...runnerOptions, url: options.queue, id: state.id });
    try {
      const found = await search({
        ...{ space: state.space, seed: state.seed, factor: state.factor, budget: state.budget },
        ...{ results: state.results, seconds: state.seconds, signal: context.signal },
        run: (job, signal) => runner.run(job, signal),
        slots: (results) => runner.slots(results),
        async onResult(results, seconds) {
          Object.assign(state, { results: [...results], seconds });
          await keepBest(results);
          await writeState(home, state);
          const last = results.at(-1)!;
          await runner.saved(last);
          context.kept = `${results.length} trainings are in ${home}. Go on with:  bun run tune --resume ${shellWord(out)}`;
          sayResult(terminal, last, draws(last.trial)!);
        },
      });
      Object.assign(state, found);
    } finally {
      await runner.close();
    }
    await writeState(home, state);
    const best = bestOf(state.results);
    const told = { state, keyTexts, out, home, draws };
    const summary = searchJson(told);
    const report = await writeSearchReport(home, summary).catch((error: Error) => {
      terminal.warn(`no page was written: ${error.message}`);
      return undefined;
    });
    if (options.json) terminal.json({ ...summary, ...(report && { report: resolve(report) }) });
    else tellSearch(context, told, report);
    if (best === undefined) {
      throw new CommandError(
        `no training came to an adapter that can be kept, so ${out} is as it was; try lower rates, such as --lr 1e-5..1e-3, in a new search`,
      );
    }
  });
}

/** A new search's state. @throws CommandError where one is already */
async function begin(
  context: Context,
  home: string,
  options: TuneOptions,
  given: Fixed,
  space: SearchState["space"],
): Promise<SearchState> {
  const earlier = await readState(home);
  if (earlier) {
    throw new CommandError(
      `${home} holds a search of ${earlier.results.length} trainings; go on with it by --resume, remove the folder, or give another --out`,
    );
  }
  const { options: train, isDefault } = await trainOptionsOf(context, wordsOf(given));
  // So that a trial goes on where it stood in the round before.
  const fixed: Fixed = isDefault("scheduler") ? [...given, ["--scheduler", "constant"]] : given;
  if (existsSync(home))
    throw new CommandError(`${home} is there and holds no search; remove it, or give another --out`);
  const state = newState({
    ...{ id: randomUUID(), seed: train.seed, factor: options.reductionFactor, space },
    budget: budgetOf(options) ?? { runs: DEFAULT_RUNS },
    fixed: fixed.map(([flag, value]) => [flag, value]),
    data: await sha256Of(train.data),
  });
  await writeState(home, state);
  return state;
}

/** The state of the search that is gone on with. @throws CommandError where there is none, or for an option that its state holds */
async function resume(
  home: string,
  command: ReturnType<typeof tuneCommand>["command"],
  options: TuneOptions,
): Promise<SearchState> {
  const state = await readState(home);
  if (state === undefined)
    throw new CommandError(`${home}: there is no search in it, so there is nothing to go on with`);
  const other = command.options.find((one) => {
    const name = one.attributeName();
    return !WITH_RESUME.includes(name) && command.getOptionValueSource(name as never) === "cli";
  });
  if (other) throw new CommandError(`${other.long} belongs to a new search; beside --resume it is the earlier call's`);
  return { ...state, budget: budgetOf(options) ?? state.budget };
}

function budgetOf({ runs, budget }: Pick<TuneOptions, "runs" | "budget">): SearchState["budget"] | undefined {
  return runs === undefined && budget === undefined ? undefined : { runs, seconds: budget };
}

function describeBudget({ budget: { runs, seconds } }: SearchState): string {
  const parts = [
    ...(runs === undefined ? [] : [`${runs} trainings`]),
    ...(seconds === undefined ? [] : [`${Math.round(seconds)} s`]),
  ];
  return `at most ${parts.join(" or ")}`;
}

/** Texts by which the rows of the sample questions are found; a question that the data does not hold has no row. */
function keyTextsOf(samples: readonly Sample[]): string[] {
  return samples.flatMap((sample) => {
    if (sample.row === undefined) return [];
    const text = questionOf(sample) === sample.input ? sample.input : sample.expected;
    return text.trim() === "" ? [] : [text];
  });
}
