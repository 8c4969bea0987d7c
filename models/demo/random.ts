/**
 * Whole pseudo-random numbers by integer arithmetic alone, the same on every machine: SplitMix32, the 32-bit finaliser of
 * MurmurHash3 over a Weyl sequence (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
 */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** 32 random bits as an unsigned number. */
  word(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  }

  /** A whole number from 0 to n−1; n is at most 2^20, so the product stays exact. */
  below(n: number): number {
    return Math.floor((this.word() * n) / 2 ** 32);
  }

  /** One of the items. */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  /** A new array in random order (Fisher & Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }
}
