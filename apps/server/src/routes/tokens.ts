import { z } from "@hono/zod-openapi";
import type { PromptInput } from "../backend.ts";
import type { Context } from "../env.ts";
import { boolean, integer, is, listOf, strict, text } from "../http/checks.ts";
import { jsonRoute, type Router } from "../http/route.ts";
import type { Service } from "../service.ts";
import { toMessages } from "./openai/messages.ts";
import { messagesField, toolsField } from "./openai/schemas.ts";

/** `POST /tokenize`, `/detokenize`, `/apply-template`, as in llama.cpp's server. */
export function tokenRoutes(app: Router, service: Service): void {
  const { backend, limits, models } = service;
  const model = text(1000).optional();

  /** The adapter whose layout is meant: the one named, or the one that answers by default. */
  const adapterOf = (c: Context, name: string | undefined): string | null =>
    name === undefined ? (backend.adapters[0]?.name ?? null) : models.ofModel(name, c.get("client"));

  jsonRoute(
    app,
    {
      method: "post",
      path: "/tokenize",
      tag: "Tokens",
      summary: "Token ids of a text",
      limits,
      body: strict(
        {
          content: text(limits.bodyBytes),
          model,
          parse_special: boolean().optional(),
          with_pieces: boolean().optional(),
          // Qwen's tokenizers add none.
          add_special: boolean().optional(),
        },
        "a JSON object with content",
      ).openapi("TokenizeRequest"),
      answers: {
        description: "Its tokens",
        json: z
          .object({ tokens: z.array(z.union([z.int(), z.object({ id: z.int(), piece: z.string() })])), count: z.int() })
          .openapi("Tokens"),
      },
    },
    async (c, body) => {
      const ids = await backend.tokenize(body.content, { specialTokens: body.parse_special ?? false });
      if (!body.with_pieces) return c.json({ tokens: ids, count: ids.length });
      const pieces = await Promise.all(ids.map(async (id) => ({ id, piece: await backend.detokenize([id]) })));
      return c.json({ tokens: pieces, count: ids.length });
    },
  );

  jsonRoute(
    app,
    {
      method: "post",
      path: "/detokenize",
      tag: "Tokens",
      summary: "The text of token ids",
      limits,
      body: strict(
        { tokens: listOf(integer(0, 2 ** 24), limits.bodyBytes, "a list of token ids"), model },
        "a JSON object with tokens",
      ).openapi("DetokenizeRequest"),
      answers: { description: "Their text", json: z.object({ content: z.string() }) },
    },
    async (c, body) => c.json({ content: await backend.detokenize(body.tokens) }),
  );

  jsonRoute(
    app,
    {
      method: "post",
      path: "/apply-template",
      tag: "Tokens",
      summary: "The prompt of a conversation",
      limits,
      body: strict(
        {
          messages: messagesField(limits),
          model,
          tools: toolsField(limits).optional(),
          add_generation_prompt: z.literal(true, is("true")).optional(),
        },
        "a JSON object with messages",
      ).openapi("TemplateRequest"),
      answers: {
        description: "Its text and tokens",
        json: z.object({ prompt: z.string(), tokens: z.array(z.int()), count: z.int() }),
      },
      errors: [404, 422],
    },
    async (c, body) => {
      const prompt: PromptInput = {
        messages: toMessages(body.messages),
        ...(body.tools && { tools: body.tools.map((tool) => ({ ...tool, function: withoutNulls(tool.function) })) }),
      };
      const { text: shown, tokens } = await backend.render(prompt, adapterOf(c, body.model));
      return c.json({ prompt: shown, tokens, count: tokens.length });
    },
  );
}

function withoutNulls<T extends { name: string }>(value: T) {
  return Object.fromEntries(Object.entries(value).filter(([, given]) => given != null)) as { name: string };
}
