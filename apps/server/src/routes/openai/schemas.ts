import { z } from "@hono/zod-openapi";
import { CONTEXT_POLICIES } from "../../backend.ts";
import {
  between,
  boolean,
  integer,
  is,
  listOf,
  notEmptyText,
  oneOf,
  probability,
  strict,
  text,
} from "../../http/checks.ts";
import type { Limits } from "../../limits.ts";

const object = (want: string) => z.record(z.string(), z.unknown(), is(want));

/** What OpenAI's interface knows and what has no effect on an answer here. */
const WITHOUT_EFFECT = {
  metadata: z.unknown().optional(),
  prompt_cache_key: z.unknown().optional(),
  prompt_cache_retention: z.unknown().optional(),
  prediction: z.unknown().optional(),
  safety_identifier: z.unknown().optional(),
  service_tier: z.unknown().optional(),
  store: z.unknown().optional(),
  user: z.unknown().optional(),
};

/** Fields of chats and completions alike. `null` is as if the field were not there. */
export function samplingFields(limits: Limits) {
  return {
    model: notEmptyText(1000),
    frequency_penalty: between(-2, 2).nullish(),
    logit_bias: z
      .record(z.string().regex(/^\d{1,7}$/, { error: "must be a token's id" }), between(-100, 100), is("an object"))
      .refine((bias) => Object.keys(bias).length <= 1000, { error: "must not name more than 1000 tokens" })
      .nullish(),
    max_tokens: integer(1, limits.maxTokens).nullish(),
    n: integer(1, limits.choices).nullish(),
    presence_penalty: between(-2, 2).nullish(),
    seed: z.int(is("a whole number")).nullish(),
    stop: z
      .union(
        [notEmptyText(1000), listOf(notEmptyText(1000), limits.stops, "a list of texts", "texts")],
        is("a text or a list of texts"),
      )
      .nullish(),
    stream: boolean().nullish(),
    stream_options: strict(
      { include_usage: boolean().nullish(), include_obfuscation: boolean().nullish() },
      "an object {include_usage}",
    ).nullish(),
    temperature: between(0, 2).nullish(),
    top_p: probability().nullish(),
    // Beyond OpenAI's interface, named as in vLLM.
    context_policy: oneOf(CONTEXT_POLICIES).nullish(),
    ignore_eos: boolean().nullish(),
    stop_token_ids: listOf(integer(0, 2 ** 24), limits.stops, "a list of token ids").nullish(),
    min_p: between(0, 1).nullish(),
    repetition_penalty: between(0.01, 100).nullish(),
    top_k: integer(-1, 1_000_000).nullish(),
    typical_p: probability().nullish(),
    guided_regex: notEmptyText(10_000).nullish(),
    ...WITHOUT_EFFECT,
  };
}
export type SamplingFields = z.output<z.ZodObject<ReturnType<typeof samplingFields>>>;

function content(limits: Limits) {
  const part = z.union(
    [
      strict(
        { type: z.literal("text", is('"text": this model reads text alone')), text: text(limits.messageLength) },
        "a part {type, text}",
      ),
      strict({ type: z.literal("refusal"), refusal: text(limits.messageLength) }, "a part {type, refusal}"),
    ],
    { error: 'must be a part {type: "text", text}; this model reads text alone' },
  );
  return z.union(
    [text(limits.messageLength), listOf(part, 256, "a list of parts", "parts").min(1, is("a list of parts"))],
    is("a text or a list of text parts"),
  );
}

