import type { EngineStats } from "@tslm/qwen";

const FIELDS = [
  "running",
  "waiting",
  "cacheUsed",
  "cacheKept",
  "cacheCapacity",
  "promptTokens",
  "cachedTokens",
  "generatedTokens",
  "batch",
  "lastPassAt",
] as const;

/** Milliseconds since 1970, which threads agree on; `performance.now()` starts anew in each. */
export const now = (): number => performance.timeOrigin + performance.now();

/** Figures that one thread writes and another reads at any time, also while the first one computes. */
export class SharedStats {
  readonly buffer: SharedArrayBuffer;
  readonly #values: Float64Array;

  constructor(buffer = new SharedArrayBuffer(FIELDS.length * 8)) {
    this.buffer = buffer;
    this.#values = new Float64Array(buffer);
  }

  write({ cache, lastPassAt, ...stats }: EngineStats): void {
    const all = {
      ...stats,
      cacheUsed: cache.used,
      cacheKept: cache.kept,
      cacheCapacity: cache.capacity,
      lastPassAt: performance.timeOrigin + lastPassAt,
    };
    FIELDS.forEach((field, i) => {
      this.#values[i] = all[field];
    });
  }

  read(): Record<(typeof FIELDS)[number], number> {
    return Object.fromEntries(FIELDS.map((field, i) => [field, this.#values[i]])) as ReturnType<SharedStats["read"]>;
  }
}
