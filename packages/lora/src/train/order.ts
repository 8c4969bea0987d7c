import { type RandomKey, rand, reference } from "@tslm/tensor";
import { keySeed } from "../random.ts";

/**
 * The numbers 0 … count−1 in the order of one epoch (counted from 1): shuffled, or as they are.
 */
export async function epochOrder(count: number, epoch: number, seed: number, shuffle: boolean): Promise<number[]> {
  if (!shuffle) return Array.from({ length: count }, (_, i) => i);
  return shuffled(count, { seed: keySeed(seed, "shuffle"), stream: epoch });
}

/** The numbers 0 … count−1, shuffled by Fisher & Yates' algorithm on Philox numbers, the same on every device. */
export async function shuffled(count: number, key: RandomKey): Promise<number[]> {
  const order = Array.from({ length: count }, (_, i) => i);
  if (count === 0) return order;
  using drawn = rand([count], key, { device: reference, dtype: "f64" });
  const uniform = await drawn.data();
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(uniform[i] * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
