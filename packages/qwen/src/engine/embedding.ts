import type { PagePool } from "./pages.ts";
import { Sequence } from "./sequence.ts";

/** A text whose hidden states are averaged. */
export class EmbeddingSequence extends Sequence {
  // Hidden states are wanted of every token, so none may be left out.
  readonly sharesPrefix = false;
  readonly done: Promise<Float32Array>;
  #sum = new Float64Array();
  readonly #signal: AbortSignal | undefined;
  #resolve!: (mean: Float32Array) => void;
  #reject!: (error: unknown) => void;

  constructor(tokens: readonly number[], pool: PagePool, signal: AbortSignal | undefined) {
    super(tokens, pool, {});
    this.#signal = signal;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  override get prefillLength(): number {
    return this.promptLength;
  }

  /**
   * Adds the hidden states of the next `rows` tokens, f32 [rows, hidden]; one after another, so that it does not matter
   * in what chunks they come.
   */
  add(hidden: Float32Array, rows: number): void {
    const size = hidden.length / rows;
    if (this.computed === 0) this.#sum = new Float64Array(size);
    for (let i = 0; i < hidden.length; i++) this.#sum[i % size] += hidden[i];
    if (this.computed + rows < this.promptLength) return;
    this.#resolve(Float32Array.from(this.#sum, (sum) => sum / this.promptLength));
  }

  override interrupted(): "cancelled" | undefined {
    return this.#signal?.aborted ? "cancelled" : undefined;
  }
  override finish(): void {
    this.#reject(this.#signal?.reason);
  }
  override fail(error: unknown): void {
    this.#reject(error);
  }
}
