import { z } from "@hono/zod-openapi";
import { boolean, integer, is, listOf, notEmptyText, strict, text } from "../../http/checks.ts";
import type { Limits } from "../../limits.ts";

const number = () => z.number(is("a number"));
const object = (want: string) => z.record(z.string(), z.unknown(), is(want));

/** Ollama's options; those that say how a model is to be loaded have no effect. */
function options(limits: Limits) {
  return z
    .looseObject({
      frequency_penalty: number().min(-2, is("a number from -2 to 2")).max(2, is("a number from -2 to 2")).optional(),
      min_p: number().min(0, is("a number from 0 to 1")).max(1, is("a number from 0 to 1")).optional(),
      num_predict: integer(-2, limits.maxTokens).optional(),
      presence_penalty: number().min(-2, is("a number from -2 to 2")).max(2, is("a number from -2 to 2")).optional(),
      repeat_penalty: number().gt(0, is("a number above 0")).max(100, is("a number up to 100")).optional(),
      seed: z.int(is("a whole number")).optional(),
      stop: z
        .union([notEmptyText(1000), listOf(notEmptyText(1000), limits.stops, "a list of texts")], is("a list of texts"))
        .optional(),
      temperature: number().min(0, is("a number from 0 to 2")).max(2, is("a number from 0 to 2")).optional(),
      top_k: integer(0, 1_000_000).optional(),
      top_p: number()
        .gt(0, is("a number above 0 and at most 1"))
        .max(1, is("a number above 0 and at most 1"))
        .optional(),
      typical_p: number().gt(0, is("a number above 0")).max(1, is("a number up to 1")).optional(),
    })
    .openapi("OllamaOptions");
}
export type OllamaOptions = z.output<ReturnType<typeof options>>;

function commonFields(limits: Limits) {
  return {
    model: notEmptyText(1000),
    stream: boolean().nullish(),
    format: z
      .union([z.literal("json"), z.literal(""), object("a JSON schema")], is('"json" or a JSON schema'))
      .nullish(),
    options: options(limits).nullish(),
    keep_alive: z.unknown().optional(),
    think: z.literal(false, { error: "must be false: this model does not think aloud" }).nullish(),
    // Beyond Ollama's interface.
    context_policy: z
      .enum(["error", "trim-oldest", "trim-middle"], is('"error", "trim-oldest" or "trim-middle"'))
      .nullish(),
  };
}

const noImages = z
  .array(z.unknown(), is("a list"))
  .max(0, { error: "must be empty: this model reads text alone" })
  .nullish();

/** The body of `POST /api/chat`. */
export function chatBody(limits: Limits) {
  const call = strict(
    {
      id: text(256).optional(),
      type: text(64).optional(),
      function: strict(
        { index: z.int(is("a number")).optional(), name: notEmptyText(256), arguments: object("an object") },
        "an object {name, arguments}",
      ),
    },
    "a call {function}",
  );
  const message = strict(
    {
      role: z.enum(["system", "user", "assistant", "tool"], is('"system", "user", "assistant" or "tool"')),
      content: text(limits.messageLength).default(""),
      images: noImages,
      thinking: z.unknown().optional(),
      tool_calls: listOf(call, limits.tools, "a list of calls").nullish(),
      tool_name: text(256).optional(),
      tool_call_id: text(256).optional(),
    },
    "a message {role, content}",
  );
  return strict(
    {
      ...commonFields(limits),
      messages: listOf(message, limits.historyLength + 1, "a list of messages", "messages").default([]),
      tools: listOf(
        z.looseObject({
          type: z.literal("function", is('"function"')).default("function"),
          function: z.looseObject(
            { name: notEmptyText(64), description: text(16_384).optional(), parameters: object("a schema").optional() },
            is("an object {name, parameters}"),
          ),
        }),
        limits.tools,
        "a list of tools",
      ).nullish(),
    },
    "a JSON object with model and messages",
  ).openapi("OllamaChatRequest");
}
export type OllamaChatBody = z.output<ReturnType<typeof chatBody>>;

/** The body of `POST /api/generate`. */
export function generateBody(limits: Limits) {
  return strict(
    {
      ...commonFields(limits),
      prompt: text(limits.bodyBytes).default(""),
      system: text(limits.messageLength).nullish(),
      raw: boolean().nullish(),
      images: noImages,
      suffix: z.literal("", { error: "is not supported: the model only goes on from a text" }).nullish(),
      template: z.literal("", { error: "is not supported; send raw text, or messages to /api/chat" }).nullish(),
      context: z
        .array(z.unknown(), is("a list"))
        .max(0, { error: "is not supported; send messages to /api/chat" })
        .nullish(),
    },
    "a JSON object with model and prompt",
  ).openapi("OllamaGenerateRequest");
}
export type OllamaGenerateBody = z.output<ReturnType<typeof generateBody>>;
