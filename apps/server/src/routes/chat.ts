import { z } from "@hono/zod-openapi";
import type { Answer } from "../answers.ts";
import { CONTEXT_POLICIES, type Message } from "../backend.ts";
import type { Context } from "../env.ts";
import { ApiError } from "../errors.ts";
import { between, boolean, integer, is, listOf, notEmptyText, oneOf, probability, strict } from "../http/checks.ts";
import { jsonRoute, type Router } from "../http/route.ts";
import { serverSentEvents } from "../http/stream.ts";
import type { Limits } from "../limits.ts";
import type { Service } from "../service.ts";

function chatBody(limits: Limits) {
  const content = notEmptyText(limits.messageLength);
  const message = strict({ role: oneOf(["system", "user", "assistant"]), content }, "an object {role, content}");
  return strict(
    {
      message: content,
      history: listOf(message, limits.historyLength, "a list of {role, content}", "messages").optional(),
      adapter: z.string(is("the name of an adapter or null")).nullish(),
      max_tokens: integer(1, limits.maxTokens).optional(),
      temperature: between(0, 2).optional(),
      top_p: probability().optional(),
      top_k: integer(0, 1_000_000).optional(),
      seed: integer(0, Number.MAX_SAFE_INTEGER).optional(),
      stream: boolean().optional(),
      context_policy: oneOf(CONTEXT_POLICIES).optional(),
      conversation: notEmptyText(100).optional(),
    },
    "a JSON object with a message",
  ).openapi("ChatRequest");
}

const usageSchema = z.object({ prompt_tokens: z.int(), completion_tokens: z.int() });
const replySchema = z
  .object({
    reply: z.string(),
    model: z.string(),
    adapter: z.string().nullable(),
    finish_reason: z.enum(["stop", "length"]),
    usage: usageSchema,
    dropped_tokens: z.int().optional().openapi({ description: "Tokens that the context policy left out, where any" }),
    conversation: z.string().optional(),
  })
  .openapi("ChatReply");

const eventSchema = z.union([
  z.object({ delta: z.string().min(1) }),
  replySchema.pick({ finish_reason: true, usage: true, dropped_tokens: true }),
]);

/** Where a conversation's earlier messages come from and its new ones go. */
export interface Remembered {
  readonly history: readonly Message[];
  keep(question: string, answer: string, adapter: string | null): void;
}

/** `POST /chat`: a question and its answer. */
export function chatRoute(
  app: Router,
  service: Service,
  recall: (c: Context, conversation: string) => Remembered,
): void {
  const { backend, answers, models, limits, config } = service;
  jsonRoute(
    app,
    {
      method: "post",
      path: "/chat",
      tag: "Chat",
      summary: "Answers a message",
      limits,
      body: chatBody(limits),
      answers: {
        description: "The answer, or server-sent events with `stream`",
        json: replySchema,
        event: { name: "ChatEvent", schema: eventSchema },
      },
      errors: [404, 422],
    },
    async (c, body) => {
      answers.checkOpen();
      const wanted = body.adapter === undefined ? (backend.adapters[0]?.name ?? null) : body.adapter;
      const adapter = models.ofAdapter(wanted, c.get("client"));
      if (body.conversation !== undefined && body.history !== undefined) {
        throw new ApiError("invalid_request", "history comes from the conversation; give one of them", {
          param: "history",
        });
      }
      const remembered = body.conversation === undefined ? undefined : recall(c, body.conversation);
      const messages: Message[] = [
        ...(remembered?.history ?? body.history ?? []),
        { role: "user", content: body.message },
      ];
      const answer = await answers.begin(c, {
        prompt: { messages },
        adapter,
        contextPolicy: body.context_policy ?? config.contextPolicy,
        maxTokens: body.max_tokens ?? Math.min(config.maxTokens, limits.maxTokens),
        sampling: {
          temperature: body.temperature ?? 0,
          topP: body.top_p ?? 1,
          topK: body.top_k ?? 0,
          seed: body.seed ?? config.seed,
        },
      });
      c.get("outcome").adapter = adapter;
      const keep = (reply: string): void => remembered?.keep(body.message, reply, adapter);
      if (body.stream) return answers.stream(c, answer, serverSentEvents(eventsOf(answer, keep)), sseOptions);
      const { reply, end } = await readAll(answer);
      keep(reply);
      return c.json({
        reply,
        model: backend.model,
        adapter,
        ...end,
        ...(body.conversation !== undefined && { conversation: body.conversation }),
      });
    },
  );
}

const sseOptions = {
  contentType: "text/event-stream; charset=utf-8",
  keepAlive: ": waiting\n\n",
  showError: (error: ApiError): string => `data: ${JSON.stringify(error)}\n\n`,
};

interface End {
  readonly finish_reason: "stop" | "length";
  readonly usage: z.output<typeof usageSchema>;
  readonly dropped_tokens?: number;
}

async function* eventsOf(answer: Answer, keep: (reply: string) => void): AsyncGenerator<{ delta: string } | End> {
  const { promptTokens, droppedTokens } = answer.start;
  let reply = "";
  for await (const part of answer.parts) {
    if (part.kind === "piece") {
      reply += part.text;
      if (part.text !== "") yield { delta: part.text };
      continue;
    }
    keep(reply);
    yield {
      finish_reason: part.finishReason === "stop" ? "stop" : "length",
      usage: { prompt_tokens: promptTokens, completion_tokens: part.usage.completionTokens },
      ...(droppedTokens > 0 && { dropped_tokens: droppedTokens }),
    };
  }
}

async function readAll(answer: Answer): Promise<{ reply: string; end: End }> {
  let reply = "";
  let end: End | undefined;
  for await (const event of eventsOf(answer, () => {})) {
    if ("delta" in event) reply += event.delta;
    else end = event;
  }
  if (!end) throw new Error("the answer did not end");
  return { reply, end };
}