function messageSchema(limits: Limits) {
  const name = text(256).optional();
  const call = strict(
    {
      id: text(256).optional(),
      type: z.literal("function", is('"function"')).optional(),
      function: strict(
        { name: notEmptyText(256), arguments: text(limits.messageLength) },
        "an object {name, arguments}",
      ),
    },
    "a call {id, type, function}",
  );
  const given = content(limits);
  return z
    .discriminatedUnion(
      "role",
      [
        strict({ role: z.literal("system"), content: given, name }, "a message"),
        strict({ role: z.literal("developer"), content: given, name }, "a message"),
        strict({ role: z.literal("user"), content: given, name }, "a message"),
        strict(
          {
            role: z.literal("assistant"),
            content: given.nullish(),
            name,
            refusal: text(limits.messageLength).nullish(),
            tool_calls: listOf(call, limits.tools, "a list of calls", "calls").optional(),
            // What a client may send back as it came, or as other servers give it.
            annotations: z.unknown().optional(),
            audio: z.null(is("null")).optional(),
            function_call: z.null(is("null")).optional(),
            reasoning_content: z.unknown().optional(),
          },
          "a message",
        ),
        strict({ role: z.literal("tool"), content: given, tool_call_id: text(256).optional(), name }, "a message"),
      ],
      {
        error: ({ input }) => {
          const role = (input as { role?: unknown } | null | undefined)?.role;
          return typeof role === "string"
            ? `must be "system", "developer", "user", "assistant" or "tool", but is ${JSON.stringify(role.slice(0, 30))}`
            : "must be a message {role, content}";
        },
      },
    )
    .openapi("OpenAIMessage");
}
export type OpenAIMessage = z.output<ReturnType<typeof messageSchema>>;

/** A conversation, the oldest message first. */
export function messagesField(limits: Limits) {
  return listOf(messageSchema(limits), limits.historyLength + 1, "a list of messages", "messages").min(1, {
    error: "must not be empty",
  });
}

export const toolsField = (limits: Limits) => listOf(functionTool, limits.tools, "a list of tools", "tools");

const functionTool = strict(
  {
    type: z.literal("function", is('"function"')),
    function: strict(
      {
        name: z.string(is("a text")).regex(/^[\w.-]{1,64}$/, { error: "must be 1 to 64 letters, digits, _, . or -" }),
        description: text(16_384).nullish(),
        parameters: object("a JSON schema").nullish(),
        strict: boolean().nullish(),
      },
      "an object {name, parameters}",
    ),
  },
  "a tool {type, function}",
);

const responseFormat = z.discriminatedUnion(
  "type",
  [
    strict({ type: z.literal("text") }, "an object"),
    strict({ type: z.literal("json_object") }, "an object"),
    strict(
      {
        type: z.literal("json_schema"),
        json_schema: strict(
          {
            name: text(256).optional(),
            description: text(16_384).nullish(),
            schema: object("a JSON schema"),
            strict: boolean().nullish(),
          },
          "an object {name, schema}",
        ),
      },
      "an object",
    ),
  ],
  { error: 'must be {type: "text"}, {type: "json_object"} or {type: "json_schema", json_schema}' },
);

/** The body of `POST /v1/chat/completions`. */
export function chatBody(limits: Limits) {
  return strict(
    {
      ...samplingFields(limits),
      messages: messagesField(limits),
      logprobs: boolean().nullish(),
      max_completion_tokens: integer(1, limits.maxTokens).nullish(),
      modalities: z.tuple([z.literal("text")], is('["text"]')).nullish(),
      parallel_tool_calls: boolean().nullish(),
      reasoning_effort: z.unknown().optional(),
      response_format: responseFormat.nullish(),
      tool_choice: z
        .union(
          [
            oneOf(["auto", "none", "required"]),
            strict(
              {
                type: z.literal("function", is('"function"')),
                function: strict({ name: notEmptyText(64) }, "an object {name}"),
              },
              "an object {type, function}",
            ),
          ],
          is('"auto", "none", "required" or a function\'s name'),
        )
        .nullish(),
      tools: toolsField(limits).nullish(),
      top_logprobs: integer(0, limits.topLogprobs).nullish(),
      verbosity: z.unknown().optional(),
    },
    "a JSON object with model and messages",
  ).openapi("ChatCompletionRequest");
}
export type ChatBody = z.output<ReturnType<typeof chatBody>>;

/** The body of `POST /v1/completions`. */
export function completionBody(limits: Limits) {
  const tokens = () => listOf(integer(0, 2 ** 24), limits.bodyBytes, "a list of token ids").min(1, is("a list"));
  return strict(
    {
      ...samplingFields(limits),
      prompt: z.union(
        [
          text(limits.bodyBytes),
          listOf(text(limits.bodyBytes), limits.inputs, "a list of texts").min(1, is("a list")),
          tokens(),
          listOf(tokens(), limits.inputs, "a list of lists of token ids").min(1, is("a list")),
        ],
        is("a text, a list of texts, or token ids"),
      ),
      best_of: integer(1, limits.choices).nullish(),
      echo: boolean().nullish(),
      logprobs: integer(0, limits.topLogprobs).nullish(),
      response_format: responseFormat.nullish(),
      suffix: z.null({ error: "is not supported: the model only goes on from a text" }).optional(),
    },
    "a JSON object with model and prompt",
  ).openapi("CompletionRequest");
}
export type CompletionBody = z.output<ReturnType<typeof completionBody>>;

