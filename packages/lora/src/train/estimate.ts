import { memory } from "@tslm/tensor";
import { isEvaluated } from "./evaluate.ts";
import { largestPass, needsRecompute } from "./memory.ts";
import { checkTrainOptions } from "./options.ts";
import { epochOrder } from "./order.ts";
import { packPasses, passSize, type TrainingSequence } from "./pass.ts";
import { runPass } from "./run-pass.ts";
import type { TrainRun } from "./train.ts";
import { nextTurn } from "./turn.ts";

/** A run of which something is to be known before it begins. */
export type PlannedRun = Pick<TrainRun, "model" | "lora" | "sequences" | "validation" | "options" | "signal"> & {
  /** Bytes that the run may use. */
  availableMemory: number;
  /** The sequences of each step, for some epochs: {@link plannedSteps}. */
  steps: readonly (readonly TrainingSequence[])[];
};

/** Epochs by whose order the largest pass is found: others have other neighbours. */
const EPOCHS_LOOKED_AT = 4;

/** The steps of a run's first epochs, in the order in which they will come. */
export async function plannedSteps({
  sequences,
  options,
}: Pick<TrainRun, "sequences" | "options">): Promise<TrainingSequence[][]> {
  const { epochs, seed, shuffle, batch, gradAccum } = checkTrainOptions(options);
  const perStep = batch * gradAccum;
  const steps: TrainingSequence[][] = [];
  for (let epoch = 1; epoch <= Math.min(epochs, EPOCHS_LOOKED_AT); epoch++) {
    const order = await epochOrder(sequences.length, epoch, seed, shuffle);
    for (let i = 0; i < order.length; i += perStep) steps.push(order.slice(i, i + perStep).map((at) => sequences[at]));
  }
  return steps;
}

/** f32 numbers that training holds of each number that it changes: gradient, both moments. */
const STATE = 3;
/** And bytes of each while a checkpoint is made of it: the weight and both moments. */
const SAVED_BYTES = 12;
/** Rows of the two passes by which the time is measured, and of one before them. */
const CALIBRATION_ROWS = [512, 64, 16] as const;

/**
 * Bytes of memory that training takes beside what the process holds before: what a pass keeps, and the optimiser's
 * state. Mapped weights are not in it.
 *
 * @param limits as if sequences were cut, or passes were smaller; `isSaved`: with checkpoints on the way
 */
export function trainingBytes(
  run: PlannedRun,
  limits: { maxLength?: number; tokensPerPass?: number; isSaved?: boolean } = {},
): { bytes: number; recomputed: boolean } {
  const { model, lora, availableMemory } = run;
  const settings = checkTrainOptions(run.options);
  const { maxLength = Number.POSITIVE_INFINITY, tokensPerPass = settings.tokensPerPass } = limits;
  const cut = (of: readonly TrainingSequence[]): TrainingSequence[] =>
    of
      .map(({ tokens, targets }) => ({ tokens: tokens.slice(0, maxLength), targets: targets.slice(0, maxLength) }))
      .filter((sequence) => passSize([sequence]).predicted > 0);
  const passes = run.steps.flatMap((step) => packPasses(cut(step), tokensPerPass));
  const rows = passes.reduce((most, pass) => Math.max(most, pass.tokens.length), 1);
  const perStep = settings.batch * settings.gradAccum;
  const possible = largestPass(cut([...run.sequences, ...(run.validation ?? [])]), perStep, tokensPerPass);
  const recomputed = model.recompute === true || needsRecompute(model, possible, availableMemory);
  const trained = lora.parameters().reduce((sum, { size }) => sum + size, 0);
  const state = (4 * (STATE + (run.validation ? 1 : 0)) + (limits.isSaved ? SAVED_BYTES : 0)) * trained;
  return { bytes: (model.activationBytes?.(rows, recomputed) ?? 0) + state, recomputed };
}

/** Bytes of mapped weights, which training reads all. */
export function mappedBytes(): number {
  return memory().mappedBytes;
}

/**
 * Seconds that a run takes on this machine as it is now. A pass takes a time of its own, for weights that are read and
 * unpacked once, and a time by its operations: both come from two short passes of the run's own sequences, forward and
 * backward. Leaves the adapter as it was.
 *
 * @throws the signal's reason when it aborts
 */
