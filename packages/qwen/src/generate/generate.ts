import { noGrad, scope, type Tensor } from "@tslm/tensor";
import type { TokenConstraint } from "../engine/types.ts";
import { KeyValueCache } from "../model/cache.ts";
import { Decoding } from "../model/decoding.ts";
import { ContextLengthError, type LanguageModel } from "../model/pass.ts";
import { TextStream, type TokenBytes } from "../tokenizer/index.ts";
import { nextTurn } from "../turn.ts";
import { maskScores } from "./penalties.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";

/** Why an answer ended: an end token or a stop string; the limit of tokens or positions; the signal. */
export type FinishReason = "stop" | "length" | "cancelled";

export interface GenerateOptions extends SamplingOptions {
  /** At most so many tokens, the end token not counted. Default: as many as the model has positions for. */
  readonly maxNewTokens?: number;
  /** The answer ends before the first of these texts. */
  readonly stop?: readonly string[];
  /** Tokens that end the answer; those of `generation_config.json` unless given. */
  readonly endTokens?: readonly number[];
  /** Makes what limits the answer's tokens, for example `jsonSchemaConstraint(schema, tokenizer)`. */
  readonly constraint?: () => TokenConstraint;
  /** Ends the answer at the next token with `cancelled`. */
  readonly signal?: AbortSignal;
  /** Leave control tokens out of the text. Default true. */
  readonly skipSpecialTokens?: boolean;
}

/** A new token, or the end. */
export interface GenerationStep {
  /** The new token; undefined in the last step. */
  readonly token: number | undefined;
  /** What text is certain with it, in whole characters; often none. All steps' texts joined are the answer. */
  readonly text: string;
  /** Set in the last step. */
  readonly finishReason: FinishReason | undefined;
  /** In the last step: the end token that was chosen, which is no part of the answer. */
  readonly endToken: number | undefined;
}

/** Rows of a prompt that go through the model at once: memory stays bounded and a signal is heard in between. */
export const PREFILL_ROWS = 512;

/** Hidden state [1, hidden] of the last token, the cache extended by all. */
async function prefill(
  model: LanguageModel,
  cache: KeyValueCache,
  tokens: readonly number[],
  signal: AbortSignal | undefined,
): Promise<Tensor | undefined> {
  for (let at = 0; ; at += PREFILL_ROWS) {
    await nextTurn();
    if (signal?.aborted) return undefined;
    const chunk = tokens.slice(at, at + PREFILL_ROWS);
    const last = noGrad(() =>
      scope(() => {
        const hidden = model.hidden(cache.extend(chunk));
        return at + PREFILL_ROWS < tokens.length ? undefined : hidden.slice(0, -1).clone();
      }),
    );
    if (last) return last;
    await cache.device.synchronize();
  }
}

/** What chooses a token: also the tokens so far, of which the answer begins at `from`. */
interface Choosing {
  readonly sampler: Sampler;
  readonly constraint: TokenConstraint | undefined;
  /** The scores are the likeliest token's id already. */
  readonly isGreedy: boolean;
  readonly seen: readonly number[];
  readonly from: number;
}

/** The token that follows, from the scores of all tokens. */
async function nextToken(scores: Tensor, { sampler, constraint, isGreedy, seen, from }: Choosing): Promise<number> {
  const values = await scores.data();
  if (isGreedy) return values[0];
  const logits = values as Float32Array;
  if (constraint) maskScores(logits, constraint.allowed());
  return await sampler.choose(logits, seen, from);
}

/**
 * Continues a text token by token. The prompt goes through the model once, then each token costs one row.
 *
 * @param ids the prompt, at least one token
 * @throws ContextLengthError if the prompt leaves no position for an answer; RangeError naming an option out of its range
 */
export async function* generate(
  model: LanguageModel,
  tokenizer: TokenBytes,
  ids: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<GenerationStep, void, undefined> {
  const { maxNewTokens = Number.POSITIVE_INFINITY, endTokens = [], signal } = options;
  if (!(maxNewTokens >= 0 && (Number.isSafeInteger(maxNewTokens) || maxNewTokens === Number.POSITIVE_INFINITY))) {
    throw new RangeError(`maxNewTokens must be a whole number of at least 0, but is ${maxNewTokens}`);
  }
  if (ids.length === 0) throw new RangeError("the prompt is empty; generation needs at least one token");
  const positions = model.config.maxPositionEmbeddings;
  if (ids.length > positions) {
    throw new ContextLengthError(ids.length, positions, "the model (max_position_embeddings)");
  }
  const sampler = new Sampler(options);
  const constraint = options.constraint?.();
  const stream = new TextStream(tokenizer, {
    stop: options.stop,
    skipSpecialTokens: options.skipSpecialTokens ?? true,
  });
  const ends = new Set(endTokens);
  const finish = (finishReason: FinishReason, endToken?: number): GenerationStep => ({
    token: undefined,
    text: stream.end(),
    finishReason,
    endToken,
  });
  // The last token of an answer needs no row of its own: nothing follows it.
  const limit = Math.min(maxNewTokens, positions - ids.length + 1);
  if (limit <= 0) return yield finish("length");

  const cache = new KeyValueCache(model.config, {
    capacity: Math.min(positions, ids.length + Math.min(limit, 256)),
    device: model.device,
  });
  // A device gives back one number where that is all that is asked for.
  const isGreedy = sampler.greedy && !constraint;
  const scoresOf = (hidden: Tensor): Tensor => {
    const logits = model.logits(hidden);
    return isGreedy ? logits.argmax() : logits;
  };
  using decoding = new Decoding(model, scoresOf);
  let first: Tensor | undefined;
  try {
    const hidden = await prefill(model, cache, ids, signal);
    first = hidden && noGrad(() => scope(() => scoresOf(hidden)));
    hidden?.dispose();
    let scores = first;
    const seen = [...ids];
    for (let made = 0; ; made++) {
      // Timers, sockets and signals get their turn: a device on the host never waits for anything.
      await nextTurn();
      if (signal?.aborted || !scores) return yield finish("cancelled");
      const token = await nextToken(scores, { sampler, constraint, isGreedy, seen, from: ids.length });
      if (ends.has(token)) return yield finish("stop", token);
      constraint?.accept(token);
      seen.push(token);
      const text = stream.push(token);
      yield { token, text, finishReason: undefined, endToken: undefined };
      if (stream.stopped !== undefined) return yield finish("stop");
      if (made + 1 >= limit) return yield finish("length");
      first?.dispose();
      scores = decoding.run(cache.extend([token]));
    }
  } finally {
    first?.dispose();
    cache.dispose();
  }
}
