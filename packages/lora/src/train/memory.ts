import { memory } from "@tslm/tensor";
import type { TrainableModel, TrainingSequence } from "./pass.ts";

/** Share of the available memory that a pass may take: the rest is for packing, tables and the system. */
const SHARE = 0.8;

/** Bytes that this process may still use, mapped weights to be read included; a container's limit counts. Browsers tell no limit. */
export function availableMemory(): number {
  return globalThis.process?.availableMemory?.() ?? Number.POSITIVE_INFINITY;
}

/** Rows of the largest pass that a run can have, in whatever order its sequences come. */
export function largestPass(sequences: readonly TrainingSequence[], perStep: number, tokensPerPass: number): number {
  const lengths = sequences.map(({ tokens }) => tokens.length).sort((a, b) => b - a);
  const together = lengths.slice(0, perStep).reduce((sum, n) => sum + n, 0);
  return Math.max(lengths[0] ?? 0, Math.min(tokensPerPass, together));
}

/**
 * The rule by which a run computes its layers again on the way back instead of keeping what their gradients need: the
 * largest pass would not fit into the memory that is available, the mapped weights being read as well. The result is the
 * same to the last bit, a step takes about a third longer.
 */
export function needsRecompute(model: TrainableModel, rows: number, available: number): boolean {
  if (model.recompute === undefined || !model.activationBytes) return false;
  return model.activationBytes(rows, false) > SHARE * available - memory().mappedBytes;
}
