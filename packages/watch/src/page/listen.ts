/** Where the live page is unless told otherwise. */
export const PAGE_PORT = 8010;
const HOST = "127.0.0.1";
/** How long the last answers may take to be sent when the server stops. */
const FLUSH_MS = 1000;

/** The page's server cannot listen where it should. */
export class PageError extends Error {
  override readonly name = "PageError";
}

export interface Listening {
  readonly url: string;
  /** Ends when the answers that run are sent, or after a second. */
  stop(): Promise<void>;
}

/**
 * Listens on this machine alone.
 *
 * @param port undefined: {@link PAGE_PORT}, or a free one where that is in use; 0: a free one
 * @throws PageError when a port that was asked for cannot be had
 */
export function listen(fetch: (request: Request) => Response | Promise<Response>, port: number | undefined): Listening {
  const at = (wanted: number) => {
    const server = Bun.serve({ port: wanted, hostname: HOST, fetch, idleTimeout: 0 });
    const stop = async (): Promise<void> => {
      const deadline = performance.now() + FLUSH_MS;
      while (server.pendingRequests > 0 && performance.now() < deadline) await Bun.sleep(5);
      await server.stop(true);
    };
    return { url: `http://${HOST}:${server.port}`, stop };
  };
  try {
    return at(port ?? PAGE_PORT);
  } catch (cause) {
    if (port === undefined) return at(0);
    const isInUse = (cause as NodeJS.ErrnoException).code === "EADDRINUSE";
    const problem = isInUse ? `port ${port} is in use` : `port ${port} may not be used`;
    throw new PageError(`${problem}; choose another with --ui-port, or leave it out and a free one is taken`, {
      cause,
    });
  }
}
