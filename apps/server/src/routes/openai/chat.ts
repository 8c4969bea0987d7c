import type { z } from "@hono/zod-openapi";
import type { Answer, AnswerEnd, AnswerPart } from "../../answers.ts";
import type { AnswerRequest, Tool } from "../../backend.ts";
import { ApiError } from "../../errors.ts";
import { jsonRoute, type Router } from "../../http/route.ts";
import { showError } from "../../http/show-error.ts";
import { serverSentEvents } from "../../http/stream.ts";
import type { Service } from "../../service.ts";
import { CALL_BEGIN, forcedCall, type ToolChoice } from "../../tools/choice.ts";
import { LooseCalls } from "../../tools/loose.ts";
import { type Said, ToolCallParser } from "../../tools/parser.ts";
import { newId, unixSeconds } from "./ids.ts";
import { chatLogprobs } from "./logprobs.ts";
import { toMessages } from "./messages.ts";
import { commonRequest, constraintOf } from "./request.ts";
import { type ChatBody, chatBody, chatCompletion, chatCompletionChunk } from "./schemas.ts";
import { usageOf } from "./usage.ts";

/** How the answers of one chat are read. */
interface Reading {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly wantsLogprobs: boolean;
  /** Undefined where there are no tools. */
  readonly tools:
    | { readonly isForced: boolean; readonly isOneCall: boolean; readonly loose: LooseCalls | undefined }
    | undefined;
}

/** `POST /v1/chat/completions`. */
export function chatCompletions(app: Router, service: Service): void {
  const { limits, answers, models } = service;
  jsonRoute(
    app,
    {
      method: "post",
      path: "/v1/chat/completions",
      tag: "OpenAI",
      summary: "Answers a conversation",
      limits,
      body: chatBody(limits),
      answers: {
        description: "The answer, or server-sent events with `stream`",
        json: chatCompletion,
        event: { name: "ChatCompletionChunk", schema: chatCompletionChunk },
      },
      errors: [404],
    },
    async (c, body) => {
      const adapter = models.ofModel(body.model, c.get("client"));
      const { request, tools } = chatRequest(body, service);
      const reading: Reading = {
        id: newId("chatcmpl-"),
        created: unixSeconds(),
        model: body.model,
        wantsLogprobs: body.logprobs === true,
        tools,
      };
      const answer = await answers.begin(c, { ...request, adapter });
      c.get("outcome").model = adapter;
      if (!body.stream) return c.json(await whole(answer, reading, request.n ?? 1));
      const chunks = chunksOf(answer, reading, {
        n: request.n ?? 1,
        withUsage: body.stream_options?.include_usage === true,
      });
      return answers.stream(c, answer, serverSentEvents(chunks), sseOptions);
    },
  );
}

export const sseOptions = {
  contentType: "text/event-stream; charset=utf-8",
  keepAlive: ": waiting\n\n",
  showError: (error: ApiError): string => `data: ${JSON.stringify(showError(error, "openai").body)}\n\n`,
};

function chatRequest(
  body: ChatBody,
  service: Service,
): { request: Omit<AnswerRequest, "adapter">; tools: Reading["tools"] } {
  const common = commonRequest(body, service, service.backend.info);
  if (body.top_logprobs != null && !body.logprobs) {
    throw new ApiError("invalid_request", "top_logprobs needs logprobs to be true", { param: "top_logprobs" });
  }
  const choice: ToolChoice =
    typeof body.tool_choice === "object" && body.tool_choice !== null
      ? { name: body.tool_choice.function.name }
      : (body.tool_choice ?? "auto");
  const given = (body.tools ?? []).map(toTool);
  const forced = forcedCall(given, choice);
  const shown = choice === "none" ? [] : given;
  const constraint = constraintOf(body);
  if (forced && constraint) {
    throw new ApiError("invalid_request", "tool_choice wants a call and response_format an answer; give one of them", {
      param: "tool_choice",
    });
  }
  const isOneCall = body.parallel_tool_calls === false;
  return {
    request: {
      ...common,
      prompt: {
        messages: toMessages(body.messages),
        ...(shown.length > 0 && { tools: shown }),
        ...(forced && { begin: CALL_BEGIN }),
      },
      logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
      constraint: forced ?? constraint,
    },
    // JSON that was asked for is the answer.
    tools:
      shown.length > 0
        ? { isForced: forced !== undefined, isOneCall, loose: constraint ? undefined : new LooseCalls(shown) }
        : undefined,
  };
}

function toTool({ function: { name, description, parameters } }: NonNullable<ChatBody["tools"]>[number]): Tool {
  return {
    type: "function",
    function: {
      name,
      ...(description != null && { description }),
      parameters: parameters ?? { type: "object", properties: {} },
    },
  };
}

