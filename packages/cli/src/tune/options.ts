import { readFileSync } from "node:fs";
import type { Command, Option } from "@commander-js/extra-typings";
import { DEFAULT_SPACE, DIMENSIONS, type Dimension, formatDimension, type Space } from "@tslm/tune";
import ms from "ms";
import { z } from "zod";
import { CommandError, explain } from "../errors.ts";
import { baseCommand, inFile, integer, notEmpty, option, real } from "../options.ts";
import type { Context } from "../run.ts";
import { type TrainCommandOptions, trainCommand } from "../train/options.ts";
import { OF_THE_CALL } from "../train/own-options.ts";
import { parseRunFile } from "../train/run-file/read.ts";
import type { Fixed } from "./trial.ts";

/** Options of `train` that a trial does not take from the call: those that are searched, and those that are the search's own. */
const NOT_FIXED: readonly string[] = [
  ...OF_THE_CALL.filter((name) => name !== "config"),
  ...["recipe", "rank", "alpha", "lr", "epochs", "out", "runs", "threads", "initAdapter"],
  ...["saveEvery", "sampleEvery", "ui", "uiPort", "fix"],
];

/** `10m`, `90s`, `1.5h`, in seconds. */
const duration = z.string().transform((text, context): number => {
  const value = /^\d+(\.\d+)?\s*[a-z]+$/i.test(text.trim()) ? ms(text.trim() as ms.StringValue) : undefined;
  if (value !== undefined && value > 0) return value / 1000;
  context.addIssue({ code: "custom", message: "a time such as 90s, 10m or 2h" });
  return z.NEVER;
});

/** What a space's part may be in a file. */
const inSpaceFile = z.union([z.string(), z.number(), z.array(z.number())]);

/** The options of the space; a file of a space takes the same. */
const SPACE_OPTIONS = {
  rank: "ranks to try",
  alpha: "alphas to try",
  lr: "learning rates to try",
  repeat: "how often to show the rows of the sample questions",
  epochs: "epochs of the first round and of the last",
} as const satisfies Record<keyof Space, string>;

function spaceOptions(): Option[] {
  return (Object.keys(SPACE_OPTIONS) as (keyof Space)[]).map((name) => {
    const schema = inFile(DIMENSIONS[name] as z.ZodType<Dimension, string>, inSpaceFile);
    const text = `${SPACE_OPTIONS[name]} (default: ${formatDimension(DEFAULT_SPACE[name])})`;
    // `--repeat` is an option of train's, with a text before the number.
    return option(name === "repeat" ? "--repeats <numbers>" : `--${name} <numbers>`, text, schema);
  }) as unknown as Option[];
}

/** The command `tune` with its options, and what of the call is for all trials. */
export function tuneCommand(context: Context) {
  const command = baseCommand(context, "tune", "Try settings of a training, and keep the best adapter.", [
    ["bun run tune --data my.csv --out model/mine", "20 trainings, most of them short"],
    ["bun run tune --data my.csv --validation-split 0.1 --budget 30m", "as many as half an hour allows"],
    ["bun run tune --rank 8 --lr 1e-4..1e-3 --epochs 1..9 --runs 12", "choose among these"],
    ["bun run tune --resume --runs 40", "go on with a search, or with more trainings"],
    ["bun run tune --queue redis://:PASSWORD@HOST:6379", "let the machines train on which  bun run worker  runs"],
  ])
    .addOption(
      option("--out <dir>", "folder of the best adapter; the trials are in DIR.tune", notEmpty).default(
        "model/lora_adapter",
      ),
    )
    .addOption(
      option(
        "--runs <n>",
        "trainings, of any length, after which it ends (default: 20, without --budget)",
        integer(1, 100_000),
      ),
    )
    .addOption(option("--budget <time>", "time after which it ends, such as 10m or 2h", duration))
    .addOption(option("--space <file>", "YAML with the lines rank, alpha, lr, repeats, epochs; options win", notEmpty))
    .addOption(
      option(
        "--reduction-factor <n>",
        "one of N trials goes on to the next round, with N times the epochs",
        real((x) => x >= 2 && x <= 100, "a number from 2 to 100"),
      ).default(3),
    )
    .addOption(
      option("--parallel <n>", "trainings at once (default: as many as memory and threads allow)", integer(1, 1024)),
    )
    .addOption(option("--threads <n>", "threads of all trainings together (default: all cores)", integer(1, 1024)))
    .option("--resume [dir]", "go on with the search of --out, or of DIR; its settings hold, budgets may be raised")
    .addOption(option("--queue <url>", "Redis or Valkey, whose queue other machines take trials from", notEmpty));
  for (const one of spaceOptions()) command.addOption(one as never);
  const fixed: [string, string | null][] = [];
  for (const one of trainCommand(context).options) {
    if (NOT_FIXED.includes(one.attributeName()) || one.long === "--help") continue;
    command.addOption(one.helpGroup("Options of train, for all trials:") as never);
    command.on(`option:${one.name()}`, (value: string | null | undefined) => fixed.push([one.long!, value ?? null]));
  }
  return { command, fixed: fixed as Fixed };
}

export type TuneOptions = ReturnType<ReturnType<typeof tuneCommand>["command"]["opts"]>;

/** The space of a call: its options, what its file says, the defaults. @throws UsageError naming the file's line */
export function spaceOf(command: Command<unknown[], Record<string, unknown>>, file: string | undefined): Space {
  const given = command.opts() as Record<string, Dimension | undefined>;
  const fromFile = file === undefined ? {} : (readSpace(file) as Record<string, Dimension | undefined>);
  return Object.fromEntries(
    (Object.keys(SPACE_OPTIONS) as (keyof Space)[]).map((name) => {
      const key = name === "repeat" ? "repeats" : name;
      return [name, given[key] ?? fromFile[key] ?? DEFAULT_SPACE[name]];
    }),
  ) as unknown as Space;
}

function readSpace(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new CommandError(`--space: ${explain(error)}`);
  }
  return parseRunFile(text, file, { options: spaceOptions() as never });
}

/** The options of a training with these words on its command line, which are checked. */
export async function trainOptionsOf(
  context: Context,
  words: readonly string[],
): Promise<{ options: TrainCommandOptions; isDefault: (name: keyof TrainCommandOptions) => boolean }> {
  const command = trainCommand(context);
  command.action(() => {});
  await command.parseAsync([...words], { from: "user" });
  return { options: command.opts(), isDefault: (name) => command.getOptionValueSource(name) === "default" };
}
