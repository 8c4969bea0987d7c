import type { App } from "./app.ts";

export interface ServeOptions {
  app: App;
  /** 0 takes a free one. */
  port: number;
  host: string;
}

/** A server that listens. */
export interface RunningServer {
  /** Where to reach it, such as `http://127.0.0.1:8000`. */
  readonly url: string;
  /** Takes no new chats, lets those that run and wait end (at most `graceMs`), and closes. */
  stop(graceMs?: number): Promise<void>;
}

/** How long the last answers may take to be sent when the server stops. */
const FLUSH_MS = 2000;

/** Listens over HTTP. @throws the system's error, such as EADDRINUSE */
export function serve({ app, port, host }: ServeOptions): RunningServer {
  const server = Bun.serve({
    port,
    hostname: host,
    fetch: (request) => app.fetch(request),
    // An answer may take minutes before its first byte; the queue bounds how many wait.
    idleTimeout: 0,
    // The app has its own, lower limit and answers in words; Bun's would answer with nothing.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
  });
  const shownHost = host.includes(":") ? `[${host}]` : host;
  return {
    url: `http://${shownHost}:${server.port}`,
    async stop(graceMs = 30_000) {
      await app.drain(graceMs);
      // The answers are complete, but may still be on their way out.
      const deadline = performance.now() + FLUSH_MS;
      while (server.pendingRequests > 0 && performance.now() < deadline) await Bun.sleep(5);
      await server.stop(true);
    },
  };
}
