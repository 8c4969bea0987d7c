import { AdamW, cat, clipGradNorm, noGrad, type Schedule, schedule, scope, type Tensor } from "@tslm/tensor";
import { DivergenceError, OptionError } from "../errors.ts";
import { type Lora, l2Norms } from "../lora.ts";
import { keySeed } from "../random.ts";
import { isEvaluated, validationLoss } from "./evaluate.ts";
import { availableMemory, largestPass, needsRecompute } from "./memory.ts";
import { neftune } from "./neftune.ts";
import { checkTrainOptions, type TrainOptions } from "./options.ts";
import { epochOrder } from "./order.ts";
import {
  type PlacedPass,
  packPasses,
  predictedTokens,
  type TrainableModel,
  type TrainingPass,
  type TrainingSequence,
} from "./pass.ts";
import type { StepResult, TrainResult } from "./result.ts";
import { predictions, runPass } from "./run-pass.ts";
import { type SavedState, type StateKeeper, TrainingState } from "./state.ts";
import { nextTurn } from "./turn.ts";

/** A run to do. */
export interface TrainRun {
  model: TrainableModel;
  /** Attached to the model. */
  lora: Lora;
  /** In file order. */
  sequences: readonly TrainingSequence[];
  options?: TrainOptions;
  /** Bytes that the run may use; what the system has available unless given. See {@link needsRecompute}. */
  availableMemory?: number;
  /** Stops the run between two passes. */
  signal?: AbortSignal;
  /** Held-out sequences: their loss is computed every `evalEvery` steps and at each epoch's end, and the best step's weights are the result. */
  validation?: readonly TrainingSequence[];
  /** Asked at the same steps: has the model learned what it is to learn? Then the run ends. */
  isLearned?: () => boolean | Promise<boolean>;
  /** Called after every step (of those before a resumption: only of one whose evaluation was cut short); "stop" ends the run after it, "give-up" does too. */
  onStep?: (result: StepResult, total: number) => StepAnswer | Promise<StepAnswer>;
  /** Takes the run's state, to go on from it in another process. */
  keeper?: StateKeeper;
  /** Where an earlier run with the same model, data and settings stood: this one ends bit for bit where that one would have. */
  resume?: SavedState;
}

/** What `onStep` may answer. */
// biome-ignore lint/suspicious/noConfusingVoidType: a callback may return nothing.
export type StepAnswer = "stop" | "give-up" | undefined | void;

/** Optimiser steps of a run: a step takes batch × gradAccum sequences, an epoch's last one what is left. */
export function totalSteps(sequences: number, options: TrainOptions = {}): number {
  const { epochs, batch, gradAccum } = checkTrainOptions(options);
  return epochs * Math.ceil(sequences / (batch * gradAccum));
}

/**
 * Supervised fine-tuning of an adapter. The gradient of a step is that of the (weighted) mean loss over all tokens its
 * sequences predict, clipped by its global norm; AdamW moves the adapter. The device is read once a step. Dropout and order
 * depend on the seed alone.
 *
 * @throws OptionError for a setting or an example that cannot be trained; DivergenceError when a loss or gradient is
 * no number: the adapter is then as it was before that step; the signal's reason when it aborts; what the keeper throws.
 * The caller saves the adapter, so none of these leaves one.
 */
