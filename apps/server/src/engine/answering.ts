import type { EngineRequest, GenerationEngine, TokenConstraint, Tokenizer, TokenLogprob } from "@tslm/qwen";
import { EngineRejection } from "@tslm/qwen";
import type { AnswerEvent, AnswerRequest, ConstraintSpec, ShownToken } from "../backend.ts";
import { ApiError } from "../errors.ts";
import type { Adapters } from "./adapters.ts";
import { fit } from "./fit.ts";
import type { Prompts } from "./prompts.ts";

export interface AnsweringParts {
  readonly engine: GenerationEngine;
  readonly tokenizer: Tokenizer;
  readonly prompts: Prompts;
  readonly adapters: Adapters;
  readonly positions: number;
  /** The model's own. */
  readonly endTokens: readonly number[];
  /** Makes what an answer must follow. @throws ApiError "invalid_request" for what cannot be followed */
  readonly constraint: (spec: ConstraintSpec) => () => TokenConstraint;
}

/** Answers one request: its prompt in tokens, cut to fit, through the engine, and told in texts. */
export async function* answerEvents(
  request: AnswerRequest,
  signal: AbortSignal,
  { engine, tokenizer, prompts, adapters, positions, endTokens, constraint }: AnsweringParts,
): AsyncGenerator<AnswerEvent> {
  const adapter = request.adapter === null ? undefined : adapters.use(request.adapter);
  try {
    const format = adapter?.prompt;
    const { tokens, dropped } = fit(
      request.prompt,
      {
        encode: (prompt) => prompts.encode(prompt, format).tokens,
        decode: (ids) => tokenizer.decode(ids),
      },
      { policy: request.contextPolicy, positions, maxTokens: request.maxTokens },
    );
    refuseUnknownTokens(tokens, tokenizer);
    const limited = request.constraint && constraint(request.constraint);
    yield { kind: "start", promptTokens: tokens.length, droppedTokens: dropped, adapterVersion: adapter?.version };
    const wanted: EngineRequest = {
      ...request.sampling,
      tokens,
      adapter: adapter?.key ?? null,
      maxNewTokens: request.maxTokens,
      n: request.n,
      stop: request.stop,
      endTokens: [...(request.ignoreEnd ? [] : endTokens), ...(request.stopTokens ?? [])],
      logprobs: request.logprobs,
      constraint: limited,
      priority: request.priority,
      client: request.client,
      deadline: request.timeoutMs === undefined ? undefined : performance.now() + request.timeoutMs,
      signal,
    };
    const shown = ({ token, logprob }: TokenLogprob): ShownToken => {
      const bytes = tokenizer.tokenBytes(token);
      return { id: token, text: new TextDecoder().decode(bytes), bytes: [...bytes], logprob };
    };
    for await (const event of engine.generate(wanted)) {
      const { index, tokens: made, text, finishReason, usage } = event;
      if (made.length > 0 || text !== "") {
        const logprobs = event.logprobs?.map(({ chosen, top }) => ({ ...shown(chosen), top: top.map(shown) }));
        yield { kind: "piece", index, text, tokens: made.length, ...(logprobs && { logprobs }) };
      }
      if (finishReason === undefined) continue;
      if (finishReason === "cancelled") signal.throwIfAborted();
      yield { kind: "end", index, finishReason, usage: usage! };
    }
  } catch (error) {
    throw toApiError(error);
  } finally {
    adapter?.leave();
  }
}

function refuseUnknownTokens(tokens: readonly number[], tokenizer: Tokenizer): void {
  const unknown = tokens.find((token) => tokenizer.idToToken(token) === undefined);
  if (unknown === undefined) return;
  throw new ApiError("invalid_request", `the prompt has the token ${unknown}, which this model does not know`, {
    param: "prompt",
  });
}

/** What the engine refuses, in the server's words. */
export function toApiError(error: unknown): unknown {
  if (error instanceof RangeError) return new ApiError("invalid_request", error.message, { cause: error });
  if (!(error instanceof EngineRejection)) return error;
  const { message, reason } = error;
  switch (reason) {
    case "queue-full":
      return new ApiError("too_many_requests", message, { retryAfter: 5, cause: error });
    case "too-long":
      return new ApiError("unprocessable", message, { code: "context_length_exceeded", cause: error });
    case "unknown-adapter":
      return new ApiError("not_found", message, { param: "model", cause: error });
    case "closing":
      return new ApiError("unavailable", message, { retryAfter: 5, cause: error });
  }
}
