import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import type { Client } from "../env.ts";
import { ApiError } from "../errors.ts";

const MINUTE = 60;

/** Counts each client's requests and tokens of the running minute. */
export class RateLimits {
  readonly #limiters = new Map<string, RateLimiterMemory>();
  readonly #requestsPerMinute: number | undefined;

  constructor({ requestsPerMinute }: { requestsPerMinute?: number }) {
    this.#requestsPerMinute = requestsPerMinute;
  }

  /** Counts a request. @throws ApiError "too_many_requests" */
  async request({ name, key }: Client): Promise<void> {
    const points = key?.requestsPerMinute ?? this.#requestsPerMinute;
    if (points !== undefined) await this.#take(`requests:${points}`, name, points, 1, "requests");
    const tokens = key?.tokensPerMinute;
    if (tokens !== undefined) await this.#take(`tokens:${tokens}`, name, tokens, 0, "tokens");
  }

  /** Counts tokens after they were made; the next request is refused while there are too many. */
  async tokens({ name, key }: Client, count: number): Promise<void> {
    const points = key?.tokensPerMinute;
    if (points !== undefined) await this.#limiter(`tokens:${points}`, points).penalty(name, count);
  }

  #limiter(kind: string, points: number): RateLimiterMemory {
    let limiter = this.#limiters.get(kind);
    if (!limiter) {
      limiter = new RateLimiterMemory({ keyPrefix: kind, points, duration: MINUTE });
      this.#limiters.set(kind, limiter);
    }
    return limiter;
  }

  async #take(kind: string, name: string, points: number, count: number, what: string): Promise<void> {
    try {
      const { remainingPoints } = await this.#limiter(kind, points).consume(name, count);
      if (remainingPoints > 0 || count > 0) return;
    } catch (error) {
      if (!(error instanceof RateLimiterRes)) throw error;
    }
    const state = await this.#limiter(kind, points).get(name);
    throw new ApiError("too_many_requests", `${name} may use ${points} ${what} a minute; try again later`, {
      retryAfter: Math.max(1, Math.ceil((state?.msBeforeNext ?? MINUTE * 1000) / 1000)),
    });
  }
}
