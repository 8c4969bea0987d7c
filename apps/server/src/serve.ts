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
  /** Takes no new chats, lets those that run and wait end (at most `graceMs`, or as configured), and closes. */
  stop(graceMs?: number): Promise<void>;
}

/** How long the last answers may take to be sent when the server stops. */
const FLUSH_MS = 2000;

/** The server cannot listen where it should. */
export class ListenError extends Error {
  override readonly name = "ListenError";
}

/** Listens over HTTP. @throws ListenError when the port is in use, or the address is not this machine's */
export function serve(options: ServeOptions): RunningServer {
  const { app, host } = options;
  const server = listen(options);
  const shownHost = host.includes(":") ? `[${host}]` : host;
  return {
    url: `http://${shownHost}:${server.port}`,
    async stop(graceMs) {
      await app.drain(graceMs);
      // The answers are complete, but may still be on their way out.
      const deadline = performance.now() + FLUSH_MS;
      while (server.pendingRequests > 0 && performance.now() < deadline) await Bun.sleep(5);
      await server.stop(true);
    },
  };
}

function listen({ app, port, host }: ServeOptions): Bun.Server<undefined> {
  const { idleSeconds } = app.limits;
  try {
    return Bun.serve({
      port,
      hostname: host,
      fetch(request, server) {
        // An answer may take minutes before its first byte; the app bounds how long it, and the request's body, may take.
        server.timeout(request, 0);
        return app.fetch(request, {
          address: server.requestIP(request)?.address ?? "unknown",
          openRequests: server.pendingRequests,
          onComplete: () => server.timeout(request, idleSeconds),
        });
      },
      // Before a request's head is complete Bun waits some 12 seconds, whatever is said here.
      idleTimeout: idleSeconds,
      // The app has its own, lower limit and answers in words; Bun's would answer with nothing.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    });
  } catch (cause) {
    throw new ListenError(describe((cause as NodeJS.ErrnoException).code, host, port), { cause });
  }
}

function describe(code: string | undefined, host: string, port: number): string {
  switch (code) {
    case "EADDRINUSE":
      return `port ${port} at ${host} is in use; choose another with --port, or end the program that uses it`;
    case "EACCES":
      return `port ${port} may not be used by this user; choose one from 1024 on with --port`;
    default:
      // For a name that it cannot resolve, Bun gives whatever error came before.
      return `cannot listen at ${host}; choose an address of this machine with --host, such as 127.0.0.1 or 0.0.0.0`;
  }
}
