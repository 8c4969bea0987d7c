import type { z } from "@hono/zod-openapi";
import type { Answer, AnswerEnd } from "../../answers.ts";
import type { PromptInput } from "../../backend.ts";
import type { Context } from "../../env.ts";
import { ApiError } from "../../errors.ts";
import { jsonRoute, type Router } from "../../http/route.ts";
import { serverSentEvents } from "../../http/stream.ts";
import type { Service } from "../../service.ts";
import { sseOptions } from "./chat.ts";
import { newId, unixSeconds } from "./ids.ts";
import { completionLogprobs } from "./logprobs.ts";
import { commonRequest, constraintOf } from "./request.ts";
import { type CompletionBody, completion, completionBody, completionChunk } from "./schemas.ts";
import { usageOf } from "./usage.ts";

interface Head {
  readonly id: string;
  readonly object: "text_completion";
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: null;
}

/** Prompts, each answered n times; choices are numbered through. */
interface Running {
  readonly head: Head;
  readonly answers: readonly Answer[];
  readonly n: number;
  /** Texts that are told before the answers, by prompt; empty unless `echo` was asked for. */
  readonly echoed: readonly string[];
  readonly wantsLogprobs: boolean;
}

/** `POST /v1/completions`. */
export function completions(app: Router, service: Service): void {
  const { limits, answers, models, backend } = service;
  jsonRoute(
    app,
    {
      method: "post",
      path: "/v1/completions",
      tag: "OpenAI",
      summary: "Goes on from a text",
      limits,
      body: completionBody(limits),
      answers: {
        description: "The text, or server-sent events with `stream`",
        json: completion,
        event: { name: "CompletionChunk", schema: completionChunk },
      },
      errors: [404],
    },
    async (c, body) => {
      const adapter = models.ofModel(body.model, c.get("client"));
      refuseUnsupported(body);
      const common = commonRequest({ ...body, max_tokens: body.max_tokens ?? 16 }, service, backend.info);
      const prompts = promptsOf(body.prompt);
      const request = { ...common, adapter, constraint: constraintOf(body), logprobs: body.logprobs ?? undefined };
      const begun = await beginAll(
        c,
        service,
        prompts.map((prompt) => ({ ...request, prompt })),
      );
      const running: Running = {
        head: {
          id: newId("cmpl-"),
          object: "text_completion",
          created: unixSeconds(),
          model: body.model,
          system_fingerprint: null,
        },
        answers: begun,
        n: request.n ?? 1,
        echoed: body.echo ? await Promise.all(prompts.map((prompt) => textOf(prompt, service))) : prompts.map(() => ""),
        wantsLogprobs: body.logprobs != null,
      };
      c.get("outcome").model = adapter;
      if (!body.stream) return c.json(await whole(running));
      const chunks = chunksOf(running, body.stream_options?.include_usage === true);
      return answers.stream(c, begun, serverSentEvents(chunks), sseOptions);
    },
  );
}

/** Several prompts run at once; where one is refused, none runs. */
async function beginAll(
  c: Context,
  { answers }: Service,
  requests: readonly Parameters<Service["answers"]["begin"]>[1][],
): Promise<Answer[]> {
  const begun = await Promise.allSettled(requests.map((request) => answers.begin(c, request)));
  const failed = begun.find((result) => result.status === "rejected");
  const taken = begun.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  if (!failed) return taken;
  for (const answer of taken) {
    answer.abandon(new DOMException("another prompt of the request was refused", "AbortError"));
    void drainQuietly(answer);
  }
  throw failed.reason;
}

async function drainQuietly(answer: Answer): Promise<void> {
  try {
    for await (const _ of answer.parts);
  } catch {
    // It was abandoned.
  }
}

function refuseUnsupported({ best_of: best, n, echo, logprobs }: CompletionBody): void {
  if (best != null && best !== (n ?? 1)) {
    throw new ApiError("invalid_request", "best_of is not supported; ask for n answers and choose", {
      param: "best_of",
      code: "unsupported_value",
    });
  }
  if (echo && logprobs != null) {
    throw new ApiError("invalid_request", "log-probabilities of the prompt are not supported; leave out echo", {
      param: "echo",
      code: "unsupported_value",
    });
  }
}

