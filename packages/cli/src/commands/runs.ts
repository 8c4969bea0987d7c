import { join } from "node:path";
import { Argument } from "@commander-js/extra-typings";
import { findRun, listRuns, type RunHistory } from "@tslm/watch";
import { CommandError, UsageError } from "../errors.ts";
import { baseCommand, notEmpty, option } from "../options.ts";
import type { Context } from "../run.ts";
import { compareRuns, listTable, showRun } from "../runs/show.ts";
import { summaryOf } from "../runs/summary.ts";

const ACTIONS = ["list", "show", "compare"] as const;
/** Runs that each action takes. */
const WANTED = { list: [0, 0], show: [1, 1], compare: [2, 6] } as const;
const DEFAULT_RUNS = "model/runs";

/** `runs`: what trainings there were, what one of them did, and in what several differ. */
export function runs(context: Context) {
  return baseCommand(context, "runs", "List the training runs, show one, or compare several.", [
    ["bun run runs", "a line a run"],
    ["bun run runs show last", "one of them whole; also by the beginning of its name"],
    ["bun run runs compare 20260131-142501 last", "in what they differ, side by side"],
  ])
    .addArgument(new Argument("[action]").choices(ACTIONS).default("list" as const))
    .addArgument(new Argument("[run...]", "names of runs, their beginnings, or last"))
    .addOption(option("--runs <dir>", "folder of the runs", notEmpty).default(DEFAULT_RUNS))
    .action(async (action, names, options) => {
      const { terminal } = context;
      context.kept = "Nothing was changed.";
      const [least, most] = WANTED[action];
      if (names.length < least || names.length > most) {
        const wanted = least === most ? String(least) : `${least} to ${most}`;
        throw new UsageError(`${action} takes ${wanted} names of runs, not ${names.length}; bun run runs lists them`);
      }
      const { runs: all, problems } = await listRuns(options.runs);
      for (const problem of problems) terminal.warn(problem);
      if (all.length === 0 && action === "list" && !options.json) {
        terminal.say(`There are no runs in ${options.runs}. Train: bun run train; other folders: --runs DIR`);
        return;
      }
      if (all.length === 0 && action !== "list") {
        throw new CommandError(`there are no runs in ${options.runs}; name their folder with --runs DIR`);
      }
      const chosen = action === "list" ? all : names.map((name) => findRun(all, name));
      if (options.json) {
        const summaries = chosen.map(summaryOf);
        if (action === "list") for (const summary of summaries) terminal.json(summary);
        else if (action === "show") terminal.json({ ...summaries[0], ...details(chosen[0]) });
        else terminal.json({ runs: summaries });
        return;
      }
      if (action === "list") terminal.print(listTable(chosen));
      else if (action === "show") terminal.print(showRun(chosen[0], terminal.columns));
      else terminal.print(compareRuns(chosen, terminal.columns));
    });
}

/** What `show --json` has beside the summary. */
function details({ steps, validations, samples, checkpoints, start, end, folder }: RunHistory) {
  const withoutEvent = <T extends { event: string }>({ event: _, ...rest }: T) => rest;
  return {
    steps: steps.map(withoutEvent),
    validations: validations.map(withoutEvent),
    samples: samples.map(withoutEvent),
    checkpoints: checkpoints.map(withoutEvent),
    model: start.model,
    data: start.data,
    device: start.device,
    machine: start.machine,
    diagnosis: end?.diagnosis,
    report: join(folder, "report.html"),
  };
}
