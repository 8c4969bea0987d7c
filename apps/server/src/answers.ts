import type { Logger } from "pino";
import type { Admission } from "./admission.ts";
import type { AnswerEvent, AnswerRequest, Backend } from "./backend.ts";
import type { Context } from "./env.ts";
import { ApiError } from "./errors.ts";
import type { RateLimits } from "./http/rate-limit.ts";
import { streamOf } from "./http/stream.ts";
import type { Limits } from "./limits.ts";
import type { Metrics } from "./metrics.ts";

/** Pieces of answers and their ends. */
export type AnswerPart = Exclude<AnswerEvent, { kind: "start" }>;
export type AnswerStart = Extract<AnswerEvent, { kind: "start" }>;
export type AnswerEnd = Extract<AnswerEvent, { kind: "end" }>;

/** A request that was taken. */
export interface Answer {
  readonly start: AnswerStart;
  /** Throws an ApiError when it fails on the way, or takes too long. */
  readonly parts: AsyncIterable<AnswerPart>;
  /** Nobody wants the rest. */
  abandon(reason: Error): void;
}

export interface AnswersOptions {
  readonly backend: Backend;
  readonly logger: Logger;
  readonly limits: Limits;
  readonly metrics: Metrics;
  readonly admission: Admission;
  readonly rates: RateLimits;
}

/** Brings requests of all routes to the backend: within the limits, counted, and ended with their client. */
export class Answers {
  readonly #options: AnswersOptions;
  readonly #running = new Set<Promise<void>>();
  readonly #ending = new AbortController();
  #isDraining = false;

