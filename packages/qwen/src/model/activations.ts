import { Linear, type Module } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import type { DecoderLayer, HeldPerRow, Projection } from "./layers.ts";
import type { Decoder } from "./model.ts";

const F32 = 4;

/** What a layer holds of each row, in f32 numbers. */
interface LayerMemory {
  /** Made on the way forward. All of it lives until the layer ends. */
  made: number;
  /** Of that, and of the layer's input, what the gradient needs: it lives until the way back. */
  kept: number;
  /** Made at most on the way back, besides the gradient to the layer's result. */
  back: number;
  /** Does a gradient flow to its result? */
  flows: boolean;
}

function isTrained(module: Module): boolean {
  return module.trainableParameters().length > 0;
}

/** What one projection holds beside its input and its result, and whether its input is kept for its gradient. */
function heldBy(layer: Projection, hasAddend = false): HeldPerRow {
  const plain = { made: 0, kept: 0, input: layer instanceof Linear && layer.weight.requiresGrad };
  return layer.heldPerRow?.(hasAddend) ?? plain;
}

/**
 * Follows a layer's forward pass operation by operation, as {@link DecoderLayer.forward} does. An operation keeps something only
 * where a gradient flows through it, so the layers below the first that trains keep nothing.
 *
 * @param flowsIn does a gradient flow to the layer's input?
 */
function follow(layer: DecoderLayer, config: ModelConfig, flowsIn: boolean): LayerMemory {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim } = config;
  const { input_layernorm, post_attention_layernorm } = layer;
  const { q_proj, k_proj, v_proj, o_proj } = layer.self_attn;
  const { gate_proj, up_proj, down_proj } = layer.mlp;
  const [queries, keys] = [numAttentionHeads * headDim, numKeyValueHeads * headDim];
  const held = [
    ...[q_proj, k_proj, v_proj, gate_proj, up_proj].map((layer) => heldBy(layer)),
    // The residual is added to these.
    ...[o_proj, down_proj].map((layer) => heldBy(layer, true)),
  ];
  const keepsInput = (...layers: Projection[]): boolean => layers.some((one) => heldBy(one).input);

  // Through which operations a gradient flows.
  const norm = flowsIn || isTrained(input_layernorm);
  const attention = norm || [q_proj, k_proj, v_proj].some(isTrained);
  const attended = attention || isTrained(o_proj);
  const secondNorm = attended || isTrained(post_attention_layernorm);
  const gated = secondNorm || [gate_proj, up_proj].some(isTrained);

  // Attention: norm; queries and keys before and after their rotation; values; the sum of weights of each head; what it gives,
  // before and after the output projection.
  let made = hiddenSize + 2 * queries + 3 * keys + queries + hiddenSize;
  // The feed-forward part: norm; gate, up and their product; the result.
  made += hiddenSize + 3 * intermediateSize + hiddenSize;
  let kept = 0;
  const keep = (is: boolean, numbers: number): void => {
    if (is) kept += numbers;
  };
  // Each norm keeps its input and the factor of each row.
  keep(norm, hiddenSize + 1);
  keep(keepsInput(q_proj, k_proj, v_proj), hiddenSize);
  keep(attention, 2 * queries + 2 * keys + numAttentionHeads);
  keep(!attention && keepsInput(o_proj), queries);
  keep(secondNorm, hiddenSize + 1);
  keep(keepsInput(gate_proj, up_proj), hiddenSize);
  keep(gated, 2 * intermediateSize);
  keep(keepsInput(down_proj), intermediateSize);
  for (const own of held) {
    made += own.made;
    kept += own.kept;
  }
  if (attention) made += numAttentionHeads;
  if (norm) made += 1;
  if (secondNorm) made += 1;
  // First the gradient to the product of gate and up: those to gate and up take the place of both.
  return { made, kept, back: gated ? intermediateSize : 0, flows: gated || isTrained(down_proj) };
}

/**
 * Memory of a pass forward and backward over `rows` rows at its most, in bytes: what the layers keep for the gradient and what is made
 * on the way. Weights, adapter and its gradients are not in it, nor what a device needs inside of an operation.
 *
 * @param recompute as if only the layers' inputs were kept
 */
export function activationBytes(
  { embed_tokens, layers }: Decoder,
  config: ModelConfig,
  rows: number,
  recompute: boolean,
): number {
  const { hiddenSize } = config;
  let flows = isTrained(embed_tokens);
  /** Of the layers so far. */
  let kept = 0;
  let most = hiddenSize;
  for (const layer of layers) {
    const one = follow(layer, config, flows);
    most = Math.max(most, kept + hiddenSize + one.made);
    if (recompute && one.flows) {
      // On the way back the layer is run once more, beside its input and the gradient to its result, which both live on.
      const again = Math.max(one.made, one.kept - (flows ? hiddenSize : 0) + hiddenSize + one.back);
      kept += hiddenSize;
      most = Math.max(most, kept + hiddenSize + again);
    } else {
      kept += one.kept;
      most = Math.max(most, kept + hiddenSize + one.back);
    }
    flows = one.flows;
  }
  // The final norm, and the loss's gradient to its result.
  return F32 * rows * Math.max(most, kept + 3 * hiddenSize);
}
