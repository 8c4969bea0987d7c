import { type Context, Hono } from "hono";
import { streamSSE } from "hono/streaming";
import type { RunEvent } from "../events.ts";
import { settledEvents } from "../history.ts";
import { livePage } from "./html.ts";
import { PAGE_ACTIONS, type PageAction } from "./protocol.ts";

/** Between signs of life on a stream of a run whose steps take long. */
const KEEP_ALIVE_MS = 15_000;
/** Names by which this machine reaches itself. */
const LOOPBACK = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/;

/** The live page's routes. */
export interface PageApp {
  fetch(request: Request): Response | Promise<Response>;
  /** Sends an event to every open page, and to those that open later. */
  publish(event: RunEvent): void;
  /** Ends the streams; settles when everything was handed to the system. */
  close(): Promise<void>;
}

/**
 * `GET /`, `GET /events` (server-sent events: all that happened, then what happens) and `POST /stop`, `POST /save`.
 *
 * Only pages of this server's own address may use it: the Host header must name this machine, so that no foreign name
 * that is made to point here passes (DNS rebinding), and a request that comes from another page's script is refused by its
 * Origin.
 */
export function createPageApp(onAction: (action: PageAction) => void): PageApp {
  const events: RunEvent[] = [];
  const listeners = new Set<() => void>();
  const streams = new Set<Promise<void>>();
  let isClosed = false;

  const app = new Hono();
  app.use(async (c, next) => {
    if (!LOOPBACK.test(c.req.header("host") ?? "")) return refuse(c, "this page is for this computer alone");
    const origin = c.req.header("origin");
    if (origin !== undefined && origin !== new URL(c.req.url).origin) return refuse(c, "another page asked");
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Referrer-Policy", "no-referrer");
    c.header("Cache-Control", "no-store");
    await next();
  });

  app.get("/", (c) => {
    const { html, contentSecurityPolicy } = livePage();
    c.header("Content-Security-Policy", contentSecurityPolicy);
    return c.html(html);
  });

  app.get("/events", (c) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    streams.add(promise);
    void promise.then(() => streams.delete(promise));
    return streamSSE(c, async (stream) => {
      let wake = (): void => {};
      const listener = (): void => wake();
      listeners.add(listener);
      stream.onAbort(listener);
      try {
        let sent = events.length;
        await stream.writeSSE({ event: "run", data: JSON.stringify(settledEvents(events)) });
        while (!stream.aborted) {
          if (sent < events.length) {
            await stream.writeSSE({ data: JSON.stringify(events[sent++]) });
          } else if (isClosed) {
            await stream.writeSSE({ event: "close", data: "" });
            return;
          } else {
            const isQuiet = await new Promise<boolean>((go) => {
              const timer = setTimeout(() => go(true), KEEP_ALIVE_MS);
              wake = () => {
                clearTimeout(timer);
                go(false);
              };
            });
            if (isQuiet) await stream.write(": still here\n\n");
          }
        }
      } finally {
        listeners.delete(listener);
        resolve();
      }
    });
  });

  for (const action of PAGE_ACTIONS) {
    app.post(`/${action}`, (c) => {
      if (isClosed || events.at(-1)?.event === "end") return c.json({ error: "the run has ended" }, 409);
      onAction(action);
      return c.json({ asked: action }, 202);
    });
  }
  app.notFound((c) => c.json({ error: "there is no such route" }, 404));

  const wakeAll = (): void => {
    for (const listener of listeners) listener();
  };
  return {
    fetch: (request) => app.fetch(request),
    publish(event) {
      events.push(event);
      wakeAll();
    },
    async close() {
      isClosed = true;
      wakeAll();
      await Promise.all(streams);
    },
  };
}

function refuse(c: Context, error: string): Response {
  return c.json({ error }, 403);
}
