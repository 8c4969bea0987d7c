import { createHash } from "node:crypto";
import type { Module } from "@tslm/tensor";
import type { TrainingSequence } from "./pass.ts";

/** Rows that are looked at of each of a model's tensors. */
const ROWS = 2;

/**
 * Tells models apart by the numbers that are computed with, wherever their files lie: SHA-256 of all tensors' names,
 * types and shapes, and of the first rows of each (all of a model would take a second a gigabyte). Unlike
 * `baseFingerprint`, a model and its rounded copy differ: a run can only go on bit for bit with the very same weights.
 */
export async function modelFingerprint(model: Module): Promise<string> {
  const hash = createHash("sha256");
  for (const [name, tensor] of model.namedParameters()) {
    const { dtype, shape, rank } = tensor;
    hash.update(JSON.stringify([name, dtype, shape]));
    const rows = rank > 1 ? tensor.slice(0, 0, Math.min(ROWS, shape[0])) : tensor.alias();
    hash.update(await rows.bytes().finally(() => rows.dispose()));
  }
  return hash.digest("hex");
}

/** Tells training data apart by what is trained of it: SHA-256 of the sequences in their order. */
export function dataFingerprint(sequences: readonly TrainingSequence[]): string {
  const hash = createHash("sha256");
  for (const sequence of sequences) hash.update(`${JSON.stringify(sequence)}\n`);
  return hash.digest("hex");
}
