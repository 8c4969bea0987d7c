import { SCHEDULES, type ScheduleName } from "@tslm/tensor";
import { OptionError } from "../errors.ts";

/** Settings of a training run; the names are those of the command line. */
export interface TrainOptions {
  /** Times every example is seen. Default 3. */
  epochs?: number;
  /** Peak learning rate. Default 2e-4. */
  lr?: number;
  /** Sequences a batch. Default 1. */
  batch?: number;
  /** Batches a step; their gradients add up to that of one large batch. Default 4. */
  gradAccum?: number;
  /** How the rate falls after the warm-up. Default linear. */
  scheduler?: ScheduleName;
  /** Share of the steps over which the rate rises from 0, 0 … 1. Default 0. */
  warmup?: number;
  /** The same as a number of steps; where it is above 0 it wins over the share. Default 0. */
  warmupSteps?: number;
  /** The rate does not fall below this. Default 0. */
  minLr?: number;
  /** How often the rate falls, with cosine_with_restarts. Default 1. */
  numCycles?: number;
  /** Factor on the rate of B, and of a magnitude: LoRA+ (Hayou et al., 2024) takes 16 or so. Default 1. */
  loraplusLrRatio?: number;
  /** Share of each target that goes to all tokens evenly, 0 … 1. Default 0. */
  labelSmoothing?: number;
  /** Size of the noise on the embeddings (NEFTune); 0 for none. Default 0. */
  neftuneAlpha?: number;
  /** Decoupled weight decay. Default 0. */
  weightDecay?: number;
  /** Largest global norm of a step's gradient; 0 for no limit. Default 1. */
  clip?: number;
  /** Examples in another order every epoch; off: as given. Default true. */
  shuffle?: boolean;
  /** Of shuffling and dropout: a whole number from 0 to 2⁵³−1. Default 0. */
  seed?: number;
  /** AdamW's β₁, β₂. Default 0.9, 0.999. */
  betas?: readonly [number, number];
  /** AdamW's ε. Default 1e-8. */
  eps?: number;
  /** Rows of one forward and backward pass, a limit on memory: more sequences take more passes. Default 1024. */
  tokensPerPass?: number;
  /** Steps between evaluations; 0: only at the end of each epoch. Default 0. */
  evalEvery?: number;
  /** Evaluations in a row without a lower validation loss after which the run ends; 0 for no limit. Default 0. */
  earlyStop?: number;
}

export const TRAIN_DEFAULTS: Readonly<Required<TrainOptions>> = {
  epochs: 3,
  lr: 2e-4,
  batch: 1,
  gradAccum: 4,
  scheduler: "linear",
  warmup: 0,
  warmupSteps: 0,
  minLr: 0,
  numCycles: 1,
  loraplusLrRatio: 1,
  labelSmoothing: 0,
  neftuneAlpha: 0,
  weightDecay: 0,
  clip: 1,
  shuffle: true,
  seed: 0,
  betas: [0.9, 0.999],
  eps: 1e-8,
  tokensPerPass: 1024,
  evalEvery: 0,
  earlyStop: 0,
};

type Rule = readonly [holds: (value: never) => boolean, what: string];

const positiveInteger: Rule = [(v: number) => Number.isSafeInteger(v) && v >= 1, "a whole number of at least 1"];
const wholeNumber: Rule = [(v: number) => Number.isSafeInteger(v) && v >= 0, "a whole number of at least 0"];
const notNegative: Rule = [(v: number) => Number.isFinite(v) && v >= 0, "a number of at least 0"];
const positive: Rule = [(v: number) => Number.isFinite(v) && v > 0, "a number above 0"];
const share = (v: unknown): boolean => typeof v === "number" && v >= 0 && v < 1;

const RULES: { readonly [K in keyof TrainOptions]-?: Rule } = {
  epochs: positiveInteger,
  lr: positive,
  batch: positiveInteger,
  gradAccum: positiveInteger,
  scheduler: [(v: ScheduleName) => SCHEDULES.includes(v), `one of ${SCHEDULES.join(", ")}`],
  warmup: [(v: number) => v >= 0 && v <= 1, "a share of the steps, from 0 to 1"],
  warmupSteps: wholeNumber,
  minLr: notNegative,
  numCycles: positive,
  loraplusLrRatio: positive,
  labelSmoothing: [(v: number) => v >= 0 && v <= 1, "a share from 0 to 1"],
  neftuneAlpha: notNegative,
  weightDecay: notNegative,
  clip: notNegative,
  shuffle: [(v: unknown) => typeof v === "boolean", "true or false"],
  seed: [(v: number) => Number.isSafeInteger(v) && v >= 0, "a whole number from 0 to 2^53-1"],
  betas: [
    (v: unknown) => Array.isArray(v) && v.length === 2 && v.every(share),
    "two numbers from 0 up to, not including, 1",
  ],
  eps: positive,
  tokensPerPass: positiveInteger,
  evalEvery: wholeNumber,
  earlyStop: wholeNumber,
};

/**
 * Fills in the defaults and checks every value.
 * @throws OptionError naming the option, what it must be and what it is
 */
export function checkTrainOptions(options: TrainOptions = {}): Required<TrainOptions> {
  for (const key of Object.keys(options)) {
    if (!(key in RULES)) throw new OptionError(key, `there is no training option ${key}`);
  }
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const all: Required<TrainOptions> = { ...TRAIN_DEFAULTS, ...Object.fromEntries(given) };
  for (const [option, [holds, what]] of Object.entries(RULES) as [keyof TrainOptions, Rule][]) {
    checkOption(option, all[option], holds as (value: unknown) => boolean, what);
  }
  checkOption("minLr", all.minLr, (v: number) => v <= all.lr, `at most the learning rate, ${all.lr}`);
  return all;
}

/** @throws OptionError `epochs must be a whole number of at least 1, not 0` */
export function checkOption(option: string, value: unknown, holds: (value: never) => boolean, what: string): void {
  if (!holds(value as never)) throw new OptionError(option, `${option} must be ${what}, not ${String(value)}`);
}