/** The body of `POST /v1/embeddings`. */
export function embeddingBody(limits: Limits) {
  const tokens = () => listOf(integer(0, 2 ** 24), limits.bodyBytes, "a list of token ids").min(1, is("a list"));
  return strict(
    {
      model: notEmptyText(1000),
      input: z.union(
        [
          notEmptyText(limits.bodyBytes),
          listOf(notEmptyText(limits.bodyBytes), limits.inputs, "a list of texts").min(1, is("a list")),
          tokens(),
          listOf(tokens(), limits.inputs, "a list of lists of token ids").min(1, is("a list")),
        ],
        is("a text, a list of texts, or token ids"),
      ),
      dimensions: integer(1, 1 << 20).nullish(),
      encoding_format: oneOf(["float", "base64"]).nullish(),
      user: z.unknown().optional(),
    },
    "a JSON object with model and input",
  ).openapi("EmbeddingRequest");
}

const usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.object({ cached_tokens: z.int(), dropped_tokens: z.int() }),
});

const shownToken = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() });
const chatLogprobs = z.object({
  content: z.array(shownToken.extend({ top_logprobs: z.array(shownToken) })),
  refusal: z.null(),
});
const call = z.object({
  id: z.string(),
  type: z.literal("function"),
  function: z.object({ name: z.string(), arguments: z.string() }),
});
const finishReason = z.enum(["stop", "length", "tool_calls"]);

/** What every answer says of itself, and every piece of one. */
const head = z.object({
  id: z.string(),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string().nullable(),
});

export const chatCompletion = head
  .extend({
    object: z.literal("chat.completion"),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({
          role: z.literal("assistant"),
          content: z.string().nullable(),
          refusal: z.null(),
          tool_calls: z.array(call).optional(),
        }),
        logprobs: chatLogprobs.nullable(),
        finish_reason: finishReason,
      }),
    ),
    usage,
  })
  .openapi("ChatCompletion");

/** What each piece of a stream brings; the last one, where usage was asked for, has no choices. */
export const chatCompletionChunk = head.extend({
  object: z.literal("chat.completion.chunk"),
  choices: z.array(
    z.object({
      index: z.int(),
      delta: z.object({
        role: z.literal("assistant").optional(),
        content: z.string().optional(),
        refusal: z.null().optional(),
        // A call comes whole.
        tool_calls: z.array(call.extend({ index: z.int() })).optional(),
      }),
      logprobs: chatLogprobs.nullable(),
      finish_reason: finishReason.nullable(),
    }),
  ),
  usage: usage.nullable().optional(),
});

const completionLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.int()),
});

const completionChoice = z.object({
  index: z.int(),
  text: z.string(),
  logprobs: completionLogprobs.nullable(),
  finish_reason: finishReason,
});

export const completion = head
  .extend({ object: z.literal("text_completion"), choices: z.array(completionChoice), usage })
  .openapi("Completion");

/** As {@link chatCompletionChunk}. */
export const completionChunk = head.extend({
  object: z.literal("text_completion"),
  choices: z.array(completionChoice.extend({ finish_reason: finishReason.nullable() })),
  usage: usage.nullable().optional(),
});

export const embeddings = z
  .object({
    object: z.literal("list"),
    model: z.string(),
    data: z.array(
      z.object({
        object: z.literal("embedding"),
        index: z.int(),
        embedding: z.union([z.array(z.number()), z.string()]),
      }),
    ),
    usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int() }),
  })
  .openapi("Embeddings");

export const model = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int(),
    owned_by: z.string(),
    /** The base model of an adapter. */
    parent: z.string().nullable(),
    max_model_len: z.int(),
  })
  .openapi("Model");
export const models = z.object({ object: z.literal("list"), data: z.array(model) }).openapi("Models");
