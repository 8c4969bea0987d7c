/** What is pushed, for one reader who awaits it; ends when told so, or with an error. */
export class EventQueue<T> implements AsyncIterableIterator<T, undefined, undefined> {
  readonly #waiting: T[] = [];
  #wake: (() => void) | undefined;
  #closed = false;
  #error: unknown;
  readonly #left: () => void;

  /** @param left is called when the reader leaves before the end */
  constructor(left: () => void) {
    this.#left = left;
  }

  push(item: T): void {
    if (this.#closed) return;
    this.#waiting.push(item);
    this.#wake?.();
  }
  /** Nothing more comes. */
  close(): void {
    this.#closed = true;
    this.#wake?.();
  }
  /** The reader gets what was pushed, then the error. */
  fail(error: unknown): void {
    if (this.#closed) return;
    this.#error = error;
    this.close();
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    while (this.#waiting.length === 0 && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    if (this.#waiting.length > 0) return { done: false, value: this.#waiting.shift()! };
    if (this.#error !== undefined) {
      const error = this.#error;
      this.#error = undefined;
      throw error;
    }
    return { done: true, value: undefined };
  }
  async return(): Promise<IteratorResult<T, undefined>> {
    if (!this.#closed) this.#left();
    this.close();
    this.#waiting.length = 0;
    return { done: true, value: undefined };
  }
  [Symbol.asyncIterator](): this {
    return this;
  }
}
