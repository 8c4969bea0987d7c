import type { SamplingOptions } from "../generate/sampling.ts";

/**
 * Limits what may come next: the state of a JSON schema, a regular expression or a grammar after the tokens so far.
 * One instance belongs to one answer.
 */
export interface TokenConstraint {
  /**
   * One bit a token (bit i & 31 of word i >> 5): the tokens that may come next. End tokens are set only where the text
   * may end. Belongs to the constraint and is overwritten by the next call.
   */
  allowed(): Uint32Array;
  /** Goes on by a token that was allowed. @throws RangeError when it was not */
  accept(token: number): void;
  /** The same state once more, for another answer or for tokens that are only proposed. */
  clone(): TokenConstraint;
}

/** What is asked of the engine: a prompt in tokens and how to go on from it. */
export interface EngineRequest extends SamplingOptions {
  /** The prompt, at least one token. */
  readonly tokens: readonly number[];
  /** Name of a loaded adapter; null or absent: the base model. */
  readonly adapter?: string | null;
  /** At most so many new tokens, end tokens not counted. Default: as many as there is room for. */
  readonly maxNewTokens?: number;
  /** Answers wanted, each with its own seed (`seed + index`). Default 1. */
  readonly n?: number;
  /** The answer ends before the first of these texts. */
  readonly stop?: readonly string[];
  /** Tokens that end the answer; those of the model unless given. */
  readonly endTokens?: readonly number[];
  /** Do not end at end tokens. Default false. */
  readonly ignoreEnd?: boolean;
  /** Log-probabilities of the chosen token and of so many likeliest ones at each place; absent: none. */
  readonly logprobs?: number;
  /** Makes the constraint of each answer. */
  readonly constraint?: () => TokenConstraint;
  /** Requests of higher priority are admitted first. Default 0. */
  readonly priority?: number;
  /** Whose request it is: those who wait are admitted in turns among clients of one priority. */
  readonly client?: string;
  /** `performance.now()` at which a request that is not done ends with `deadline`. */
  readonly deadline?: number;
  /** Ends the answer at the next token with `cancelled`. */
  readonly signal?: AbortSignal;
}

/** Why an answer ended. */
export type EngineFinishReason = "stop" | "length" | "cancelled" | "deadline";

/** log P of a token among all tokens, before temperature and filters. */
export interface TokenLogprob {
  readonly token: number;
  readonly logprob: number;
}

/** A piece of one of a request's answers, or its end. */
export interface EngineEvent {
  /** Which of the n answers. */
  readonly index: number;
  /** The new tokens' ids, usually one; several where proposed ones were accepted; none in the last event. */
  readonly tokens: readonly number[];
  /** What text is certain with them, in whole characters; often none. */
  readonly text: string;
  /** For each token, where asked for: its own log-probability and the likeliest ones'. */
  readonly logprobs?: readonly { readonly chosen: TokenLogprob; readonly top: readonly TokenLogprob[] }[];
  /** Set in an answer's last event. */
  readonly finishReason?: EngineFinishReason;
  /** In the last event: the end token or stop text that ended it. */
  readonly stoppedBy?: number | string;
  /** In the last event of each answer. */
  readonly usage?: EngineUsage;
}

export interface EngineUsage {
  readonly promptTokens: number;
  /** Of the prompt, those whose keys and values were there already. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
  /** Milliseconds from submission: until admitted, until the first token, until the end. */
  readonly queuedMs: number;
  readonly firstTokenMs: number;
  readonly totalMs: number;
}

/** What the engine is doing now; for health checks and metrics. */
export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  /** Rows of the key/value cache: in use by running answers, kept for reuse, in all. */
  readonly cache: { readonly used: number; readonly kept: number; readonly capacity: number };
  /** Of prompt tokens so far, those taken from the cache. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** Sequences in the last pass. */
  readonly batch: number;
  /** `performance.now()` of the last finished pass, for telling a stalled engine. */
  readonly lastPassAt: number;
}

/** The request cannot be taken now or at all. */
export class EngineRejection extends Error {
  override readonly name = "EngineRejection";
  readonly reason: "queue-full" | "too-long" | "unknown-adapter" | "closing";

  constructor(reason: EngineRejection["reason"], message: string) {
    super(message);
    this.reason = reason;
  }
}

/**
 * Many answers at once from one model: continuous batching over a cache of fixed size. Answers do not depend on what
 * else is being answered.
 */
export interface GenerationEngine {
  /**
   * Queues a request; its events come in order for each answer. Leaving the loop (`break`) cancels it.
   *
   * @throws EngineRejection RangeError naming an option out of its range
   */
  generate(request: EngineRequest): AsyncIterable<EngineEvent>;
  /** Mean of the last hidden states of each text's tokens, f32 [hidden], not normalised. */
  embed(texts: readonly (readonly number[])[], options?: { signal?: AbortSignal }): Promise<Float32Array[]>;
  readonly stats: EngineStats;
  /** Stops taking requests and waits for those that run; after `graceMs` the rest are cancelled. */
  drain(graceMs: number): Promise<void>;
}