  constructor(options: AnswersOptions) {
    this.#options = options;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }
  /** Aborts when the server gives up what still runs. */
  get ending(): AbortSignal {
    return this.#ending.signal;
  }

  /** Refuses what comes while the server ends. @throws ApiError "unavailable" */
  checkOpen(): void {
    if (this.#isDraining) throw shuttingDown();
  }

  /** Hands a request to the backend, and waits until it was taken. @throws ApiError when it is not */
  async begin(c: Context, request: AnswerRequest): Promise<Answer> {
    this.checkOpen();
    const { backend, limits, admission } = this.#options;
    const client = c.get("client");
    const most = client.key?.concurrency ?? limits.perClient;
    const leave = admission.enter(client.name, request.n ?? 1, most);
    const gone = new AbortController();
    const signal = AbortSignal.any([gone.signal, c.req.raw.signal, this.ending]);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#track(promise);
    const done = (): void => {
      leave();
      resolve();
    };
    const timed: AnswerRequest = {
      ...request,
      client: client.name,
      priority: client.key?.priority,
      timeoutMs: limits.answerSeconds * 1000,
    };
    const events = backend.answer(timed, signal)[Symbol.asyncIterator]();
    try {
      const first = await events.next();
      if (first.done || first.value.kind !== "start") throw new Error("the backend did not begin with a start");
      const start = first.value;
      this.#options.metrics.promptTokens.inc(start.promptTokens);
      this.#options.metrics.droppedTokens.inc(start.droppedTokens);
      const parts = this.#parts(events, done, c, start);
      return { start, parts, abandon: (reason) => gone.abort(reason) };
    } catch (error) {
      done();
      throw this.ending.aborted ? shuttingDown() : error;
    }
  }

  /** Vectors of inputs, within the limits; see `Backend.embed`. */
  async embed(c: Context, inputs: readonly (string | readonly number[])[]) {
    this.checkOpen();
    const { backend, limits, admission, metrics } = this.#options;
    const client = c.get("client");
    const leave = admission.enter(client.name, 1, client.key?.concurrency ?? limits.perClient);
    const late = AbortSignal.timeout(limits.answerSeconds * 1000);
    const work = backend.embed(inputs, AbortSignal.any([c.req.raw.signal, this.ending, late])).finally(leave);
    this.#track(work);
    try {
      const result = await work;
      metrics.promptTokens.inc(result.tokens);
      return result;
    } catch (error) {
      if (this.ending.aborted) throw shuttingDown();
      throw late.aborted ? tookTooLong(limits.answerSeconds) : error;
    }
  }

  /** What the server waits for before it ends. */
  #track(work: Promise<unknown>): void {
    const over = work.then(
      () => {},
      () => {},
    );
    this.#running.add(over);
    void over.then(() => this.#running.delete(over));
  }

  async *#parts(
    events: AsyncIterator<AnswerEvent>,
    done: () => void,
    c: Context,
    start: AnswerStart,
  ): AsyncGenerator<AnswerPart> {
    const { metrics } = this.#options;
    const last = new Map<number, number>();
    const usage = { prompt_tokens: start.promptTokens, completion_tokens: 0 };
    const began = performance.now();
    try {
      for (;;) {
        const { value, done: isOver } = await events.next();
        if (isOver || value === undefined) return;
        if (value.kind === "start") continue;
        const now = performance.now();
        if (value.kind === "piece") {
          const before = last.get(value.index);
          if (before === undefined) metrics.firstTokenSeconds.observe((now - began) / 1000);
          else if (value.tokens > 0) metrics.betweenTokensSeconds.observe((now - before) / 1000 / value.tokens);
          last.set(value.index, now);
        } else {
          usage.completion_tokens += value.usage.completionTokens;
          metrics.generatedTokens.inc(value.usage.completionTokens);
          metrics.cachedTokens.inc(value.usage.cachedTokens);
          metrics.queueSeconds.observe(value.usage.queuedMs / 1000);
          metrics.answers.inc({ reason: value.finishReason });
          if (value.finishReason === "deadline") throw tookTooLong(this.#options.limits.answerSeconds);
        }
        yield value;
      }
    } catch (error) {
      throw this.ending.aborted ? shuttingDown() : error;
    } finally {
      Object.assign(c.get("outcome"), usage);
      await this.#options.rates.tokens(c.get("client"), usage.prompt_tokens + usage.completion_tokens);
      // Where the reader left in the middle, the backend ends the answer before its place is given on.
      await events.return?.().catch(() => {});
      done();
    }
  }

  /** An answer as a stream; `lines` are what is sent, made of the answer's parts. */
  stream(
    c: Context,
    answers: Answer | readonly Answer[],
    lines: AsyncIterable<string>,
    options: { contentType: string; keepAlive?: string; showError: (error: ApiError) => string },
  ): Response {
    const { logger, limits } = this.#options;
    const begin = performance.now();
    const all = [answers].flat() as readonly Answer[];
    const { requestId, outcome } = { requestId: c.get("requestId"), outcome: c.get("outcome") };
    const whenComplete = c.get("whenComplete");
    c.set("whenComplete", undefined);
    return streamOf(lines, {
      contentType: options.contentType,
      keepAlive: options.keepAlive,
      unreadBytes: limits.unreadBytes,
      abandon: (reason) => {
        for (const answer of all) answer.abandon(reason);
      },
      onError: (error) => {
        if (c.req.raw.signal.aborted) return undefined;
        return options.showError(this.shown(error, requestId));
      },
      onEnd: (how) => {
        whenComplete?.();
        const ms = Math.round(performance.now() - begin);
        logger.info({ request_id: requestId, ms, ...outcome, ...(how === "complete" ? {} : { how }) }, "stream ended");
      },
    });
  }

  /** What a client is told of an error; what it must not know goes into the log alone. */
  shown(error: unknown, requestId: string): ApiError {
    if (error instanceof ApiError) return error;
    if (this.ending.aborted) return shuttingDown();
    this.#options.logger.error({ err: error, request_id: requestId }, "a request failed");
    return new ApiError("internal", `the server failed on this request; its log says why (request ${requestId})`);
  }

  /** Takes nothing more, and waits for what runs; what is not done after `graceMs` is ended. */
  async drain(graceMs: number): Promise<void> {
    this.#isDraining = true;
    const timer = setTimeout(
      () => this.#ending.abort(new DOMException("the server is shutting down", "AbortError")),
      graceMs,
    );
    while (this.#running.size > 0) await Promise.all(this.#running);
    clearTimeout(timer);
  }
}

function shuttingDown(): ApiError {
  return new ApiError("unavailable", "the server is shutting down", { retryAfter: 5 });
}

function tookTooLong(seconds: number): ApiError {
  return new ApiError("timeout", `the answer took longer than ${seconds} seconds; ask for fewer tokens`);
}
