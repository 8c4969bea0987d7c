import { z } from "zod";

/** What came out of a trial, trained up to the epochs of one rung. */
export const resultSchema = z.object({
  /** From 0. */
  trial: z.int().min(0),
  /** From 0: see {@link rungs}. */
  rung: z.int().min(0),
  /** failed: the settings made the training diverge, or left the adapter as it was. */
  status: z.enum(["done", "failed"]),
  /** Why it failed. */
  error: z.string().optional(),
  epochs: z.int().min(1),
  steps: z.int().min(0),
  /** The diagnosis' word. */
  verdict: z.string().optional(),
  /** Share of the facts that the answers to the sample questions have to say, from 0 to 1; undefined where none is known. */
  answered: z.number().min(0).max(1).optional(),
  /** Training loss of the last epoch. */
  loss: z.number().optional(),
  validation_loss: z.number().optional(),
  /** Of this rung alone, from the start of its process to its end. */
  seconds: z.number().min(0),
  /** Peak memory of its process, without mapped files. */
  memory_bytes: z.number().min(0).optional(),
  samples: z.array(
    z.object({ question: z.string(), expected: z.string().optional(), before: z.string(), after: z.string() }),
  ),
});
export type TrialResult = z.output<typeof resultSchema>;

/** A training that broke the model. */
const BROKEN: ReadonlySet<string> = new Set(["collapse", "divergence"]);

/** May the adapter be kept: did the training neither fail nor break the model? */
export function isUsable({ status, verdict = "" }: Pick<TrialResult, "status" | "verdict">): boolean {
  return status === "done" && !BROKEN.has(verdict);
}

/**
 * Orders results, the better one first: what broke comes last; then by the facts that the sample questions are answered
 * with; then by the validation loss, and where there is none by the training loss.
 */
export function compareResults(a: TrialResult, b: TrialResult): number {
  const usable = Number(isUsable(b)) - Number(isUsable(a));
  if (usable !== 0) return usable;
  const done = Number(b.status === "done") - Number(a.status === "done");
  if (done !== 0) return done;
  const answered = (b.answered ?? 0) - (a.answered ?? 0);
  if (answered !== 0) return answered;
  const [left, right] =
    a.validation_loss !== undefined && b.validation_loss !== undefined
      ? [a.validation_loss, b.validation_loss]
      : [a.loss, b.loss];
  const byLoss = (left ?? Number.MAX_VALUE) - (right ?? Number.MAX_VALUE);
  // Of equals the one with fewer epochs, then the earlier: the order is total, so that a search can be repeated.
  return byLoss || a.epochs - b.epochs || a.trial - b.trial;
}

/** The best result whose adapter may be kept. */
export function bestOf(results: readonly TrialResult[]): TrialResult | undefined {
  return results.filter(isUsable).toSorted(compareResults)[0];
}

/** The last rung of each trial, the best trial first. */
export function finalResults(results: readonly TrialResult[]): TrialResult[] {
  const last = new Map<number, TrialResult>();
  for (const result of results) {
    if (result.rung >= (last.get(result.trial)?.rung ?? -1)) last.set(result.trial, result);
  }
  return [...last.values()].sort(compareResults);
}
