import type { Context } from "../env.ts";
import { ApiError } from "../errors.ts";
import type { Limits } from "../limits.ts";

/** Bodies up to so many bytes do not count among those that fill the memory: `openRequests` bounds what they are together. */
const SMALL = 1 << 16;

/**
 * Bodies that are being sent: how many of each client, and how many bytes of all together, for these stay in memory. Small ones
 * always find room, so that a flood of large ones keeps no chat away.
 */
export class Receiving {
  readonly #limits: Limits;
  readonly #counts = new Map<string, number>();
  #bytes = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  /**
   * Makes room for a body; what is returned gives it back.
   *
   * @throws ApiError "too_many_requests" where the client sends many others, "unavailable" where all clients together do
   */
  enter(client: string, bytes: number): () => void {
    const { perClient, receivingBytes, bodyBytes } = this.#limits;
    const own = this.#counts.get(client) ?? 0;
    if (own >= perClient) {
      throw new ApiError("too_many_requests", `${own} bodies of ${client} are being sent already; end these first`, {
        retryAfter: 1,
      });
    }
    const counted = bytes > SMALL ? bytes : 0;
    if (counted > 0 && this.#bytes + counted > Math.max(receivingBytes, bodyBytes)) {
      throw new ApiError("unavailable", "too many large bodies are being sent at once; try again later", {
        retryAfter: 1,
      });
    }
    this.#counts.set(client, own + 1);
    this.#bytes += counted;
    return () => {
      this.#bytes -= counted;
      const left = this.#counts.get(client)! - 1;
      if (left === 0) this.#counts.delete(client);
      else this.#counts.set(client, left);
    };
  }
}

/** The bytes of a request's body. @throws ApiError for one that is too large, one too many, or too slow to come */
export async function readBody(c: Context, limits: Limits): Promise<Uint8Array> {
  const request = c.req.raw;
  const told = request.headers.get("content-length");
  const length = told === null ? undefined : Number(told);
  if (length !== undefined && length > limits.bodyBytes) throw tooLarge(limits);
  const leave = c.get("receiving").enter(c.get("client").name, length ?? limits.bodyBytes);
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    // Nobody knows where the next request would begin.
    c.header("Connection", "close");
    reject(new ApiError("timeout", `the body did not come within ${limits.bodySeconds} seconds`));
  }, limits.bodySeconds * 1000);
  try {
    const whole = length === undefined ? readChunks(request, limits) : request.arrayBuffer();
    return new Uint8Array(await Promise.race([whole, late]));
  } finally {
    clearTimeout(timer);
    leave();
  }
}

/** A body that did not say how long it is. */
async function readChunks(request: Request, limits: Limits): Promise<ArrayBuffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of (request.body ?? []) as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > limits.bodyBytes) throw tooLarge(limits);
    chunks.push(chunk);
  }
  return new Blob(chunks as BlobPart[]).arrayBuffer();
}

function tooLarge({ bodyBytes }: Limits): ApiError {
  return new ApiError("too_large", `the body is larger than ${bodyBytes} bytes`);
}
