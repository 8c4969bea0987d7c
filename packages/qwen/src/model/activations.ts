import { Linear } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import type { DecoderLayer, Projection } from "./layers.ts";

const F32 = 4;

/** f32 numbers that a layer keeps of a row for the backward pass, besides its input. */
function keptByLayer({ self_attn, mlp }: DecoderLayer, config: ModelConfig): number {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim } = config;
  const heads = numAttentionHeads * headDim;
  // A frozen linear layer keeps nothing; those that train, or carry an adapter, keep the input that they share.
  const inputOf = (size: number, ...projections: Projection[]): number =>
    projections.every((projection) => projection instanceof Linear && !projection.weight.requiresGrad) ? 0 : size;
  const inputs =
    inputOf(hiddenSize, self_attn.q_proj, self_attn.k_proj, self_attn.v_proj) +
    inputOf(heads, self_attn.o_proj) +
    inputOf(hiddenSize, mlp.gate_proj, mlp.up_proj) +
    inputOf(intermediateSize, mlp.down_proj);
  const { q_proj, k_proj, v_proj, o_proj } = self_attn;
  const { gate_proj, up_proj, down_proj } = mlp;
  const all: Projection[] = [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj];
  const own = all.reduce((sum, { keptPerRow = 0 }) => sum + keptPerRow, 0);
  const attention = 2 * heads + 2 * numKeyValueHeads * headDim + numAttentionHeads;
  // Input of the second norm, both norms' factors, and gate and up for the activation's gradient.
  return inputs + own + attention + hiddenSize + 2 + 2 * intermediateSize;
}

/**
 * Memory of a pass forward and backward over `rows` rows, in bytes, about: what the layers keep for the gradient and the
 * temporaries of one layer. Weights, adapter and optimiser are not in it.
 *
 * @param recompute as if only the layers' inputs were kept
 */
export function activationBytes(
  layers: readonly DecoderLayer[],
  config: ModelConfig,
  rows: number,
  recompute: boolean,
): number {
  const { hiddenSize, intermediateSize } = config;
  const kept = layers.map((layer) => keptByLayer(layer, config));
  const inside = recompute ? Math.max(0, ...kept) : kept.reduce((sum, n) => sum + n, 0);
  // The gradients to gate and up take the place of both.
  const temporaries = intermediateSize + 5 * hiddenSize;
  return F32 * rows * (layers.length * hiddenSize + inside + temporaries);
}
