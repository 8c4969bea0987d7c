import { createHash, timingSafeEqual } from "node:crypto";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { Logger } from "pino";
import { bodyReader, DEFAULT_LIMITS, type Limits } from "./body.ts";
import type { ChatEvent, Chatter, FinishReason, Prompt } from "./chat.ts";
import { ApiError, STATUS } from "./errors.ts";
import { chatPage } from "./page.ts";
import { Queue, type Ticket } from "./queue.ts";

export interface AppOptions {
  /** What answers. */
  chatter: Chatter;
  /** Told of every request, never of what is in it. */
  logger: Logger;
  limits?: Partial<Limits>;
  /** Requests that may wait while one is answered. Default 16. */
  queueLimit?: number;
  /** Tokens of an answer whose request does not say. Default 512. */
  maxTokens?: number;
  /** Seed of a request that brings none. Default 0. */
  seed?: number;
  /** When given, `/chat` wants it as `Authorization: Bearer …`. */
  apiKey?: string;
}

/** The server's routes, and its end. */
export interface App {
  fetch(request: Request): Response | Promise<Response>;
  /**
   * Refuses new chats with 503, and waits for those that run and wait; what is not done after `graceMs` is aborted.
   */
  drain(graceMs: number): Promise<void>;
}

type Env = { Variables: { outcome: Record<string, unknown> } };
type Usage = { prompt_tokens: number; completion_tokens: number };

/** Seconds between signs of life on a stream that waits for its turn. */
const KEEP_ALIVE = 15_000;

