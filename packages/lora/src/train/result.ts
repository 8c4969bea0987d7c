/** What happened in one optimiser step; the names are those of the commands' JSON. */
export interface StepResult {
  /** From 1. */
  step: number;
  /** From 1. */
  epoch: number;
  /** Mean over the step's predicted tokens. */
  loss: number;
  /** Share of the predicted tokens that were the likeliest one; undefined where the model does not tell. */
  token_accuracy?: number;
  /** Global L2 norm of the gradient before clipping. */
  grad_norm: number;
  /** Learning rate of the step. */
  lr: number;
  /** Tokens of the step's sequences. */
  tokens: number;
  seconds: number;
  /** Mean loss over the predicted tokens of the validation data after the step, without dropout; where it was evaluated. */
  validation_loss?: number;
  /** On the first step: the gradient's L2 norm of each of the adapter's tensors, by key. */
  first_grad_norms?: Record<string, number>;
}

/**
 * Why a run ended before its last step: the validation loss did not improve any more (`early-stop`), every sample was
 * answered (`learned`), `onStep` said so (`asked`), or gave it up (`hopeless`).
 */
export const STOP_REASONS = ["early-stop", "learned", "asked", "hopeless"] as const;
export type StopReason = (typeof STOP_REASONS)[number];

/** The evaluation with the lowest validation loss. */
export interface BestStep {
  step: number;
  validation_loss: number;
}

export interface TrainResult {
  /** All steps, those before a resumption too. */
  steps: StepResult[];
  /** Tokens of all sequences, as often as they were seen. */
  tokens: number;
  seconds: number;
  /** While steps were computed: without evaluations, questions on the way and saves. */
  tokens_per_second: number;
  /** Layers were computed again for their gradients, because memory would not have held all of a pass. */
  recomputed: boolean;
  /** With validation data: the step whose weights had the lowest loss. */
  best?: BestStep;
  /** The step whose weights the adapter has now: the best, or the last. */
  step: number;
  /** Undefined where all steps were done. */
  stopped?: StopReason;
}
