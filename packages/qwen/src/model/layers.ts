import { attention, Linear, Module, RMSNorm, rope, type Segment, swiglu, type Tensor } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import type { KeyValueCache } from "./cache.ts";

/**
 * A linear layer, or what has been put in its place (a LoRA layer). Shapes: x [rows, in]; result and what is added to it,
 * [rows, out].
 */
export type Projection = Module & {
  forward(x: Tensor, addend?: Tensor): Tensor;
  /** Numbers that it keeps of a row for the gradient, besides its input; none unless given. */
  readonly keptPerRow?: number;
};

/** Gives the parameter of a name, as `q_proj.weight`, below the module that asks. */
export type ParameterSource = (name: string) => Tensor;

/** What every layer of a pass shares. */
export interface LayerPass {
  /** i32 [rows] */
  readonly positions: Tensor;
  /** f32 [headDim / 2], radians per position */
  readonly frequencies: Tensor;
  readonly segments: readonly Segment[];
  /** With the rows, i32, that this pass writes. */
  readonly cache?: { readonly store: KeyValueCache; readonly slots: Tensor };
}

/** The source below `prefix`. */
export function below(source: ParameterSource, prefix: string): ParameterSource {
  return (name) => source(`${prefix}.${name}`);
}

function biased(source: ParameterSource, name: string): Linear {
  return new Linear(source(`${name}.weight`), source(`${name}.bias`));
}

function unbiased(source: ParameterSource, name: string): Linear {
  return new Linear(source(`${name}.weight`));
}

/** Self-attention with rotary positions and grouped queries: transformers' `Qwen2Attention`. */
export class Attention extends Module {
  q_proj: Projection;
  k_proj: Projection;
  v_proj: Projection;
  o_proj: Projection;
  readonly config: ModelConfig;
  readonly layer: number;

  constructor(config: ModelConfig, layer: number, source: ParameterSource) {
    super();
    this.config = config;
    this.layer = layer;
    this.q_proj = biased(source, "q_proj");
    this.k_proj = biased(source, "k_proj");
    this.v_proj = biased(source, "v_proj");
    this.o_proj = unbiased(source, "o_proj");
  }

  /** x [rows, hidden] → residual + attention, [rows, hidden] */
  forward(x: Tensor, pass: LayerPass, residual: Tensor): Tensor {
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim: size } = this.config;
    const { positions, frequencies, cache } = pass;
    const q = rope(this.q_proj.forward(x).reshape(-1, heads, size), positions, frequencies);
    let k = rope(this.k_proj.forward(x).reshape(-1, kvHeads, size), positions, frequencies);
    let v = this.v_proj.forward(x).reshape(-1, kvHeads, size);
    if (cache) [k, v] = cache.store.store(this.layer, k, v, cache.slots);
    return this.o_proj.forward(attention(q, k, v, pass.segments).reshape(-1, heads * size), residual);
  }
}

/** Gated feed-forward: transformers' `Qwen2MLP`. */
export class MLP extends Module {
  gate_proj: Projection;
  up_proj: Projection;
  down_proj: Projection;

  constructor(source: ParameterSource) {
    super();
    this.gate_proj = unbiased(source, "gate_proj");
    this.up_proj = unbiased(source, "up_proj");
    this.down_proj = unbiased(source, "down_proj");
  }

  /** x [rows, hidden] → residual + feed-forward, [rows, hidden] */
  forward(x: Tensor, residual: Tensor): Tensor {
    return this.down_proj.forward(swiglu(this.gate_proj.forward(x), this.up_proj.forward(x)), residual);
  }
}

/** One block, norms before the parts and the residual around them: transformers' `Qwen2DecoderLayer`. */
export class DecoderLayer extends Module {
  self_attn: Attention;
  mlp: MLP;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;

  constructor(config: ModelConfig, layer: number, source: ParameterSource) {
    super();
    this.self_attn = new Attention(config, layer, below(source, "self_attn"));
    this.mlp = new MLP(below(source, "mlp"));
    this.input_layernorm = new RMSNorm(source("input_layernorm.weight"), config.rmsNormEps);
    this.post_attention_layernorm = new RMSNorm(source("post_attention_layernorm.weight"), config.rmsNormEps);
  }

  /** x [rows, hidden] → [rows, hidden] */
  forward(x: Tensor, pass: LayerPass): Tensor {
    const attended = this.self_attn.forward(this.input_layernorm.forward(x), pass, x);
    return this.mlp.forward(this.post_attention_layernorm.forward(attended), attended);
  }
}
