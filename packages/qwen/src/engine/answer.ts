import { Sampler } from "../generate/sampling.ts";
import type { RowAdapter } from "../model/layers.ts";
import { TextStream, type TokenBytes } from "../tokenizer/text-stream.ts";
import type { EventQueue } from "./event-queue.ts";
import type { PagePool } from "./pages.ts";
import { Sequence } from "./sequence.ts";
import type { EngineEvent, EngineFinishReason, EngineRequest, TokenConstraint } from "./types.ts";

export type ChosenLogprobs = NonNullable<EngineEvent["logprobs"]>[number];

/** A token that was chosen, and what was asked about it. */
export interface ChosenToken {
  readonly token: number;
  readonly logprobs?: ChosenLogprobs;
}

/** What the answers of one request share. */
export interface Submission {
  readonly request: EngineRequest;
  readonly adapter: RowAdapter | undefined;
  readonly events: EventQueue<EngineEvent>;
  /** `performance.now()` */
  readonly at: number;
  /** The reader has left. */
  isLeft: boolean;
  /** Answers that have not ended. */
  unfinished: number;
}

/** What an answer needs besides its request. */
export interface AnswerContext {
  readonly pool: PagePool;
  readonly tokenizer: TokenBytes;
  readonly endTokens: readonly number[];
  /** Tokens there is room for. */
  readonly limit: number;
}

/** Tokens that may be proposed before it counts how many were right, and then one in so many must be. */
const TRIAL = 12;
const LEAST_RIGHT = 4;

/** One answer of a request on its way. */
export class Answer extends Sequence {
  readonly sharesPrefix = true;
  readonly submission: Submission;
  readonly index: number;
  readonly sampler: Sampler;
  readonly constraint: TokenConstraint | undefined;
  /** Tokens of the prompt that were in the cache when it began. */
  cached = 0;
  /** Others of the same request that go on from this one's prompt once it is computed. */
  readonly siblings: Answer[] = [];
  readonly #stream: TextStream;
  readonly #ends: ReadonlySet<number>;
  readonly #limit: number;
  #admittedAt: number | undefined;
  #firstTokenAt: number | undefined;
  #new: { tokens: number[]; logprobs: ChosenLogprobs[]; text: string } = { tokens: [], logprobs: [], text: "" };
  #ending: [EngineFinishReason, (number | string)?] | undefined;
  #ended = false;
  #proposed = 0;
  #right = 0;

  constructor(submission: Submission, index: number, { pool, tokenizer, endTokens, limit }: AnswerContext) {
    const { request, adapter } = submission;
    super(request.tokens, pool, { adapter, priority: request.priority, client: request.client });
    this.submission = submission;
    this.index = index;
    const { seed } = request;
    this.sampler = new Sampler(seed === undefined ? request : { ...request, seed: seed + index });
    this.constraint = request.constraint?.();
    this.#stream = new TextStream(tokenizer, { stop: request.stop, skipSpecialTokens: true });
    this.#ends = new Set(request.ignoreEnd ? [] : (request.endTokens ?? endTokens));
    this.#limit = limit;
  }

  override get prefillLength(): number {
    return this.promptLength - 1;
  }
  /** Can the device choose its next token? */
  get isGreedy(): boolean {
    return this.sampler.greedy && !this.constraint && this.submission.request.logprobs === undefined;
  }
  get ended(): boolean {
    return this.#ended;
  }
  /** Tokens that may still come. */
  get left(): number {
    return this.#limit - (this.tokens.length - this.promptLength);
  }

  /** Were proposed tokens right often enough to go on proposing? Checking them is cheap, but not for nothing. */
  get trustsProposals(): boolean {
    return LEAST_RIGHT * this.#right >= this.#proposed - TRIAL;
  }
  /** So many tokens were proposed, and so many of them became part of the answer. */
  judgeProposals(proposed: number, right: number): void {
    this.#proposed += proposed;
    this.#right += right;
  }

  admitted(now: number): void {
    this.#admittedAt ??= now;
  }

  /**
   * Goes on by a token. What comes of it is sent with {@link flush}.
   *
   * @returns whether the answer goes on
   */
  take({ token, logprobs }: ChosenToken, now: number): boolean {
    this.#firstTokenAt ??= now;
    if (this.#ends.has(token)) {
      this.#ending = ["stop", token];
      return false;
    }
    this.constraint?.accept(token);
    this.tokens.push(token);
    this.#new.tokens.push(token);
    if (logprobs) this.#new.logprobs.push(logprobs);
    this.#new.text += this.#stream.push(token);
    if (this.#stream.stopped !== undefined) this.#ending = ["stop", this.#stream.stopped];
    else if (this.left === 0) this.#ending = ["length"];
    return this.#ending === undefined;
  }

  /** Sends the tokens taken since the last time, and the end if one was met. */
  flush(): void {
    const { index } = this;
    const { request, events } = this.submission;
    const { logprobs, ...fresh } = this.#new;
    this.#new = { tokens: [], logprobs: [], text: "" };
    if (fresh.tokens.length > 0) {
      events.push({ index, ...fresh, ...(request.logprobs === undefined ? {} : { logprobs }) });
    }
    if (this.#ending) this.#end(...this.#ending);
  }

  override interrupted(now: number): "cancelled" | "deadline" | undefined {
    const { request, isLeft } = this.submission;
    if (isLeft || request.signal?.aborted) return "cancelled";
    return request.deadline !== undefined && now >= request.deadline ? "deadline" : undefined;
  }
  override finish(reason: EngineFinishReason): void {
    this.#end(reason);
  }
  override fail(error: unknown): void {
    this.#ended = true;
    // The other answers of the request have no reader any more.
    this.submission.isLeft = true;
    this.submission.events.fail(error);
  }

  #end(finishReason: EngineFinishReason, stoppedBy?: number | string): void {
    if (this.#ended) return;
    this.#ended = true;
    const { submission, index } = this;
    const now = performance.now();
    const since = (at: number | undefined): number => (at ?? now) - submission.at;
    submission.events.push({
      index,
      tokens: [],
      text: this.#stream.end(),
      finishReason,
      ...(stoppedBy === undefined ? {} : { stoppedBy }),
      usage: {
        promptTokens: this.promptLength,
        cachedTokens: this.cached,
        completionTokens: this.tokens.length - this.promptLength,
        queuedMs: since(this.#admittedAt),
        firstTokenMs: since(this.#firstTokenAt),
        totalMs: since(now),
      },
    });
    if (--submission.unfinished === 0) submission.events.close();
  }
}
