import { noGrad, scope } from "@tslm/tensor";
import { KeyValueCache } from "../model/cache.ts";
import type { LanguageModel } from "../model/pass.ts";
import { nextTurn } from "../turn.ts";
import { PREFILL_ROWS } from "./generate.ts";

/** Rows whose logits are on the host at once: 5 MB of a vocabulary of 151,936 tokens. */
const ROWS = 8;

/**
 * How unsure a model is at each token of an answer: the entropy −Σ p ln p of what it might have said there, in nats, 0 where
 * only one token was possible and ln(vocabulary) where all were alike.
 *
 * @param ids prompt and answer, at least one token
 * @param from where the answer begins, at least 1
 * @returns of ids[from] up to the last id, and of the token that would follow
 * @throws ContextLengthError if the text is longer than the model's positions
 */
export async function entropies(
  model: LanguageModel,
  ids: readonly number[],
  from: number,
  { signal }: { signal?: AbortSignal } = {},
): Promise<number[]> {
  if (!(from >= 1 && from <= ids.length)) {
    throw new RangeError(`the answer must begin at one of the places 1 to ${ids.length}, but is said to at ${from}`);
  }
  using cache = new KeyValueCache(model.config, {
    capacity: Math.min(ids.length, model.config.maxPositionEmbeddings),
    device: model.device,
  });
  const found: number[] = [];
  for (let at = 0; at < ids.length; at += PREFILL_ROWS) {
    await nextTurn();
    signal?.throwIfAborted();
    const chunk = ids.slice(at, at + PREFILL_ROWS);
    // Row i tells what follows ids[i].
    const first = Math.max(0, from - 1 - at);
    using hidden = noGrad(() => scope(() => model.hidden(cache.extend(chunk))));
    for (let row = first; row < chunk.length; row += ROWS) {
      using logits = noGrad(() => scope(() => model.logits(hidden.slice(0, row, Math.min(row + ROWS, chunk.length)))));
      const values = (await logits.data()) as Float32Array;
      const { vocabSize } = model.config;
      for (let i = 0; i < values.length; i += vocabSize) found.push(entropyOf(values.subarray(i, i + vocabSize)));
    }
  }
  return found;
}

/** The entropy in nats of the distribution softmax(logits): ln Σ exp(l) − Σ p l, with the largest logit taken off. */
export function entropyOf(logits: Float32Array): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > most) most = logit;
  let [sum, weighted] = [0, 0];
  for (const logit of logits) {
    const shifted = logit - most;
    const weight = Math.exp(shifted);
    sum += weight;
    // exp(−∞) · −∞ is no number; its limit is 0.
    if (weight > 0) weighted += weight * shifted;
  }
  return Math.log(sum) - weighted / sum;
}
