import { z } from "@hono/zod-openapi";
import type { Answer, AnswerEnd } from "../../answers.ts";
import type { AnswerRequest, ConstraintSpec } from "../../backend.ts";
import type { Context } from "../../env.ts";
import type { ApiError } from "../../errors.ts";
import { showError } from "../../http/show-error.ts";
import { jsonLines } from "../../http/stream.ts";
import type { Service } from "../../service.ts";
import type { LooseCalls } from "../../tools/loose.ts";
import { type Said, ToolCallParser } from "../../tools/parser.ts";
import type { OllamaChatBody, OllamaOptions } from "./schemas.ts";

/** Ollama gives every name a tag. */
export const untagged = (name: string): string => name.replace(/:latest$/, "");

type Common = Pick<OllamaChatBody, "options" | "format" | "context_policy">;

/** What chats and generations ask alike. */
export function commonRequest(
  body: Common,
  { config, limits, backend }: Service,
): Omit<AnswerRequest, "prompt" | "adapter"> {
  const options: OllamaOptions = body.options ?? {};
  const { sampling } = backend.info;
  const predict = options.num_predict ?? -1;
  const stop = options.stop === undefined ? [] : [options.stop].flat();
  return {
    sampling: {
      temperature: options.temperature ?? sampling.temperature,
      topP: options.top_p ?? sampling.topP,
      topK: options.top_k ?? sampling.topK,
      minP: options.min_p ?? sampling.minP,
      typicalP: options.typical_p,
      repetitionPenalty: options.repeat_penalty ?? sampling.repetitionPenalty,
      presencePenalty: options.presence_penalty,
      frequencyPenalty: options.frequency_penalty,
      seed: options.seed === undefined ? undefined : options.seed < 0 ? options.seed + 2 ** 53 : options.seed,
    },
    // Below 0 is as many as there is room for.
    maxTokens: predict > 0 ? predict : limits.maxTokens,
    stop: stop.length > 0 ? stop : undefined,
    contextPolicy: body.context_policy ?? config.contextPolicy,
    constraint: constraintOf(body.format),
  };
}

function constraintOf(format: Common["format"]): ConstraintSpec | undefined {
  if (format == null || format === "") return undefined;
  return format === "json" ? { kind: "json" } : { kind: "schema", schema: format };
}

/** How the pieces of an answer are told. */
export interface Telling {
  readonly model: string;
  readonly withTools: boolean;
  /** Recognises calls without marks, where JSON was not asked for. */
  readonly loose?: LooseCalls;
  /** The fields that hold what was said. */
  readonly said: (text: string, calls: readonly Extract<Said, { call: unknown }>["call"][]) => object;
}

const NS = 1e6;

/** A JSON object an event, the last with how it ended and how long it took. */
export async function* tellings(
  answer: Answer,
  { model, withTools, loose, said }: Telling,
): AsyncGenerator<Record<string, unknown>> {
  const parser = withTools ? new ToolCallParser(false, loose) : undefined;
  const head = () => ({ model, created_at: new Date().toISOString() });
  for await (const part of answer.parts) {
    const things: Said[] = [];
    if (part.kind === "piece") things.push(...(parser ? parser.push(part.text) : [{ text: part.text }]));
    else things.push(...(parser?.end() ?? []));
    for (const thing of things) {
      if ("call" in thing) yield { ...head(), ...said("", [thing.call]), done: false };
      else if (thing.text !== "") yield { ...head(), ...said(thing.text, []), done: false };
    }
    if (part.kind === "end") yield { ...head(), ...said("", []), done: true, ...endOf(answer, part) };
  }
}

function endOf({ start }: Answer, { finishReason, usage }: AnswerEnd) {
  return {
    done_reason: finishReason === "stop" ? "stop" : "length",
    total_duration: Math.round(usage.totalMs * NS),
    load_duration: 0,
    prompt_eval_count: start.promptTokens,
    prompt_eval_duration: Math.round(Math.max(0, usage.firstTokenMs - usage.queuedMs) * NS),
    eval_count: usage.completionTokens,
    eval_duration: Math.round(Math.max(0, usage.totalMs - usage.firstTokenMs) * NS),
    ...(start.droppedTokens > 0 && { dropped_tokens: start.droppedTokens }),
  };
}

/** Ollama streams unless it is told not to. */
export async function answerAs(
  c: Context,
  service: Service,
  request: AnswerRequest,
  stream: boolean,
  telling: Telling,
): Promise<Response> {
  const answer = await service.answers.begin(c, request);
  c.get("outcome").model = request.adapter;
  const events = tellings(answer, telling);
  if (stream) {
    return service.answers.stream(c, answer, jsonLines(events), {
      contentType: "application/x-ndjson",
      showError: (error: ApiError) => `${JSON.stringify(showError(error, "ollama").body)}\n`,
    });
  }
  const whole: Record<string, unknown>[] = [];
  for await (const event of events) whole.push(event);
  return c.json(joined(whole));
}

/** All events in one: texts one behind the other, calls together. */
function joined(events: readonly Record<string, unknown>[]): Record<string, unknown> {
  const last = { ...events.at(-1) };
  if ("response" in last) return { ...last, response: events.map(({ response }) => response).join("") };
  const messages = events.map(({ message }) => message as { content: string; tool_calls?: unknown[] });
  const calls = messages.flatMap(({ tool_calls = [] }) => tool_calls);
  const content = messages.map((message) => message.content).join("");
  return { ...last, message: { role: "assistant", content, ...(calls.length > 0 && { tool_calls: calls }) } };
}

/** How it ended; all but the first of these are missing where a model was only loaded. */
const end = {
  done: z.literal(true),
  done_reason: z.enum(["stop", "length", "load"]),
  total_duration: z.int().optional(),
  load_duration: z.int().optional(),
  prompt_eval_count: z.int().optional(),
  prompt_eval_duration: z.int().optional(),
  eval_count: z.int().optional(),
  eval_duration: z.int().optional(),
  dropped_tokens: z.int().optional(),
};
const more = { done: z.literal(false) };

const chatted = z.object({
  model: z.string(),
  created_at: z.iso.datetime(),
  message: z.object({
    role: z.literal("assistant"),
    content: z.string(),
    tool_calls: z
      .array(z.object({ function: z.object({ name: z.string(), arguments: z.record(z.string(), z.unknown()) }) }))
      .optional(),
  }),
});
export const chatAnswer = chatted.extend(end).openapi("OllamaChatAnswer");
/** Of a stream; the last line is `chatAnswer`. */
export const chatLine = z.union([chatted.extend(more), chatAnswer]).openapi("OllamaChatLine");

const generated = z.object({ model: z.string(), created_at: z.iso.datetime(), response: z.string() });
export const generateAnswer = generated.extend(end).openapi("OllamaGenerateAnswer");
/** Of a stream; the last line is `generateAnswer`. */
export const generateLine = z.union([generated.extend(more), generateAnswer]).openapi("OllamaGenerateLine");
