import { Option } from "@commander-js/extra-typings";
import { LOSS_MASKS, type Lora } from "@tslm/lora";
import { SCHEDULES } from "@tslm/tensor";
import { z } from "zod";
import {
  checked,
  fraction,
  gathered,
  integer,
  modelCommand,
  namedByFlag,
  notEmpty,
  notNegative,
  option,
  positive,
  real,
  repetition,
  share,
} from "../options.ts";
import { RECIPE_NAMES, RECIPES, type RecipeName, type Repetition } from "../recipe.ts";
import type { Context } from "../run.ts";
import { DEFAULT_DATA } from "./data.ts";
import { objectiveOf, objectiveOptions } from "./objective-options.ts";
import { applyRunFile } from "./run-file/read.ts";
import { VARIANT_KEYS, variantOptions, variantRecord } from "./variant-options.ts";

const UNITS = { kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12 } as const;
/** `6GB` in bytes. */
const memorySize = z.string().transform((text, context): number => {
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?([kmgt]b)$/i.exec(text.trim()) ?? [];
  if (unit !== undefined) return Number(number) * UNITS[unit.toLowerCase() as keyof typeof UNITS];
  context.addIssue({ code: "custom", message: "a size such as 6GB or 800MB" });
  return z.NEVER;
});

const openShare = real((x) => x > 0 && x < 1, "a number above 0 and below 1");

function describeDefault(key: "rank" | "alpha" | "epochs" | "lr"): string {
  const [usual, tuned] = [RECIPES.default[key], RECIPES.tuned[key]];
  return usual === tuned ? `default: ${usual}` : `default: ${usual}, tuned: ${tuned}`;
}

/** The command `train` with its options. */
export function trainCommand(context: Context) {
  const command = modelCommand(
    context,
    "train",
    "Fine-tune a model with LoRA: from a CSV to an adapter, and what it answers then.",
    [
      ["bun run train", "the whole job on the data that ships with the program"],
      ["bun run train --recipe tuned", "the cure when the answer is not learned yet"],
      ["bun run train --data my.csv --out model/mine --epochs 5", "on data of your own"],
      [
        "bun run train --data my.csv --validation-split 0.1 --early-stop 3",
        "hold rows out, and stop when they no longer gain",
      ],
      [
        "bun run train --init",
        "write train.yaml, in which every setting is explained, to run with --config train.yaml",
      ],
      ["bun run train --resume", "go on with a run that was interrupted"],
      ["bun run train --init-adapter model/lora_adapter --out model/more", "go on from an adapter"],
    ],
  );
  const adapter = command
    .addOption(
      option(
        "--data <file>",
        "CSV with the columns input and output; or JSON or JSONL: Alpaca, chat messages, ShareGPT, prompt and completion",
        notEmpty,
      ).default(DEFAULT_DATA),
    )
    .addOption(option("--out <dir>", "folder of the adapter, in PEFT's format", notEmpty).default("model/lora_adapter"))
    .addOption(
      new Option("--recipe <name>", "tuned: rank 4, the sample question's row four times, more epochs, a higher rate")
        .choices(RECIPE_NAMES)
        .default("default" as const),
    )
    .addOption(option("--rank <n>", `rank of the adapter (${describeDefault("rank")})`, integer(1, 4096)))
    .addOption(
      option("--alpha <x>", `the adapter's change is scaled by alpha/rank (${describeDefault("alpha")})`, positive),
    )
    .addOption(option("--dropout <p>", "dropout in front of the adapter (default: 0.1)", fraction));
  const steps = variantOptions(adapter)
    .addOption(option("--epochs <n>", `times every row is seen (${describeDefault("epochs")})`, integer(1, 100_000)))
    .addOption(option("--lr <rate>", `highest learning rate (${describeDefault("lr")})`, positive))
    .addOption(option("--batch <n>", "sequences in a batch", integer(1, 65_536)).default(1))
    .addOption(
      option(
        "--grad-accum <n>",
        "batches in a step: one change of the weights for batch × grad-accum sequences",
        integer(1, 65_536),
      ).default(4),
    )
    .addOption(
      option("--max-length <n>", "longer sequences are cut at their end, in tokens", integer(2, 1_000_000)).default(
        512,
      ),
    )
    .addOption(
      new Option("--scheduler <name>", "how the learning rate falls from step to step")
        .choices(SCHEDULES)
        .default("linear" as (typeof SCHEDULES)[number]),
    )
    .addOption(option("--warmup <r>", "share of the steps, at the start, in which the rate rises", share).default(0));
  const all = objectiveOptions(steps)
    .addOption(option("--weight-decay <x>", "decoupled weight decay", notNegative).default(0))
    .addOption(option("--clip <x>", "largest global norm of a gradient; 0: no limit", notNegative).default(1))
    .addOption(
      new Option(
        "--loss <tokens>",
        "tokens to learn: full: all; completion: the (last) answer's; assistant: every answer's",
      )
        .choices(LOSS_MASKS)
        .default("full" as const),
    )
    .option(
      "--repeat <text=n>",
      "rows whose input or output holds TEXT are seen N times; may be given again",
      gathered(checked(repetition)),
    )
    .option(
      "--sample <question>",
      "ask this before and after, instead of the first row's question; may be given again",
      gathered(checked(notEmpty)),
    )
    .addOption(
      option("--sample-every <n>", "ask the samples every N steps too; 0: only before and after", integer(0)).default(
        0,
      ),
    )
    .option("--ui", "a page in the browser on which to watch, save and stop the training")
    .addOption(
      option(
        "--ui-port <n>",
        "port of that page (default: 8010, or a free one where that is in use)",
        integer(0, 65535),
      ).implies({ ui: true }),
    )
    .addOption(
      option("--runs <dir>", "folder in which the run is written down (default: runs beside --out's folder)", notEmpty),
    )
    .addOption(
      option(
        "--init-adapter <dir>",
        "start from this adapter, with its rank, alpha, dropout and layers",
        notEmpty,
      ).conflicts(["rank", "alpha", "dropout", ...VARIANT_KEYS]),
    )
    .addOption(
      option("--validation <file>", "held-out data, whose loss is told and decides which step is kept", notEmpty),
    )
    .addOption(
      option("--validation-split <share>", "hold this share of the rows out of training instead", openShare).conflicts(
        "validation",
      ),
    )
    .addOption(option("--eval-every <n>", "steps between evaluations (default: at the end of each epoch)", integer(1)))
    .addOption(
      option("--early-stop <n>", "end after so many evaluations in a row without a lower validation loss", integer(1)),
    )
    .option("--stop-when-learned", "end as soon as every sample question is answered with the facts of the data")
    .addOption(
      option(
        "--save-every <n>",
        "steps between checkpoints, the last two of which stay; 0: only when interrupted (default: every minute, until the end)",
        integer(0),
      ),
    )
    .option(
      "--resume [dir]",
      "go on with an interrupted run, from the newest checkpoint in --out, or in DIR; its settings hold",
    )
    .option("--no-shuffle", "take the rows in file order in every epoch")
    .addOption(
      option("--config <file>", "take settings from this run file; what is given on the command line wins", notEmpty),
    )
    .addOption(
      option(
        "--fix [n]",
        "where the diagnosis says what to change, change it and train again, up to N times (3 unless given); the best stays",
        integer(1, 100),
      ),
    )
    .option("--estimate", "say how long it will take and how much memory, and end")
    .addOption(
      option("--memory-limit <size>", "memory that it may use, such as 6GB (default: what is free)", memorySize),
    )
    .addOption(
      option(
        "--tokens-per-pass <n>",
        "tokens computed at once: fewer need less memory, and change nothing else (default: 1024)",
        integer(16, 1_000_000),
      ),
    )
    .option(
      "--init [file]",
      "write a run file with every setting, its meaning and its default, and end",
      checked(notEmpty),
    );
  return all.on("option:config", (file: string) => applyRunFile(all, file));
}

