import type { Command, OptionValues } from "@commander-js/extra-typings";
import { CommandError } from "../errors.ts";
import { integer, notNegative, option, positive, share } from "../options.ts";

/** What is learned besides the tokens, and how the rate changes; the names are transformers' and PEFT's. */
export function objectiveOptions<Args extends unknown[], Opts extends OptionValues, Globals extends OptionValues>(
  command: Command<Args, Opts, Globals>,
) {
  return command
    .addOption(option("--warmup-steps <n>", "the same in steps, instead of --warmup", integer(0)).conflicts("warmup"))
    .addOption(option("--min-lr <rate>", "the learning rate does not fall below this (default: 0)", notNegative))
    .addOption(
      option(
        "--num-cycles <n>",
        "how often the rate falls, with --scheduler cosine_with_restarts (default: 1)",
        positive,
      ),
    )
    .addOption(
      option(
        "--loraplus-lr-ratio <x>",
        "LoRA+: B learns at so many times the rate of A; 16 is usual (default: 1)",
        positive,
      ),
    )
    .addOption(
      option("--label-smoothing <x>", "share of every target that goes to all tokens evenly (default: 0)", share),
    )
    .addOption(
      option(
        "--neftune-alpha <x>",
        "noise on the embeddings in training (NEFTune); 5 is usual (default: 0)",
        notNegative,
      ),
    );
}

/** The trainer's names of these options. */
const KEYS = ["warmupSteps", "minLr", "numCycles", "loraplusLrRatio", "labelSmoothing", "neftuneAlpha"] as const;

export type ObjectiveValues = { readonly [Key in (typeof KEYS)[number]]?: number };

/** Those of the options that were given. @throws CommandError for a lowest rate above the highest, `lr` */
export function objectiveOf(options: ObjectiveValues, lr = Number.POSITIVE_INFINITY): ObjectiveValues {
  if ((options.minLr ?? 0) > lr) {
    throw new CommandError(`--min-lr is ${options.minLr}, above the highest rate, ${lr}; lower it or raise --lr`);
  }
  return Object.fromEntries(KEYS.filter((key) => options[key] !== undefined).map((key) => [key, options[key]]));
}
