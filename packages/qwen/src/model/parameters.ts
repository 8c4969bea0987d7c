import type { Shape } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";

/** Name and shape of every parameter, as transformers names them, in the order of the model. */
export function parameterShapes(config: ModelConfig): Map<string, Shape> {
  const { hiddenSize: hidden, intermediateSize: wide, headDim, vocabSize } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const shapes = new Map<string, Shape>([["model.embed_tokens.weight", [vocabSize, hidden]]]);
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const layer: Record<string, Shape> = {
      "self_attn.q_proj.weight": [queries, hidden],
      "self_attn.q_proj.bias": [queries],
      "self_attn.k_proj.weight": [keys, hidden],
      "self_attn.k_proj.bias": [keys],
      "self_attn.v_proj.weight": [keys, hidden],
      "self_attn.v_proj.bias": [keys],
      "self_attn.o_proj.weight": [hidden, queries],
      "mlp.gate_proj.weight": [wide, hidden],
      "mlp.up_proj.weight": [wide, hidden],
      "mlp.down_proj.weight": [hidden, wide],
      "input_layernorm.weight": [hidden],
      "post_attention_layernorm.weight": [hidden],
    };
    for (const [name, shape] of Object.entries(layer)) shapes.set(`model.layers.${i}.${name}`, shape);
  }
  shapes.set("model.norm.weight", [hidden]);
  if (!config.tieWordEmbeddings) shapes.set("lm_head.weight", [vocabSize, hidden]);
  return shapes;
}

/** Number of parameters; tied ones count once. */
export function parameterCount(config: ModelConfig): number {
  let count = 0;
  for (const shape of parameterShapes(config).values()) count += shape.reduce((a, b) => a * b, 1);
  return count;
}
