import { AdamW, clipGradNorm, noGrad, scope } from "@tslm/tensor";
import type { PlannedRun } from "./estimate.ts";
import { isEvaluated } from "./evaluate.ts";
import { checkTrainOptions } from "./options.ts";
import { packPasses, passSize, type TrainingSequence } from "./pass.ts";
import { runPass } from "./run-pass.ts";
import { nextTurn } from "./turn.ts";

/** A pass is measured on so many of its rows at most: from there on a processor computes as fast as it can. */
const MEASURED_ROWS = 512;
/** Rows of the pass that touches memory first, at most: nobody waits for much more before a training begins. */
const TOUCHING_ROWS = 2048;
/** Passes whose operations differ by less than this factor take times in proportion to them. */
const ALIKE = 1.3;
/**
 * A pass is measured twice, and up to four times within so many seconds. The fastest counts: what others take of the machine, and the
 * engine's own compiling, which the training has behind it, only ever make one slower.
 */
const MEASURED_SECONDS = 1;

/** A pass of a run: its sequences, and its operations forward and backward. */
interface Pass {
  sequences: readonly TrainingSequence[];
  flops: number;
}

/** A pass that was measured. */
export interface MeasuredPass {
  flops: number;
  seconds: number;
}

/**
 * Seconds that a run takes on this machine as it is now, from passes of its own sequences, forward and backward, and from a step of
 * its optimiser. Leaves the adapter as it was.
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
  const passesOf = (of: readonly TrainingSequence[]): Pass[] => passesIn(run, of, recomputed);
  const trained = steps.flatMap(passesOf);
  const evaluated = passesOf(validation);

  const before = model.recompute;
  if (recomputed) model.recompute = true;
  Object.assign(lora.dropout, { training: true, step: 1 });
  try {
    const { measured, optimizer } = await measure(run, [...trained, ...evaluated], recomputed);
    const epoch = sum(trained, ({ flops }) => secondsOfPass(flops, measured)) + steps.length * optimizer;
    const evaluation = sum(evaluated, (pass) => {
      return secondsOfPass(pass.flops, measured) * (flopsOf(run, pass.sequences, recomputed, false) / pass.flops);
    });
    return settings.epochs * epoch + evaluations.filter(Boolean).length * evaluation;
  } finally {
    lora.dropout.training = false;
    if (recomputed) model.recompute = before;
  }
}

/**
 * Seconds of a pass: between two measured ones on the straight line, and outside in proportion to the nearest one. A small
 * pass waits for the weights that it reads, a large one computes, so a line through all sizes would fit none.
 *
 * @param measured by rising operations, at least one
 */
export function secondsOfPass(flops: number, measured: readonly MeasuredPass[]): number {
  const above = measured.findIndex((one) => one.flops >= flops);
  if (above <= 0) {
    const nearest = measured.at(above)!;
    return (flops / nearest.flops) * nearest.seconds;
  }
  const [low, high] = [measured[above - 1], measured[above]];
  return low.seconds + ((flops - low.flops) / (high.flops - low.flops)) * (high.seconds - low.seconds);
}

