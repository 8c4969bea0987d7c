import { noGrad, scope } from "@tslm/tensor";
import { DivergenceError } from "../errors.ts";
import { packPasses, type TrainableModel, type TrainingSequence } from "./pass.ts";
import { nextTurn } from "./turn.ts";

/**
 * Mean loss over all predicted tokens of held-out sequences, without a gradient. Dropout must be off.
 * @throws the signal's reason when it aborts between two passes; DivergenceError when the loss is no number
 */
export async function validationLoss(
  model: TrainableModel,
  sequences: readonly TrainingSequence[],
  { tokensPerPass, step, signal }: { tokensPerPass: number; step: number; signal?: AbortSignal },
): Promise<number> {
  let sum = 0;
  for (const { rows: _, ...pass } of packPasses(sequences, tokensPerPass)) {
    signal?.throwIfAborted();
    const loss = noGrad(() => scope(() => model.loss(pass)));
    sum += await loss.item().finally(() => loss.dispose());
    await nextTurn();
  }
  if (Number.isFinite(sum)) return sum;
  throw new DivergenceError(
    step,
    `training diverged: validation loss ${sum} after step ${step}. Nothing was saved; take a lower learning rate`,
  );
}

/** Is the validation loss computed, and are the samples asked, after this step? Every so many steps, and at each epoch's end. */
export function isEvaluated(step: number, stepsPerEpoch: number, evalEvery: number): boolean {
  return step % stepsPerEpoch === 0 || (evalEvery > 0 && step % evalEvery === 0);
}
