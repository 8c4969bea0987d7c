import { OpenAPIHono } from "@hono/zod-openapi";
import { cors } from "hono/cors";
import type { Logger } from "pino";
import { Admission } from "./admission.ts";
import { Answers } from "./answers.ts";
import type { Backend } from "./backend.ts";
import { configSchema, type ServerConfigInput } from "./config/schema.ts";
import type { Context, Env } from "./env.ts";
import { ApiError } from "./errors.ts";
import { authenticate } from "./http/auth.ts";
import { Receiving } from "./http/body.ts";
import { checkOrigin, mayCall } from "./http/origin.ts";
import { RateLimits } from "./http/rate-limit.ts";
import { errorStyleOf, showError } from "./http/show-error.ts";
import type { Limits } from "./limits.ts";
import { Metrics } from "./metrics.ts";
import { Models } from "./models.ts";
import { chatPage } from "./page/chat-page.ts";
import { adapterRoutes } from "./routes/adapters.ts";
import { chatRoute } from "./routes/chat.ts";
import { conversationRoutes, recallFrom } from "./routes/conversations.ts";
import { healthRoutes } from "./routes/health.ts";
import { ollamaRoutes } from "./routes/ollama/index.ts";
import { openaiRoutes } from "./routes/openai/index.ts";
import { tokenRoutes } from "./routes/tokens.ts";
import type { Service } from "./service.ts";
import { Conversations } from "./store/conversations.ts";

export interface AppOptions {
  /** What answers. */
  backend: Backend;
  /** Told of every request, never of what is in it. */
  logger: Logger;
  /** What is left out is as `configSchema` says. */
  config?: ServerConfigInput;
  /** Does only this machine reach the server? Then it answers only to this machine's own names. Default false. */
  isLocal?: boolean;
}

/** The connection of a request. */
export interface Peer {
  /** Address of who connected. */
  readonly address: string;
  /** Requests of all connections that are being sent, computed or read, this one with them. */
  readonly openRequests?: number;
  /** Told when nothing more comes of the answer: what follows on the connection is the client's affair. */
  readonly onComplete?: () => void;
}

/** The server's routes, and its end. */
export interface App {
  fetch(request: Request, peer?: Peer): Response | Promise<Response>;
  /**
   * Refuses new requests with 503, and waits for those that run and wait; what is not done after `graceMs` (default: as configured)
   * is aborted.
   */
  drain(graceMs?: number): Promise<void>;
  /** The OpenAPI document. */
  readonly document: object;
  readonly limits: Limits;
}

/** Routes that need no key. */
const OPEN = new Set(["/", "/health", "/ready", "/openapi.json"]);
/** Routes that answer however many requests are open. */
const ALWAYS = new Set(["/health", "/ready", "/metrics"]);

