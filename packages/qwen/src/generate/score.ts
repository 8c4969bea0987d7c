import { noGrad, scope } from "@tslm/tensor";
import { KeyValueCache } from "../model/cache.ts";
import type { LanguageModel } from "../model/pass.ts";
import { nextTurn } from "../turn.ts";
import { PREFILL_ROWS } from "./generate.ts";

/** What a model thinks of a text. */
export interface Score {
  /** `tokenLogprobs[i]` is the log-probability of `ids[i + 1]` after those before it. */
  readonly tokenLogprobs: readonly number[];
  /** The ten best tokens after the text and their logits, best first. */
  readonly top: readonly (readonly [id: number, logit: number])[];
  /** log Σ exp(logits) over the vocabulary, after the text. */
  readonly logsumexp: number;
  /** Logits after the text [vocabSize]. */
  readonly logits: Float32Array;
}

const TOP = 10;

/**
 * Log-probabilities of a text's own tokens and what would follow it. The text goes through in chunks of rows and no
 * logits are kept but the last row's, so long texts take little memory.
 *
 * @param ids at least one token
 * @throws ContextLengthError if the text is longer than the model's positions
 */
export async function score(
  model: LanguageModel,
  ids: readonly number[],
  { signal }: { signal?: AbortSignal } = {},
): Promise<Score> {
  if (ids.length === 0) throw new RangeError("there is no text to score; it needs at least one token");
  using cache = new KeyValueCache(model.config, {
    capacity: Math.min(ids.length, model.config.maxPositionEmbeddings),
    device: model.device,
  });
  const tokenLogprobs: number[] = [];
  for (let at = 0; ; at += PREFILL_ROWS) {
    await nextTurn();
    signal?.throwIfAborted();
    const chunk = ids.slice(at, at + PREFILL_ROWS);
    const targets = Int32Array.from(chunk, (_, i) => ids[at + i + 1] ?? -1);
    const isLast = at + PREFILL_ROWS >= ids.length;
    const { losses, logits } = noGrad(() =>
      scope(() => {
        const hidden = model.hidden(cache.extend(chunk));
        return {
          losses: model.tokenLosses(hidden, targets),
          logits: isLast ? model.logits(hidden.slice(0, -1)) : undefined,
        };
      }),
    );
    const values = await losses.data();
    losses.dispose();
    for (let i = 0; i < chunk.length; i++) if (targets[i] >= 0) tokenLogprobs.push(-values[i]);
    if (!logits) continue;
    const last = (await logits.data()) as Float32Array;
    logits.dispose();
    return { tokenLogprobs, top: mostLikely(last, TOP), logsumexp: logSumExp(last), logits: last };
  }
}

/** exp of the mean negative log-probability over all tokens of all texts; NaN where there is no token. */
export function perplexity(scores: readonly Pick<Score, "tokenLogprobs">[]): number {
  let sum = 0;
  let count = 0;
  for (const { tokenLogprobs } of scores) {
    for (const value of tokenLogprobs) sum += value;
    count += tokenLogprobs.length;
  }
  return Math.exp(-sum / count);
}

/** The `count` tokens with the largest logits, best first; of equals the first. */
export function mostLikely(logits: Float32Array, count: number): [id: number, logit: number][] {
  const top: [number, number][] = [];
  if (count === 0) return top;
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id];
    if (top.length === count && !(value > top[count - 1][1])) continue;
    let at = top.length;
    while (at > 0 && top[at - 1][1] < value) at--;
    top.splice(at, 0, [id, value]);
    if (top.length > count) top.pop();
  }
  return top;
}

/** log Σ exp(values) */
export function logSumExp(values: Float32Array): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const value of values) if (value > most) most = value;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - most);
  return most + Math.log(sum);
}
