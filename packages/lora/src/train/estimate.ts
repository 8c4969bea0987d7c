import { memory } from "@tslm/tensor";
import { largestPass, needsRecompute } from "./memory.ts";
import { checkTrainOptions } from "./options.ts";
import { epochOrder } from "./order.ts";
import { packPasses, passSize, type TrainingSequence } from "./pass.ts";
import type { TrainRun } from "./train.ts";

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
/** And bytes of each while a checkpoint is made of it, as at the end: the weight and both moments. */
const SAVED_BYTES = 12;

/**
 * Bytes of memory that training takes beside what the process holds before: what a pass keeps, and the optimiser's
 * state. Mapped weights are not in it.
 *
 * @param limits as if sequences were cut, or passes were smaller
 */
export function trainingBytes(
  run: PlannedRun,
  limits: { maxLength?: number; tokensPerPass?: number } = {},
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
  const state = (4 * (STATE + (run.validation ? 1 : 0)) + SAVED_BYTES) * trained;
  return { bytes: (model.activationBytes?.(rows, recomputed) ?? 0) + state, recomputed };
}

/** Bytes of mapped weights, which training reads all. */
export function mappedBytes(): number {
  return memory().mappedBytes;
}
