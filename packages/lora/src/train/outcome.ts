import { DivergenceError, UnchangedError } from "../errors.ts";
import type { Lora } from "../lora.ts";

/**
 * Refuses an adapter that training broke or did not move, so that it does not take the place of a good one.
 *
 * @param before the adapter's norms before training, of {@link Lora.norms}
 * @throws DivergenceError when a weight is no number; UnchangedError when no tensor has changed
 */
export async function checkOutcome(lora: Lora, before: Readonly<Record<string, number>>, step: number): Promise<void> {
  const norms = await lora.norms();
  const broken = Object.keys(norms).find((key) => !Number.isFinite(norms[key]));
  if (broken !== undefined) {
    throw new DivergenceError(
      step,
      `training diverged: after step ${step} ${broken} holds a number that is not finite. Nothing was saved; take a lower learning rate`,
    );
  }
  if (Object.keys(norms).every((key) => norms[key] === before[key])) {
    throw new UnchangedError(
      "training changed nothing: the adapter is what it was before. Nothing was saved; raise the learning rate, or look for data whose answers are empty",
    );
  }
}