export async function train(run: TrainRun): Promise<TrainResult> {
  const { model, lora, sequences, options, signal, keeper } = run;
  const settings = checkTrainOptions(options);
  checkRun(lora, sequences);
  if (run.validation) checkSequences(run.validation);
  const perStep = settings.batch * settings.gradAccum;
  const perEpoch = Math.ceil(sequences.length / perStep);
  const total = totalSteps(sequences.length, settings);
  const rate = scheduleOf(settings);
  const params = lora.parameters();
  const { betas, eps, weightDecay } = settings;
  const optimizer = new AdamW(params, { betas, eps, weightDecay, rateFactors: rateFactors(lora, settings) });
  const state = new TrainingState(lora, optimizer);
  const { steps } = state;
  const before = model.recompute;
  const largest = largestPass([...sequences, ...(run.validation ?? [])], perStep, settings.tokensPerPass);
  const recomputed = before === true || needsRecompute(model, largest, run.availableMemory ?? availableMemory());
  if (recomputed) model.recompute = true;

  lora.dropout.seed = keySeed(settings.seed, "dropout");
  try {
    if (run.resume) state.restore(run.resume);
    if (state.pending) await finishStep(run, settings, state, total, perEpoch);
    let order: number[] = [];
    while (steps.length < total && state.stopped === undefined) {
      const started = performance.now();
      const step = steps.length + 1;
      const epoch = Math.ceil(step / perEpoch);
      const first = ((step - 1) % perEpoch) * perStep;
      if (first === 0 || order.length === 0) {
        order = await epochOrder(sequences.length, epoch, settings.seed, settings.shuffle);
      }
      const chosen = order.slice(first, first + perStep).map((i) => sequences[i]);
      Object.assign(lora.dropout, { training: true, step });
      optimizer.zeroGrad();
      const passes = packPasses(chosen, settings.tokensPerPass).map((pass) => ({
        ...pass,
        ...objective(pass, settings, step, perStep),
      }));
      const measured = await gradients(model, lora, passes, settings.clip, step === 1, signal);
      // Evaluation and the caller's own questions are without dropout.
      lora.dropout.training = false;
      try {
        refuseDivergence(step, measured, steps);
        optimizer.lr = settings.lr * rate(step, total);
        optimizer.step(settings.clip > 0 ? measured.gradScale : undefined);
      } finally {
        measured.gradScale.dispose();
      }
      const { loss, accuracy, norm, norms } = measured;
      state.pending = true;
      steps.push({
        step,
        epoch,
        loss,
        ...(accuracy !== undefined && { token_accuracy: accuracy }),
        grad_norm: norm,
        lr: optimizer.lr,
        tokens: chosen.reduce((n, { tokens }) => n + tokens.length, 0),
        seconds: (performance.now() - started) / 1000,
        ...(norms && { first_grad_norms: byKey(lora, norms) }),
      });
      await finishStep(run, settings, state, total, perEpoch);
    }
    // Without the save of the end, which depends on the disk and not on the training.
    const { best, stopped, seconds } = state;
    await keeper?.keep(state, total, stopped === "asked" ? "interrupted" : "end");
    const useBest = best !== undefined && stopped !== "learned" && best.step < steps.length;
    if (useBest) await state.takeBest();
    await params[0].device.synchronize();
    const tokens = steps.reduce((n, s) => n + s.tokens, 0);
    return {
      steps,
      tokens,
      seconds,
      tokens_per_second: tokens / steps.reduce((sum, step) => sum + step.seconds, 0),
      recomputed,
      step: useBest ? best.step : steps.length,
      ...(best && { best }),
      ...(stopped && { stopped }),
    };
  } catch (error) {
    if (signal?.aborted && steps.length > 0) await keeper?.keep(state, total, "interrupted");
    throw error;
  } finally {
    lora.dropout.training = false;
    if (recomputed) model.recompute = before;
    optimizer.zeroGrad();
    optimizer.dispose();
    state.dispose();
  }
}

/** How the rate changes from step to step, as a factor on the peak. */
function scheduleOf({ scheduler, warmup, warmupSteps, minLr, lr, numCycles }: Required<TrainOptions>): Schedule {
  const rising = warmupSteps > 0 ? { warmupSteps } : { warmup };
  return schedule(scheduler, { ...rising, minFactor: minLr / lr, cycles: numCycles });
}

/** LoRA+: B, and what has one dimension, at a rate of its own, as PEFT's `create_loraplus_optimizer`. */
function rateFactors(lora: Lora, { loraplusLrRatio: ratio }: Required<TrainOptions>): number[] | undefined {
  if (ratio === 1) return undefined;
  return [...lora.namedParameters()].map(([key, { rank }]) => (key.includes("lora_B") || rank === 1 ? ratio : 1));
}

/** What training, and not evaluation, does to a pass. */
function objective(
  pass: PlacedPass,
  { labelSmoothing, neftuneAlpha, seed }: Required<TrainOptions>,
  step: number,
  perStep: number,
): Partial<TrainingPass> {
  const key = { seed: keySeed(seed, "neftune"), stream: step * perStep };
  return {
    ...(labelSmoothing > 0 && { labelSmoothing }),
    ...(neftuneAlpha > 0 && { perturb: neftune(pass, neftuneAlpha, key) }),
  };
}

/** What follows the change of the weights: evaluation, the caller's `onStep`, keeping the state. */
async function finishStep(
  { model, validation, isLearned, onStep, keeper, signal }: TrainRun,
  { tokensPerPass, evalEvery, earlyStop }: Required<TrainOptions>,
  state: TrainingState,
  total: number,
  perEpoch: number,
): Promise<void> {
  const result = state.steps[state.steps.length - 1];
  const { step } = result;
  if (isEvaluated(step, perEpoch, evalEvery)) {
    if (validation) {
      const loss = await validationLoss(model, validation, { tokensPerPass, step, signal });
      result.validation_loss = loss;
      if (!state.best || loss < state.best.validation_loss) state.keepBest({ step, validation_loss: loss });
      const { best } = state;
      const since = state.steps.filter((s) => s.validation_loss !== undefined && s.step > best!.step).length;
      if (earlyStop > 0 && since >= earlyStop) state.stopped = "early-stop";
    }
    if (await isLearned?.()) state.stopped ??= "learned";
  }
  const answer = await onStep?.(result, total);
  if (answer === "stop") state.stopped ??= "asked";
  if (answer === "give-up") state.stopped = "hopeless";
  state.pending = false;
  await keeper?.keep(state, total, "step");
}