/** The smallest, a middle one and the largest pass, as far as they differ; by rising operations. */
export function passesToMeasure<P extends { flops: number }>(passes: readonly P[]): P[] {
  const sorted = passes.toSorted((a, b) => a.flops - b.flops);
  const [smallest, largest] = [sorted[0], sorted[sorted.length - 1]];
  if (largest.flops < ALIKE * smallest.flops) return [largest];
  const between = sorted.filter(({ flops }) => flops > ALIKE * smallest.flops && ALIKE * flops < largest.flops);
  return [smallest, ...between.slice(between.length >> 1, (between.length >> 1) + 1), largest];
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

function flopsOf(
  { model }: PlannedRun,
  sequences: readonly TrainingSequence[],
  recomputed: boolean,
  backward: boolean,
): number {
  const size = passSize(sequences);
  return model.passFlops?.(size, backward, recomputed) ?? size.rows * (backward ? 2 : 1);
}

/** The passes that sequences are computed in together. */
function passesIn(run: PlannedRun, sequences: readonly TrainingSequence[], recomputed: boolean): Pass[] {
  const { tokensPerPass } = checkTrainOptions(run.options);
  return packPasses(sequences, tokensPerPass).map(({ rows }) => {
    // Column 0 says which sequence each row is of.
    const numbers = new Set(rows.filter((_, i) => i % 2 === 0));
    const own = [...numbers].map((number) => sequences[number]);
    return { sequences: own, flops: flopsOf(run, own, recomputed, true) };
  });
}

/** What measuring found. */
interface Measured {
  measured: MeasuredPass[];
  /** Seconds of the change of the weights in a step. */
  optimizer: number;
}

async function measure(run: PlannedRun, passes: readonly Pass[], recomputed: boolean): Promise<Measured> {
  const chosen = passesToMeasure(
    passes.map(({ sequences }) => {
      const cut = firstRows(sequences, MEASURED_ROWS);
      return { sequences: cut, flops: flopsOf(run, cut, recomputed, true) };
    }),
  );
  const largest = chosen[chosen.length - 1];
  // Once for nothing: kernels are made, weights are read from the disk. A page of memory that is touched for the first time costs up to
  // 20 times what it costs later, and more or less of that as the system had it at hand: so the largest pass, beside all that the
  // optimiser keeps, touches as much as the training will.
  const few = firstRows(chosen[0].sequences, 16);
  await timePass(run, few);
  const most = passes.reduce((a, b) => (b.flops > a.flops ? b : a));
  const optimizer = await timeOptimizer(run, few, () => timePass(run, firstRows(most.sequences, TOUCHING_ROWS)));
  const measured: MeasuredPass[] = [];
  for (const { sequences, flops } of chosen) {
    const times: number[] = [];
    // Not alone for its time: with other rows, kernels for their remainders are made.
    if (sequences !== largest.sequences) await timePass(run, sequences);
    while (times.length < 2 || (times.length < 4 && sum(times, Number) < MEASURED_SECONDS)) {
      times.push(await timePass(run, sequences));
    }
    measured.push({ flops, seconds: Math.min(...times) });
  }
  return { measured, optimizer };
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
async function timePass(run: PlannedRun, sequences: readonly TrainingSequence[]): Promise<number> {
  try {
    return await timed(run, () => computePass(run, sequences));
  } finally {
    dropGradients(run);
  }
}

/**
 * Seconds of clipping the gradient and changing the weights, as at each step but the first; at a rate of 0 nothing changes.
 *
 * @param beside is done while all that the optimiser keeps is there
 */
async function timeOptimizer(
  run: PlannedRun,
  sequences: readonly TrainingSequence[],
  beside: () => Promise<unknown>,
): Promise<number> {
  const parameters = run.lora.parameters();
  const optimizer = new AdamW(parameters, { lr: 0 });
  try {
    await computePass(run, sequences);
    const change = async (): Promise<void> => {
      const { norm, gradScale } = scope(() => noGrad(() => clipGradNorm(parameters, 1)));
      await norm.data();
      optimizer.step(gradScale);
      norm.dispose();
      gradScale.dispose();
    };
    await timed(run, change);
    const seconds = await timed(run, change);
    await beside();
    return seconds;
  } finally {
    optimizer.dispose();
    dropGradients(run);
  }
}

async function computePass({ model, lora }: PlannedRun, sequences: readonly TrainingSequence[]): Promise<void> {
  for (const pass of packPasses(sequences, Number.POSITIVE_INFINITY)) {
    const { loss, correct } = runPass(model, lora, pass);
    await loss.item();
    loss.dispose();
    correct.dispose();
  }
}

function dropGradients({ lora }: PlannedRun): void {
  for (const parameter of lora.parameters()) {
    parameter.grad?.dispose();
    parameter.grad = undefined;
  }
}

/** Seconds of some work on the device. @throws the signal's reason when it aborts */
async function timed({ lora, signal }: PlannedRun, work: () => Promise<void>): Promise<number> {
  signal?.throwIfAborted();
  const [{ device }] = lora.parameters();
  await device.synchronize();
  const started = performance.now();
  await work();
  await device.synchronize();
  const seconds = (performance.now() - started) / 1000;
  await nextTurn();
  return seconds;
}
