import type { Context } from "../env.ts";

/** Milliseconds between signs of life on a stream that waits for its turn. */
const KEEP_ALIVE = 15_000;

export interface StreamOptions {
  readonly contentType: string;
  /** Sent while nothing comes; undefined: nothing. */
  readonly keepAlive?: string;
  /** How a failure on the way is told; undefined where it is not to be told. */
  readonly onError: (error: unknown) => string | undefined;
  /** The client has gone, or reads too slowly. */
  readonly abandon: (reason: Error) => void;
  /** Bytes that may wait for a slow reader. */
  readonly unreadBytes: number;
  /** The last piece was handed over, or nobody wants it any more. */
  readonly onEnd?: (how: "complete" | "failed" | "gone" | "too slow") => void;
}

/**
 * A body made of pieces as they come. They are taken without waiting for the reader, so that a slow one keeps no place among the
 * answers; one that leaves too much unread is cut off.
 */
export function streamOf(pieces: AsyncIterable<string>, options: StreamOptions): Response {
  const encoder = new TextEncoder();
  let isGone = false;
  let timer: ReturnType<typeof setInterval> | undefined;
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        let how: "complete" | "failed" | "gone" | "too slow" = "complete";
        const send = (piece: string): void => {
          if (isGone) return;
          controller.enqueue(encoder.encode(piece));
          if ((controller.desiredSize ?? 0) >= -options.unreadBytes) return;
          isGone = true;
          how = "too slow";
          const reason = new DOMException("the client reads too slowly", "AbortError");
          options.abandon(reason);
          controller.error(reason);
        };
        if (options.keepAlive !== undefined) {
          const sign = options.keepAlive;
          timer = setInterval(() => send(sign), KEEP_ALIVE);
        }
        const pump = async (): Promise<void> => {
          try {
            for await (const piece of pieces) send(piece);
          } catch (error) {
            if (how === "complete") how = isGone ? "gone" : "failed";
            const told = isGone ? undefined : options.onError(error);
            if (told !== undefined) send(told);
          } finally {
            clearInterval(timer);
            if (isGone && how === "complete") how = "gone";
            options.onEnd?.(how);
            if (!isGone) controller.close();
          }
        };
        void pump();
      },
      cancel() {
        isGone = true;
        clearInterval(timer);
        options.abandon(new DOMException("the client has gone", "AbortError"));
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: 1 << 16 }),
  );
  return new Response(body, {
    headers: {
      "Content-Type": options.contentType,
      "Cache-Control": "no-cache",
      // nginx would gather the pieces otherwise.
      "X-Accel-Buffering": "no",
    },
  });
}

/** Server-sent events, ended by `[DONE]`. */
export async function* serverSentEvents(values: AsyncIterable<unknown>): AsyncGenerator<string> {
  for await (const value of values) yield `data: ${JSON.stringify(value)}\n\n`;
  yield "data: [DONE]\n\n";
}

/** A JSON value a line. */
export async function* jsonLines(values: AsyncIterable<unknown>): AsyncGenerator<string> {
  for await (const value of values) yield `${JSON.stringify(value)}\n`;
}

/** Copies the headers that were set on the way to a response of one's own. */
export function withHeaders(c: Context, response: Response): Response {
  for (const [name, value] of c.res.headers) if (!response.headers.has(name)) response.headers.set(name, value);
  return response;
}
