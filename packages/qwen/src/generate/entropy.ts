import { cat, noGrad, scope, type Tensor } from "@tslm/tensor";
import { KeyValueCache } from "../model/cache.ts";
import type { LanguageModel } from "../model/pass.ts";
import { nextTurn } from "../turn.ts";
import { PREFILL_ROWS } from "./generate.ts";

/** Rows whose logits are in memory at once: 5 MB of a vocabulary of 151,936 tokens. */
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
      const rows = Math.min(ROWS, chunk.length - row);
      using sums = noGrad(() => scope(() => sumsOf(model.logits(hidden.slice(0, row, row + rows)))));
      const values = await sums.data();
      for (let i = 0; i < rows; i++) found.push(Math.log(values[i]) - values[rows + i] / values[i]);
    }
  }
  return found;
}

/**
 * Of logits [rows, vocabulary], with each row's largest taken off: first Σ exp(l) of every row, then Σ exp(l)·l, [2·rows]. The entropy
 * is ln of the first less their quotient. Summed where the logits are: brought to the host, each row would be 600 KB to collect.
 */
function sumsOf(logits: Tensor): Tensor {
  const shifted = logits.sub(logits.amax(1, true));
  const weights = shifted.exp();
  return cat([weights.sum(1), weights.mul(shifted).sum(1)]);
}