/** Makes the server's routes: `POST /chat`, `GET /health`, `GET /`. */
export function createApp(options: AppOptions): App {
  const { chatter, logger, apiKey } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const readBody = bodyReader(limits, {
    adapter: chatter.adapters[0] ?? null,
    maxTokens: options.maxTokens ?? 512,
    seed: options.seed ?? 0,
  });
  const queue = new Queue(options.queueLimit ?? 16);
  const ending = new AbortController();
  const started = performance.now();
  const chats = new Set<Promise<void>>();
  let draining = false;

  const app = new Hono<Env>();
  app.use(async (c, next) => {
    const begin = performance.now();
    c.set("outcome", {});
    await next();
    const { method, path } = c.req;
    const ms = Math.round(performance.now() - begin);
    const level = c.res.status >= 500 ? "error" : "info";
    logger[level]({ method, path, status: c.res.status, ms, ...c.get("outcome") }, "request");
  });

  app.get("/", (c) => {
    const page = chatPage();
    c.header("Content-Security-Policy", page.contentSecurityPolicy);
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Referrer-Policy", "no-referrer");
    c.header("Cache-Control", "no-cache");
    return c.html(page.html);
  });

  app.get("/health", (c) =>
    c.json(
      {
        status: draining ? "draining" : "ok",
        model: chatter.model,
        adapters: chatter.adapters,
        device: chatter.device,
        queue: { running: queue.running, waiting: queue.waiting, limit: queue.limit },
        uptime_s: Math.round((performance.now() - started) / 1000),
      },
      draining ? 503 : 200,
    ),
  );

  const tooLarge = (): never => {
    throw new ApiError("too_large", `the body is larger than ${limits.bodyBytes} bytes`);
  };
  app.post("/chat", bodyLimit({ maxSize: limits.bodyBytes, onError: tooLarge }), async (c) => {
    if (apiKey !== undefined) checkKey(c.req.header("authorization"), apiKey);
    if (draining) throw new ApiError("unavailable", "the server is shutting down", { retryAfter: 5 });
    const { request, stream } = readBody(new Uint8Array(await c.req.arrayBuffer()));
    if (request.adapter !== null && !chatter.adapters.includes(request.adapter)) {
      throw new ApiError("not_found", describeUnknownAdapter(request.adapter, chatter.adapters), { param: "adapter" });
    }
    const prompt = await chatter.prepare(request);
    const gone = new AbortController();
    const signal = AbortSignal.any([gone.signal, c.req.raw.signal, ending.signal]);
    const ticket = queue.join(signal);
    const answer = takeTurn(chatter, prompt, ticket, signal);
    return stream ? streamAnswer(c, prompt, answer, gone) : wholeAnswer(c, prompt, answer);
  });

  app.notFound(() => {
    throw new ApiError("not_found", "there is no such route; there are GET /, GET /health and POST /chat");
  });
  app.onError((error, c) => {
    const known = error instanceof ApiError ? error : undefined;
    // Who has gone gets no answer; 499 is how nginx logs it.
    if (!known && c.req.raw.signal.aborted) {
      c.set("outcome", { ...c.get("outcome"), outcome: "client gone" });
      return c.body(null, 499 as 400);
    }
    if (!known && !ending.signal.aborted) logger.error({ err: error }, "a request failed");
    const shown = known ?? toApiError(ending.signal);
    if (shown.retryAfter !== undefined) c.header("Retry-After", String(shown.retryAfter));
    if (shown.type === "authentication") c.header("WWW-Authenticate", "Bearer");
    return c.json(shown, STATUS[shown.type]);
  });

  async function* takeTurn(
    by: Chatter,
    prompt: Prompt,
    ticket: Ticket,
    signal: AbortSignal,
  ): AsyncGenerator<ChatEvent> {
    const { promise, resolve } = Promise.withResolvers<void>();
    chats.add(promise);
    try {
      await ticket.turn;
      yield* by.answer(prompt, signal);
    } finally {
      ticket.leave();
      chats.delete(promise);
      resolve();
    }
  }

  async function wholeAnswer(c: Context<Env>, prompt: Prompt, answer: AsyncGenerator<ChatEvent>): Promise<Response> {
    let reply = "";
    let end: { finish_reason: FinishReason; usage: Usage } | undefined;
    for await (const event of answer) {
      if ("delta" in event) reply += event.delta;
      else end = { finish_reason: event.finishReason, usage: usageOf(prompt, event.completionTokens) };
    }
    c.set("outcome", { adapter: prompt.request.adapter, ...end?.usage });
    return c.json({ reply, model: chatter.model, adapter: prompt.request.adapter, ...end });
  }

  function streamAnswer(
    c: Context<Env>,
    prompt: Prompt,
    answer: AsyncGenerator<ChatEvent>,
    gone: AbortController,
  ): Response {
    const text = new TextEncoder();
    let keepAlive: ReturnType<typeof setInterval> | undefined;
    // Pieces are put in without waiting for the reader: an answer is small, and a slow reader must not hold up the queue.
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        const send = (line: string): void => {
          if (!gone.signal.aborted) controller.enqueue(text.encode(`${line}\n\n`));
        };
        const sendJson = (value: unknown): void => send(`data: ${JSON.stringify(value)}`);
        keepAlive = setInterval(() => send(": waiting"), KEEP_ALIVE);
        const begin = performance.now();
        const pump = async (): Promise<void> => {
          let outcome: Record<string, unknown> = {};
          try {
            for await (const event of answer) {
              if ("delta" in event) sendJson({ delta: event.delta });
              else {
                const usage = usageOf(prompt, event.completionTokens);
                outcome = usage;
                sendJson({ finish_reason: event.finishReason, usage });
              }
            }
            send("data: [DONE]");
          } catch (error) {
            const left = gone.signal.aborted || c.req.raw.signal.aborted;
            outcome = { outcome: left ? "client gone" : "failed" };
            if (!left && !(error instanceof ApiError) && !ending.signal.aborted) {
              logger.error({ err: error }, "a stream failed");
            }
            if (!left) sendJson(error instanceof ApiError ? error : toApiError(ending.signal));
          } finally {
            clearInterval(keepAlive);
            const ms = Math.round(performance.now() - begin);
            logger.info({ adapter: prompt.request.adapter, ms, ...outcome }, "stream ended");
            if (!gone.signal.aborted) controller.close();
          }
        };
        void pump();
      },
      cancel() {
        clearInterval(keepAlive);
        gone.abort(new DOMException("the client has gone", "AbortError"));
      },
    });
    return new Response(body, {
      headers: {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        // nginx would gather the pieces otherwise.
        "X-Accel-Buffering": "no",
      },
    });
  }

  return {
    fetch: (request) => app.fetch(request),
    async drain(graceMs) {
      draining = true;
      const timer = setTimeout(
        () => ending.abort(new DOMException("the server is shutting down", "AbortError")),
        graceMs,
      );
      while (chats.size > 0) await Promise.all(chats);
      clearTimeout(timer);
    },
  };
}

function usageOf(prompt: Prompt, completionTokens: number): Usage {
  return { prompt_tokens: prompt.ids.length, completion_tokens: completionTokens };
}

function toApiError(ending: AbortSignal): ApiError {
  return ending.aborted
    ? new ApiError("unavailable", "the server is shutting down", { retryAfter: 5 })
    : new ApiError("internal", "the server failed on this request; its log says why");
}

function describeUnknownAdapter(name: string, adapters: readonly string[]): string {
  const known =
    adapters.length === 0 ? "none is loaded" : `there are ${adapters.map((a) => JSON.stringify(a)).join(", ")}`;
  return `no adapter is called ${JSON.stringify(name.slice(0, 100))}; ${known}, and null is the base model`;
}

function checkKey(header: string | undefined, key: string): void {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  if (header !== undefined && timingSafeEqual(digest(header), digest(`Bearer ${key}`))) return;
  throw new ApiError("authentication", "this server wants its API key as a header: Authorization: Bearer KEY");
}