export async function estimateSeconds(run: PlannedRun, recomputed: boolean): Promise<number> {
  const { model, lora, sequences, validation = [] } = run;
  const settings = checkTrainOptions(run.options);
  const perEpoch = Math.ceil(sequences.length / (settings.batch * settings.gradAccum));
  const steps = run.steps.slice(0, perEpoch);
  const total = settings.epochs * steps.length;
  const evaluations = Array.from({ length: total }, (_, i) => isEvaluated(i + 1, steps.length, settings.evalEvery));
  const epoch = addUp(steps.map((step) => passCost(run, step, { recomputed, backward: true })));
  const evaluation = passCost(run, validation, { recomputed, backward: false });
  const times = validation.length === 0 ? 0 : evaluations.filter(Boolean).length;

  const before = model.recompute;
  if (recomputed) model.recompute = true;
  Object.assign(lora.dropout, { training: true, step: 1 });
  try {
    const rates = await calibrate(run, steps.flat(), recomputed);
    const secondsOf = ({ passes, flops }: PassCost): number => passes * rates.perPass + flops * rates.perFlop;
    return rates.first + settings.epochs * secondsOf(epoch) + times * secondsOf(evaluation);
  } finally {
    lora.dropout.training = false;
    if (recomputed) model.recompute = before;
  }
}

/** What passes cost, whatever the machine. */
interface PassCost {
  passes: number;
  flops: number;
}

function passCost(
  { model, options }: PlannedRun,
  sequences: readonly TrainingSequence[],
  { recomputed, backward }: { recomputed: boolean; backward: boolean },
): PassCost {
  if (sequences.length === 0) return { passes: 0, flops: 0 };
  const size = passSize(sequences);
  const flops = model.passFlops?.(size, backward, recomputed) ?? size.rows * (backward ? 2 : 1);
  const { tokensPerPass } = checkTrainOptions(options);
  return { passes: packPasses(sequences, tokensPerPass).length * (backward ? 1 : 0.5), flops };
}

function addUp(costs: readonly PassCost[]): PassCost {
  return costs.reduce((sum, { passes, flops }) => ({ passes: sum.passes + passes, flops: sum.flops + flops }));
}

/** Seconds of a pass for itself, of an operation in it, and of what happens once: memory that is touched for the first time. */
interface Rates {
  perPass: number;
  perFlop: number;
  first: number;
}

async function calibrate(run: PlannedRun, ordered: readonly TrainingSequence[], recomputed: boolean): Promise<Rates> {
  const { model, options } = run;
  const { tokensPerPass } = checkTrainOptions(options);
  const largest = Math.max(...run.steps.flatMap((step) => packPasses(step, tokensPerPass).map((p) => p.tokens.length)));
  const [large, small, tiny] = CALIBRATION_ROWS.map((rows) => firstRows(ordered, Math.min(rows, largest)));
  const cost = (of: readonly TrainingSequence[]): number => passCost(run, of, { recomputed, backward: true }).flops;
  // Once for nothing: kernels are made, weights are read from the disk.
  await timePass(run, tiny);
  const untouched = await timePass(run, large);
  const long = await timePass(run, large);
  const growth = Math.max(0, largest / passSize(large).rows - 1);
  const first = model.activationBytes ? growth * Math.max(0, untouched - long) : 0;
  if (cost(large) < 1.5 * cost(small)) return { perPass: 0, perFlop: long / cost(large), first };
  const short = await timePass(run, small);
  const perFlop = (long - short) / (cost(large) - cost(small));
  const perPass = short - perFlop * cost(small);
  return perFlop > 0 && perPass > 0 ? { perPass, perFlop, first } : { perPass: 0, perFlop: long / cost(large), first };
}

/** The first sequences that have so many rows together, the last of them cut. */
function firstRows(sequences: readonly TrainingSequence[], rows: number): TrainingSequence[] {
  const chosen: TrainingSequence[] = [];
  let left = rows;
  for (const { tokens, targets, weight } of sequences) {
    const learned = targets.findIndex((target) => target >= 0) + 1;
    if (chosen.length > 0 && left < learned) break;
    const length = Math.min(tokens.length, Math.max(left, learned));
    chosen.push({ tokens: tokens.slice(0, length), targets: targets.slice(0, length), weight });
    left -= length;
  }
  return chosen;
}

/** Seconds of a pass forward and backward. */
async function timePass({ model, lora, signal }: PlannedRun, sequences: readonly TrainingSequence[]): Promise<number> {
  signal?.throwIfAborted();
  const parameters = lora.parameters();
  const [{ device }] = parameters;
  await device.synchronize();
  const started = performance.now();
  for (const pass of packPasses(sequences, Number.POSITIVE_INFINITY)) {
    const { loss, correct } = runPass(model, lora, pass);
    await loss.item();
    loss.dispose();
    correct.dispose();
  }
  await device.synchronize();
  const seconds = (performance.now() - started) / 1000;
  for (const parameter of parameters) {
    parameter.grad?.dispose();
    parameter.grad = undefined;
  }
  await nextTurn();
  return seconds;
}
