import { ConstraintError } from "./errors.ts";
import { LIMITS } from "./limits.ts";

/** The work that one schema or pattern may cost to be compiled, all its parts together. */
export class Budget {
  #left: number = LIMITS.steps;
  readonly #paid = new Set<string>();

  /** As `spend`, for what is the same work however often it is asked for: only the first time counts. */
  spendOnce(what: string, steps: number): void {
    if (this.#paid.has(what)) return;
    this.#paid.add(what);
    this.spend(steps);
  }

  /** @throws ConstraintError where nothing is left */
  spend(steps: number): void {
    this.#left -= steps;
    if (this.#left < 0) {
      throw new ConstraintError(
        `the schema or pattern takes more than ${LIMITS.steps} steps to be compiled; make it smaller or simpler`,
      );
    }
  }
}
