import { rand, reference } from "@tslm/tensor";
import { keySeed } from "../random.ts";

/**
 * The numbers 0 … count−1 in the order of one epoch (counted from 1): shuffled by Fisher & Yates' algorithm on Philox
 * numbers, the same on every device, or as they are.
 */
export async function epochOrder(count: number, epoch: number, seed: number, shuffle: boolean): Promise<number[]> {
  const order = Array.from({ length: count }, (_, i) => i);
  if (!shuffle) return order;
  using drawn = rand([count], { seed: keySeed(seed, "shuffle"), stream: epoch }, { device: reference, dtype: "f64" });
  const uniform = await drawn.data();
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(uniform[i] * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
