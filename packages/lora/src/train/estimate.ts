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
};

/** f32 numbers that training holds of each number that it changes: gradient, both moments. */
const STATE = 3;
/** And bytes of each while a checkpoint is made of it: the weight and both moments. */
const SAVED_BYTES = 12;
/** Rows of the two passes by which the time is measured. */
const CALIBRATION_ROWS = [256, 64] as const;

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
  const all = [...run.sequences, ...(run.validation ?? [])].map(({ tokens, targets }) => ({
    tokens: tokens.slice(0, maxLength),
    targets: targets.slice(0, maxLength),
  }));
  const rows = largestPass(all, settings.batch * settings.gradAccum, tokensPerPass);
  const recomputed = model.recompute === true || needsRecompute(model, rows, availableMemory);
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
  const order = await epochOrder(sequences.length, 1, settings.seed, settings.shuffle);
  const ordered = order.map((i) => sequences[i]);
  const perStep = settings.batch * settings.gradAccum;
  const steps = Array.from({ length: Math.ceil(ordered.length / perStep) }, (_, i) =>
    ordered.slice(i * perStep, (i + 1) * perStep),
  );
  const total = settings.epochs * steps.length;
  const evaluations = Array.from({ length: total }, (_, i) => isEvaluated(i + 1, steps.length, settings.evalEvery));
  const epoch = addUp(steps.map((step) => passCost(run, step, { recomputed, backward: true })));
  const evaluation = passCost(run, validation, { recomputed, backward: false });
  const times = validation.length === 0 ? 0 : evaluations.filter(Boolean).length;

  const before = model.recompute;
  if (recomputed) model.recompute = true;
  Object.assign(lora.dropout, { training: true, step: 1 });
  try {
    const rates = await calibrate(run, ordered, recomputed);
    const secondsOf = ({ passes, flops }: PassCost): number => passes * rates.perPass + flops * rates.perFlop;
    return settings.epochs * secondsOf(epoch) + times * secondsOf(evaluation);
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

/** Seconds of a pass for itself, and of an operation in it. */
async function calibrate(
  run: PlannedRun,
  ordered: readonly TrainingSequence[],
  recomputed: boolean,
): Promise<{ perPass: number; perFlop: number }> {
  const [large, small] = CALIBRATION_ROWS.map((rows) => firstRows(ordered, rows));
  const cost = (of: readonly TrainingSequence[]): number => passCost(run, of, { recomputed, backward: true }).flops;
  // Once for nothing: kernels are made, memory is taken, weights are read from the disk.
  await timePass(run, large);
  const long = await timePass(run, large);
  if (cost(large) < 1.5 * cost(small)) return { perPass: 0, perFlop: long / cost(large) };
  const short = await timePass(run, small);
  const perFlop = (long - short) / (cost(large) - cost(small));
  const perPass = short - perFlop * cost(small);
  return perFlop > 0 && perPass > 0 ? { perPass, perFlop } : { perPass: 0, perFlop: long / cost(large) };
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