/** Makes the server's routes. */
export function createApp(options: AppOptions): App {
  const { backend, logger, isLocal = false } = options;
  const config = configSchema.parse(options.config ?? {});
  const { limits } = config;
  const admission = new Admission({ limit: limits.concurrency + limits.queue, perClient: limits.perClient });
  const admitted = (): number => admission.total;
  const metrics = new Metrics(backend, admitted);
  const rates = new RateLimits(config);
  const answers = new Answers({ backend, logger, limits, metrics, admission, rates });
  const models = new Models(backend, config.aliases);
  const service: Service = { backend, answers, models, metrics, config, limits };
  const peers = new WeakMap<Request, Peer>();
  const receiving = new Receiving(limits);

  const app = new OpenAPIHono<Env>();
  app.use(async (c, next) => {
    const begin = performance.now();
    const given = c.req.header("x-request-id");
    const requestId = given !== undefined && /^[\w.-]{1,100}$/.test(given) ? given : crypto.randomUUID();
    c.set("requestId", requestId);
    c.set("outcome", {});
    const peer = peers.get(c.req.raw);
    c.set("address", addressOf(c, peer, config.trustProxy));
    c.set("client", { name: c.get("address"), key: undefined });
    c.set("receiving", receiving);
    c.set("whenComplete", peer?.onComplete);
    await next();
    c.get("whenComplete")?.();
    c.res.headers.set("X-Request-Id", requestId);
    const { method } = c.req;
    const ms = performance.now() - begin;
    const { status } = c.res;
    // The route, not the path: what strangers ask for must not make numbers without end.
    const route = c.req.routePath === "/*" ? "other" : c.req.routePath;
    metrics.requests.inc({ route, status: String(status) });
    metrics.requestSeconds.observe({ route }, ms / 1000);
    const level = status >= 500 && status !== 503 ? "error" : "info";
    logger[level](
      {
        request_id: requestId,
        method,
        path: c.req.path.slice(0, 200),
        status,
        ms: Math.round(ms),
        client: c.get("client").name,
        ...c.get("outcome"),
      },
      "request",
    );
  });
  app.use(async (c, next) => {
    const open = peers.get(c.req.raw)?.openRequests ?? 0;
    if (open > limits.openRequests && !ALWAYS.has(c.req.path)) {
      c.header("Connection", "close");
      throw new ApiError("unavailable", `${open} requests are open already; try again later`, { retryAfter: 5 });
    }
    await next();
  });
  const rules = { ...config, hasKeys: config.apiKeys.length > 0, isLocal };
  app.use(async (c, next) => {
    checkOrigin(c.req.raw.headers, rules);
    await next();
  });
  if (config.corsOrigins.length > 0) {
    app.use(
      cors({
        origin: (origin) => (mayCall(origin, config.corsOrigins) ? origin : null),
        exposeHeaders: ["X-Request-Id", "Retry-After"],
        maxAge: 600,
      }),
    );
  }
  app.use(async (c, next) => {
    if (!OPEN.has(c.req.path)) {
      const key = authenticate(c.req.raw.headers, config.apiKeys);
      if (key) c.set("client", { name: key.name, key });
      await rates.request(c.get("client"));
    }
    await next();
  });

  app.get("/", async (c) => {
    const page = await chatPage();
    c.header("Content-Security-Policy", page.contentSecurityPolicy);
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Referrer-Policy", "no-referrer");
    c.header("Cache-Control", "no-cache");
    return c.html(page.html);
  });
  healthRoutes(app, service, admitted);
  const store = config.conversations
    ? new Conversations(config.conversations, { days: config.conversationDays })
    : undefined;
  chatRoute(app, service, recallFrom(store));
  openaiRoutes(app, service);
  ollamaRoutes(app, service);
  adapterRoutes(app, service);
  if (store) conversationRoutes(app, store);
  tokenRoutes(app, service);
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: { title: "tslm", version: "1", description: "A language model with its adapters, on this machine." },
  });
  app.get("/openapi.json", (c) => c.json(document));

  app.notFound((c) => {
    throw new ApiError("not_found", `there is no route ${c.req.method} ${c.req.path.slice(0, 100)}; see /openapi.json`);
  });
  app.onError((error, c) => {
    // Who has gone gets no answer; 499 is how nginx logs it.
    if (!(error instanceof ApiError) && c.req.raw.signal.aborted) {
      Object.assign(c.get("outcome"), { how: "gone" });
      return c.body(null, 499 as 400);
    }
    const shown = answers.shown(error, c.get("requestId"));
    if (shown.retryAfter !== undefined) c.header("Retry-After", String(shown.retryAfter));
    if (shown.type === "authentication") c.header("WWW-Authenticate", "Bearer");
    const { status, body } = showError(shown, errorStyleOf(c.req.path));
    return c.json(body, status);
  });

  return {
    fetch(request, peer) {
      if (peer) peers.set(request, peer);
      return app.fetch(request);
    },
    async drain(graceMs = config.drainSeconds * 1000) {
      await answers.drain(graceMs);
      store?.close();
    },
    document,
    limits,
  };
}

/** The address of who asks: behind a proxy that is trusted, what it says. */
function addressOf(c: Context, peer: Peer | undefined, trustProxy: boolean): string {
  const forwarded = trustProxy ? c.req.header("x-forwarded-for")?.split(",").at(-1)?.trim() : undefined;
  return (forwarded || peer?.address || "unknown").slice(0, 100);
}
