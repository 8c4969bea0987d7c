import { z } from "@hono/zod-openapi";
import type { Context } from "../env.ts";
import { ApiError } from "../errors.ts";
import { type Router, route } from "../http/route.ts";
import type { Conversations } from "../store/conversations.ts";
import type { Remembered } from "./chat.ts";

const message = z.object({
  role: z.enum(["system", "user", "assistant"]),
  content: z.string(),
  adapter: z.string().nullable(),
  at: z.int(),
});
const kept = z
  .object({ id: z.string(), created: z.int(), updated: z.int(), messages: z.int() })
  .openapi("KeptConversation");
const params = z.object({ id: z.string().openapi({ param: { name: "id", in: "path" } }) });

/** `/conversations`: to begin, list, export and erase what `/chat` keeps. */
export function conversationRoutes(app: Router, store: Conversations): void {
  const tag = "Conversations";
  const owner = (c: Context): string => c.get("client").name;

  route(
    app,
    {
      method: "post",
      path: "/conversations",
      tag,
      summary: "Begins a conversation, to be named in the body of /chat",
      answers: { description: "Its id", json: z.object({ id: z.string() }), status: 201 },
    },
    (c) => c.json({ id: store.create(owner(c)) }, 201),
  );

  route(
    app,
    {
      method: "get",
      path: "/conversations",
      tag,
      summary: "One's own conversations, the newest first",
      answers: { description: "What is kept of each", json: z.array(kept) },
    },
    (c) => c.json(store.list(owner(c))),
  );

  route(
    app,
    {
      method: "get",
      path: "/conversations/export",
      tag,
      summary: "All of them, a line of training data each",
      answers: {
        description: "JSON lines, one a conversation",
        others: {
          "application/x-ndjson": z.object({ messages: z.array(message.pick({ role: true, content: true })) }),
        },
      },
    },
    (c) => {
      const lines = store.list(owner(c)).map(({ id }) => {
        const messages = store.messages(owner(c), id).map(({ role, content }) => ({ role, content }));
        return `${JSON.stringify({ messages })}\n`;
      });
      return c.body(lines.join(""), 200, { "Content-Type": "application/x-ndjson" });
    },
  );

  route(
    app,
    {
      method: "get",
      path: "/conversations/{id}",
      tag,
      summary: "One's messages",
      answers: { description: "The oldest first", json: z.object({ id: z.string(), messages: z.array(message) }) },
      errors: [404],
      params,
    },
    (c) => {
      const id = c.req.param("id") ?? "";
      return c.json({ id, messages: store.messages(owner(c), id) });
    },
  );

  route(
    app,
    {
      method: "delete",
      path: "/conversations/{id}",
      tag,
      summary: "Erases one",
      answers: { description: "It is gone", status: 204 },
      errors: [404],
      params,
    },
    (c) => {
      store.erase(owner(c), c.req.param("id") ?? "");
      return c.body(null, 204);
    },
  );

  route(
    app,
    {
      method: "delete",
      path: "/conversations",
      tag,
      summary: "Erases all of one's own",
      answers: { description: "How many they were", json: z.object({ erased: z.int() }) },
    },
    (c) => c.json({ erased: store.eraseAll(owner(c)) }),
  );
}

/** What `/chat` remembers of a conversation. */
export function recallFrom(store: Conversations | undefined) {
  return (c: Context, id: string): Remembered => {
    if (!store) {
      throw new ApiError(
        "invalid_request",
        "conversation: this server keeps none; start it with --conversations FILE",
        {
          param: "conversation",
        },
      );
    }
    const { name } = c.get("client");
    return {
      history: store.messages(name, id),
      keep: (question, answer, adapter) => store.add(name, id, question, answer, adapter),
    };
  };
}
