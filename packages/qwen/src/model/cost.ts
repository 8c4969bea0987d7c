import type { ModelConfig } from "../config.ts";
import type { DecoderLayer } from "./layers.ts";

/** Attention's operations take so much longer than those of matrix products. */
const ATTENTION = 2;

/** How much there is to compute in a training pass. */
export interface PassSize {
  rows: number;
  /** Sum of the squared lengths of its sequences: what attention goes over. */
  squares: number;
  /** Rows that predict a token. */
  predicted: number;
}

/** Multiply-adds of a row in a layer's matrix products, without attention. */
function productsOf(config: ModelConfig): number {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim } = config;
  return hiddenSize * (2 * (numAttentionHeads + numKeyValueHeads) * headDim + 3 * intermediateSize);
}

/**
 * Floating-point operations of a pass, about: those of matrix products and attention (at the speed of the products),
 * forward alone, or backward too.
 * Backward goes down to the lowest layer that trains, and computes no gradients of frozen weights.
 */
export function passFlops(
  layers: readonly DecoderLayer[],
  config: ModelConfig,
  { rows, squares, predicted }: PassSize,
  { backward, recompute }: { backward: boolean; recompute: boolean },
): number {
  const { hiddenSize, vocabSize, numAttentionHeads, headDim } = config;
  const products = productsOf(config);
  const lowest = layers.findIndex((layer) => layer.trainableParameters().length > 0);
  const head = 2 * predicted * hiddenSize * vocabSize;
  const layer = (one: DecoderLayer, depth: number): number => {
    const adapter = one.trainableParameters().reduce((sum, { size }) => sum + size, 0);
    // Scores and weighted values, each below the diagonal alone; on the way back five such products.
    const attention = ATTENTION * 2 * squares * numAttentionHeads * headDim;
    const forward = 2 * rows * (products + adapter) + attention;
    if (!backward || lowest < 0 || depth < lowest) return forward;
    return forward * (recompute ? 2 : 1) + 2 * rows * (products + 2 * adapter) + 2.5 * attention;
  };
  return layers.reduce((sum, one, depth) => sum + layer(one, depth), head * (backward ? 2 : 1));
}