function checkRun(lora: Lora, sequences: readonly TrainingSequence[]): void {
  if (!lora.attached) throw new OptionError("lora", "the adapter is not attached to its model; call attach() first");
  if (!lora.enabled || lora.merged) {
    throw new OptionError(
      "lora",
      "an adapter that is merged or not enabled cannot be trained; unmerge() and enable it",
    );
  }
  if (sequences.length === 0) throw new OptionError("sequences", "there is nothing to train on: no sequences");
  checkSequences(sequences);
}

function checkSequences(sequences: readonly TrainingSequence[]): void {
  sequences.forEach((sequence, i) => {
    if (sequence.targets.length !== sequence.tokens.length) {
      throw new OptionError(
        "sequences",
        `sequence ${i + 1} has ${sequence.tokens.length} tokens and ${sequence.targets.length} targets`,
      );
    }
    const { weight = 1 } = sequence;
    if (!(weight > 0 && Number.isFinite(weight))) {
      throw new OptionError("sequences", `the weight of sequence ${i + 1} must be a number above 0, not ${weight}`);
    }
    if (predictedTokens([sequence]) === 0) {
      throw new OptionError("sequences", `sequence ${i + 1} has no token to learn; leave it out`);
    }
  });
}

/** A step's numbers, read from the device. `norms` are those of the single tensors, when asked for. */
interface Measured {
  loss: number;
  accuracy: number | undefined;
  norm: number;
  norms: number[] | undefined;
  /** Still on the device. */
  gradScale: Tensor;
}

/** Adds the gradients of a step's passes and reads its loss and norm, all in one read. */
async function gradients(
  model: TrainableModel,
  lora: Lora,
  passes: readonly PlacedPass[],
  clip: number,
  each: boolean,
  signal: AbortSignal | undefined,
): Promise<Measured> {
  const losses: Tensor[] = [];
  const correct: Tensor[] = [];
  try {
    for (const pass of passes) {
      signal?.throwIfAborted();
      const measured = runPass(model, lora, pass);
      losses.push(measured.loss);
      correct.push(measured.correct);
      await nextTurn();
    }
    signal?.throwIfAborted();
    const params = lora.parameters();
    const { numbers, gradScale } = scope(() =>
      noGrad(() => {
        const { norm, gradScale } = clipGradNorm(params, clip || Number.POSITIVE_INFINITY);
        const all = [...losses, ...correct, norm].map((t) => t.reshape(1));
        if (each) all.push(l2Norms(params.map((p) => p.grad ?? p.mul(0))));
        return { numbers: cat(all.map((t) => t.to("f32"))), gradScale };
      }),
    );
    const values = [...(await numbers.data())];
    numbers.dispose();
    const loss = values.splice(0, losses.length).reduce((sum, part) => sum + part, 0);
    const right = values.splice(0, correct.length).reduce((sum, part) => sum + part, 0);
    const predicted = passes.reduce((sum, { targets }) => sum + predictions(targets), 0);
    const [norm, ...norms] = values;
    return {
      loss,
      accuracy: right < 0 ? undefined : right / predicted,
      norm,
      norms: each ? norms : undefined,
      gradScale,
    };
  } finally {
    for (const tensor of [...losses, ...correct]) tensor.dispose();
  }
}

function refuseDivergence(step: number, { loss, norm }: Measured, before: readonly StepResult[]): void {
  if (Number.isFinite(loss) && Number.isFinite(norm)) return;
  const what = Number.isFinite(loss) ? `gradient norm ${norm}` : `loss ${loss}`;
  const last = before.at(-1);
  const history = last ? `; the step before had loss ${last.loss.toFixed(3)} at rate ${last.lr}` : "";
  throw new DivergenceError(
    step,
    `training diverged: ${what} in step ${step}${history}. Nothing was saved; take a lower learning rate, or look for broken weights`,
  );
}

function byKey(lora: Lora, values: readonly number[]): Record<string, number> {
  return Object.fromEntries([...lora.namedParameters()].map(([key], i) => [key, values[i]]));
}
