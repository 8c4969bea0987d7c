import { ApiError } from "./errors.ts";

/**
 * Counts requests that run or wait, all together and each client's, and refuses what is too much. In which order they get
 * their turns is the engine's affair.
 */
export class Admission {
  readonly #limit: number;
  readonly #perClient: number;
  readonly #counts = new Map<string, number>();
  #total = 0;

  constructor({ limit, perClient }: { limit: number; perClient: number }) {
    this.#limit = limit;
    this.#perClient = perClient;
  }

  /** Places taken. */
  get total(): number {
    return this.#total;
  }

  /**
   * Takes `weight` places for a client; what is returned gives them back, once.
   *
   * @param most places of this client, where its key says so
   * @throws ApiError "too_many_requests"
   */
  enter(client: string, weight = 1, most = this.#perClient): () => void {
    const own = this.#counts.get(client) ?? 0;
    if (own + weight > most) {
      throw this.#refusal(`${own} requests of ${client} run or wait already, ${most} are allowed`);
    }
    if (this.#total + weight > this.#limit) throw this.#refusal(`${this.#total} requests run or wait already`);
    this.#total += weight;
    this.#counts.set(client, own + weight);
    let isLeft = false;
    return () => {
      if (isLeft) return;
      isLeft = true;
      this.#total -= weight;
      const left = this.#counts.get(client)! - weight;
      if (left === 0) this.#counts.delete(client);
      else this.#counts.set(client, left);
    };
  }

  #refusal(why: string): ApiError {
    return new ApiError("too_many_requests", `${why}; try again later`, {
      // Nobody knows how long the answers before will be; a second or so each is what short ones take together.
      retryAfter: Math.min(60, 1 + Math.ceil(this.#total / 4)),
    });
  }
}
