import { ApiError } from "./errors.ts";

/** A place in a `Queue`. */
export interface Ticket {
  /** Resolves when it is this one's turn; rejects with the signal's reason when it aborts before. */
  readonly turn: Promise<void>;
  /** Gives the place up, waiting or not. Calling it again does nothing. */
  leave(): void;
}

interface Waiter {
  start(): void;
}

/** Lets one at a time through, in the order they came; no more than `limit` may wait. */
export class Queue {
  readonly limit: number;
  readonly #waiting = new Set<Waiter>();
  #running = 0;

  constructor(limit: number) {
    this.limit = limit;
  }

  get waiting(): number {
    return this.#waiting.size;
  }
  get running(): number {
    return this.#running;
  }

  /** @throws ApiError "too_many_requests" when `limit` are waiting already */
  join(signal: AbortSignal): Ticket {
    if (this.#running > 0 && this.#waiting.size >= this.limit) {
      throw new ApiError("too_many_requests", `${this.#waiting.size} requests are waiting already; try again later`, {
        // Nobody knows how long the answers before will be; a few seconds each is what short ones take.
        retryAfter: Math.min(60, 5 + 2 * this.#waiting.size),
      });
    }
    const { promise: turn, resolve, reject } = Promise.withResolvers<void>();
    let state: "waiting" | "running" | "left" = "waiting";
    const waiter: Waiter = {
      start: () => {
        state = "running";
        this.#running++;
        resolve();
      },
    };
    const leave = (): void => {
      signal.removeEventListener("abort", onAbort);
      if (state === "waiting") this.#waiting.delete(waiter);
      if (state === "running") this.#running--;
      state = "left";
      this.#next();
    };
    const onAbort = (): void => {
      if (state !== "waiting") return;
      reject(signal.reason);
      leave();
    };
    this.#waiting.add(waiter);
    signal.addEventListener("abort", onAbort);
    if (signal.aborted) onAbort();
    this.#next();
    return { turn, leave };
  }

  #next(): void {
    if (this.#running > 0) return;
    for (const first of this.#waiting) {
      this.#waiting.delete(first);
      first.start();
      return;
    }
  }
}
