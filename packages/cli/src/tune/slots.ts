import { availableParallelism } from "node:os";
import type { TrialResult } from "@tslm/tune";

/** Share of the memory that trials may take together. */
const SHARE = 0.8;

/** How many trainings run at once on this machine, and with how many threads each. */
export class Slots {
  readonly #most: number;
  readonly #threads: number;
  /** Before any trial has taken its part. */
  readonly #available = process.availableMemory();

  constructor({ parallel, threads }: { parallel?: number; threads?: number }) {
    this.#threads = threads ?? availableParallelism();
    this.#most = parallel ?? this.#threads;
  }

  /** The first training is alone, and tells what one needs; then as many as memory and threads allow. */
  count(results: readonly TrialResult[]): number {
    const need = Math.max(0, ...results.map(({ memory_bytes = 0 }) => memory_bytes));
    if (need === 0) return 1;
    return Math.max(1, Math.min(this.#most, Math.floor((SHARE * this.#available) / need)));
  }

  /** Threads of each. */
  threads(results: readonly TrialResult[]): number {
    return Math.max(1, Math.floor(this.#threads / this.count(results)));
  }
}