/** Reads one of the answers: text and calls of tools, and how it ended. */
class ChoiceReader {
  readonly #parser: ToolCallParser | undefined;
  readonly #isOneCall: boolean;
  /** Calls so far. */
  calls = 0;

  constructor({ tools }: Reading) {
    this.#parser = tools && new ToolCallParser(tools.isForced, tools.loose);
    this.#isOneCall = tools?.isOneCall ?? false;
  }

  push(text: string): Said[] {
    return this.#count(this.#parser ? this.#parser.push(text) : text === "" ? [] : [{ text }]);
  }
  end(): Said[] {
    return this.#count(this.#parser?.end() ?? []);
  }
  finishReason({ finishReason }: AnswerEnd): "stop" | "length" | "tool_calls" {
    if (this.calls > 0 && finishReason === "stop") return "tool_calls";
    return finishReason === "stop" ? "stop" : "length";
  }

  #count(said: Said[]): Said[] {
    return said.filter((what) => {
      if (!("call" in what)) return !(this.#isOneCall && this.calls > 0);
      return ++this.calls === 1 || !this.#isOneCall;
    });
  }
}

const calledAs = ({ call }: Extract<Said, { call: unknown }>) => ({
  id: newId("call_"),
  type: "function" as const,
  function: { name: call.name, arguments: call.arguments },
});

async function whole(answer: Answer, reading: Reading, n: number): Promise<z.output<typeof chatCompletion>> {
  const choices = Array.from({ length: n }, () => ({
    reader: new ChoiceReader(reading),
    text: "",
    calls: [] as ReturnType<typeof calledAs>[],
    logprobs: [] as ReturnType<typeof chatLogprobs>["content"],
    finish: "stop" as "stop" | "length" | "tool_calls",
  }));
  const ends: AnswerEnd[] = [];
  for await (const part of answer.parts) {
    const choice = choices[part.index];
    const said = part.kind === "piece" ? choice.reader.push(part.text) : choice.reader.end();
    for (const what of said) {
      if ("text" in what) choice.text += what.text;
      else choice.calls.push(calledAs(what));
    }
    if (part.kind === "piece") {
      if (part.logprobs) choice.logprobs.push(...chatLogprobs(part.logprobs).content);
      continue;
    }
    choice.finish = choice.reader.finishReason(part);
    ends.push(part);
  }
  return {
    ...head(reading, "chat.completion"),
    choices: choices.map(({ text, calls, logprobs, finish }, index) => ({
      index,
      message: {
        role: "assistant" as const,
        content: text === "" && calls.length > 0 ? null : text,
        refusal: null,
        ...(calls.length > 0 && { tool_calls: calls }),
      },
      logprobs: reading.wantsLogprobs ? { content: logprobs, refusal: null } : null,
      finish_reason: finish,
    })),
    usage: usageOf([answer.start], ends),
  };
}

async function* chunksOf(
  answer: Answer,
  reading: Reading,
  { n, withUsage }: { n: number; withUsage: boolean },
): AsyncGenerator<unknown> {
  const readers = Array.from({ length: n }, () => new ChoiceReader(reading));
  const ends: AnswerEnd[] = [];
  const chunk = (index: number, delta: object, rest: { logprobs?: unknown; finish_reason?: string } = {}) => ({
    ...head(reading, "chat.completion.chunk"),
    choices: [{ index, delta, logprobs: rest.logprobs ?? null, finish_reason: rest.finish_reason ?? null }],
    ...(withUsage && { usage: null }),
  });
  for (let index = 0; index < n; index++) yield chunk(index, { role: "assistant", content: "", refusal: null });
  for await (const part of answer.parts) yield* partChunks(part);
  if (withUsage) {
    yield { ...head(reading, "chat.completion.chunk"), choices: [], usage: usageOf([answer.start], ends) };
  }

  function* partChunks(part: AnswerPart): Generator<unknown> {
    const { index } = part;
    const reader = readers[index];
    let logprobs = part.kind === "piece" && part.logprobs ? chatLogprobs(part.logprobs) : undefined;
    for (const what of part.kind === "piece" ? reader.push(part.text) : reader.end()) {
      if ("text" in what) yield chunk(index, { content: what.text }, { logprobs });
      else yield chunk(index, { tool_calls: [{ index: reader.calls - 1, ...calledAs(what) }] }, { logprobs });
      logprobs = undefined;
    }
    // Tokens whose text is held back are told all the same.
    if (logprobs) yield chunk(index, { content: "" }, { logprobs });
    if (part.kind === "end") {
      ends.push(part);
      yield chunk(index, {}, { finish_reason: reader.finishReason(part) });
    }
  }
}

function head<const Kind extends string>({ id, created, model }: Reading, object: Kind) {
  return { id, object, created, model, system_fingerprint: null };
}