/** The values of the options. */
export type TrainCommandOptions = ReturnType<ReturnType<typeof trainCommand>["opts"]>;

/** The trainer's settings. */
export function settingsOf(options: TrainCommandOptions) {
  const { batch, gradAccum, scheduler, warmup, weightDecay, clip, shuffle, seed, evalEvery, earlyStop } = options;
  const recipe = RECIPES[options.recipe];
  const [epochs, lr] = [options.epochs ?? recipe.epochs, options.lr ?? recipe.lr];
  return {
    ...{ epochs, lr, batch, gradAccum, scheduler, warmup, weightDecay, clip, shuffle, seed, evalEvery, earlyStop },
    ...{ tokensPerPass: options.tokensPerPass, ...objectiveOf(options, lr) },
  };
}

/** What was run, by the names of the command line, for `training.json`. */
export function recordOf(
  options: TrainCommandOptions,
  settings: ReturnType<typeof settingsOf>,
  { config }: Lora,
): Record<string, unknown> {
  const { epochs, lr, batch, gradAccum, scheduler, warmup, weightDecay, clip, shuffle, seed } = settings;
  const { evalEvery, earlyStop } = settings;
  return {
    recipe: options.recipe satisfies RecipeName,
    rank: config.r,
    alpha: config.lora_alpha,
    dropout: config.lora_dropout,
    targets: config.target_modules,
    ...variantRecord(options),
    ...{ epochs, lr, batch, scheduler, warmup, clip, shuffle, seed },
    ...namedByFlag(objectiveOf(options)),
    "grad-accum": gradAccum,
    "weight-decay": weightDecay,
    "max-length": options.maxLength,
    loss: options.loss,
    repeat: (options.repeat ?? []).map(({ text, times }: Repetition) => `${text}=${times}`),
    ...(options.validation === undefined ? {} : { validation: options.validation }),
    ...(options.validationSplit === undefined ? {} : { "validation-split": options.validationSplit }),
    ...(evalEvery === undefined ? {} : { "eval-every": evalEvery }),
    ...(earlyStop === undefined ? {} : { "early-stop": earlyStop }),
    ...(options.stopWhenLearned ? { "stop-when-learned": true } : {}),
    ...(options.initAdapter === undefined ? {} : { "init-adapter": options.initAdapter }),
    ...(options.quantize === undefined ? {} : { quantize: options.quantize }),
    ...(options.precision === "bf16" ? { precision: options.precision } : {}),
  };
}