function promptsOf(prompt: CompletionBody["prompt"]): PromptInput[] {
  if (typeof prompt === "string") return [{ text: prompt }];
  if (typeof prompt[0] === "number") return [{ tokens: prompt as number[] }];
  return (prompt as (string | number[])[]).map((one) => (typeof one === "string" ? { text: one } : { tokens: one }));
}

async function textOf(prompt: PromptInput, { backend }: Service): Promise<string> {
  if ("text" in prompt) return prompt.text;
  return "tokens" in prompt ? backend.detokenize(prompt.tokens) : "";
}

async function whole({ head, answers, n, echoed, wantsLogprobs }: Running): Promise<z.output<typeof completion>> {
  const ends: AnswerEnd[] = [];
  const choices = await Promise.all(
    answers.map(async (answer, prompt) => {
      const made = Array.from({ length: n }, (_, index) => ({
        index: prompt * n + index,
        text: echoed[prompt],
        logprobs: wantsLogprobs ? completionLogprobs([], 0) : null,
        finish_reason: "stop" as "stop" | "length",
      }));
      const offsets = made.map(({ text }) => text.length);
      for await (const part of answer.parts) {
        const choice = made[part.index];
        if (part.kind === "end") {
          ends.push(part);
          choice.finish_reason = part.finishReason === "stop" ? "stop" : "length";
          continue;
        }
        choice.text += part.text;
        if (!part.logprobs || !choice.logprobs) continue;
        const more = completionLogprobs(part.logprobs, offsets[part.index]);
        offsets[part.index] += more.tokens.join("").length;
        for (const key of Object.keys(more) as (keyof typeof more)[]) {
          (choice.logprobs[key] as unknown[]).push(...more[key]);
        }
      }
      return made;
    }),
  );
  return {
    ...head,
    choices: choices.flat(),
    usage: usageOf(
      answers.map(({ start }) => start),
      ends,
    ),
  };
}

async function* chunksOf({ head, answers, n, echoed }: Running, withUsage: boolean): AsyncGenerator<unknown> {
  const ends: AnswerEnd[] = [];
  const chunk = (index: number, text: string, rest: { logprobs?: unknown; finish_reason?: string } = {}) => ({
    ...head,
    choices: [{ index, text, logprobs: rest.logprobs ?? null, finish_reason: rest.finish_reason ?? null }],
    ...(withUsage && { usage: null }),
  });
  const offsets = new Map<number, number>();
  for await (const { of: prompt, value: part } of merged(answers.map(({ parts }) => parts))) {
    const index = prompt * n + part.index;
    if (!offsets.has(index)) {
      offsets.set(index, echoed[prompt].length);
      if (echoed[prompt] !== "") yield chunk(index, echoed[prompt]);
    }
    if (part.kind === "end") {
      ends.push(part);
      yield chunk(index, "", { finish_reason: part.finishReason === "stop" ? "stop" : "length" });
      continue;
    }
    const logprobs = part.logprobs && completionLogprobs(part.logprobs, offsets.get(index)!);
    if (logprobs) offsets.set(index, offsets.get(index)! + logprobs.tokens.join("").length);
    if (part.text !== "" || logprobs) yield chunk(index, part.text, { logprobs });
  }
  if (withUsage)
    yield {
      ...head,
      choices: [],
      usage: usageOf(
        answers.map(({ start }) => start),
        ends,
      ),
    };
}

/** What several sources give, as it comes. */
async function* merged<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<{ of: number; value: T }> {
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const next = async (of: number) => ({ of, result: await iterators[of].next() });
  const waiting = new Map(iterators.map((_, of) => [of, next(of)]));
  try {
    while (waiting.size > 0) {
      const { of, result } = await Promise.race(waiting.values());
      if (result.done) waiting.delete(of);
      else {
        waiting.set(of, next(of));
        yield { of, value: result.value };
      }
    }
  } finally {
    for (const of of waiting.keys()) void iterators[of].return?.().then(undefined, () => {});
    // What fails after another has failed is told by nobody.
    for (const promise of waiting.values()) promise.catch(() => {});
  }
}
