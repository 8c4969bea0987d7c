import { attention, Linear, Module, RMSNorm, rope, type Segment, scope, swiglu, type Tensor } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import type { CacheStore } from "./cache.ts";

/**
 * A linear layer, or what has been put in its place (a LoRA layer). Shapes: x [rows, in]; result and what is added to it,
 * [rows, out].
 */
export type Projection = Module & {
  forward(x: Tensor, addend?: Tensor): Tensor;
  /** What a pass through it holds of a row in memory, with or without an addend, if more than a plain linear layer does. */
  heldPerRow?(hasAddend: boolean): HeldPerRow;
};

/** Numbers of a row that a projection holds for itself, beside its input and its result. */
export interface HeldPerRow {
  /** Made on the way forward. */
  readonly made: number;
  /** Of those, what is kept for the gradient. */
  readonly kept: number;
  /** Is its input kept as well? */
  readonly input: boolean;
}

/** Gives the parameter of a name, as `q_proj.weight`, below the module that asks. */
export type ParameterSource = (name: string) => Tensor;

/** Changes what linear layers give for some rows of a pass: an adapter of one sequence among others. */
export interface RowAdapter {
  /**
   * Adds to y [rows, out], in place, what the adapter changes of what `layer` gave for x [rows, in]; nothing where it does
   * not adapt that layer. Without a gradient.
   *
   * @param addend [rows, out], if what was added to the layer's result stands in y already
   */
  addTo(layer: Projection, x: Tensor, y: Tensor, addend?: Tensor): void;
}

/** Consecutive rows of a pass that go through one adapter. */
export interface AdapterRows {
  readonly adapter: RowAdapter;
  readonly first: number;
  readonly count: number;
}

/** What every layer of a pass shares. */
export interface LayerPass {
  /** i32 [rows] */
  readonly positions: Tensor;
  /** f32 [headDim / 2], radians per position */
  readonly frequencies: Tensor;
  readonly segments: readonly Segment[];
  /** With the rows, i32, that this pass writes, and the rows of the segments' keys where they lie in pages. */
  readonly cache?: { readonly store: CacheStore; readonly slots: Tensor; readonly keyRows?: Tensor };
  readonly adapters?: readonly AdapterRows[];
}

/** What a projection gives for a pass's rows, their adapters included. */
function project(layer: Projection, x: Tensor, { adapters }: LayerPass, addend?: Tensor): Tensor {
  const y = layer.forward(x, addend);
  for (const { adapter, first, count } of adapters ?? []) {
    const rows = (t: Tensor): Tensor => t.slice(0, first, first + count);
    scope(() => adapter.addTo(layer, rows(x), rows(y), addend && rows(addend)));
  }
  return y;
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
  readonly #keyBias: Tensor;

  constructor(config: ModelConfig, layer: number, source: ParameterSource) {
    super();
    this.config = config;
    this.layer = layer;
    this.q_proj = biased(source, "q_proj");
    const k_proj = biased(source, "k_proj");
    this.k_proj = k_proj;
    this.#keyBias = k_proj.bias!;
    this.v_proj = biased(source, "v_proj");
    this.o_proj = unbiased(source, "o_proj");
  }

  /** The bias of `k_proj` [kvHeads × headDim], whatever is put around that. */
  get keyBias(): Tensor {
    return this.#keyBias;
  }

  /** x [rows, hidden] → residual + attention, [rows, hidden] */
  forward(x: Tensor, pass: LayerPass, residual: Tensor): Tensor {
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim: size } = this.config;
    const { positions, frequencies, cache } = pass;
    const q = rope(project(this.q_proj, x, pass).reshape(-1, heads, size), positions, frequencies);
    const newK = rope(project(this.k_proj, x, pass).reshape(-1, kvHeads, size), positions, frequencies);
    const newV = project(this.v_proj, x, pass).reshape(-1, kvHeads, size);
    const stored = cache?.store.store(this.layer, newK, newV, cache.slots, positions);
    const { k, v, keyBias } = stored ?? { k: newK, v: newV };
    const given = { keyRows: cache?.keyRows, keyBias };
    const attended = attention(q, k, v, pass.segments, given).reshape(-1, heads * size);
    return project(this.o_proj, attended, pass, residual);
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
  forward(x: Tensor, pass: LayerPass, residual: Tensor): Tensor {
    const inner = swiglu(project(this.gate_proj, x, pass), project(this.up_proj, x, pass));
    return project(this.down_proj, inner, pass, residual);
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
    return this.mlp.forward(this.post_attention_layernorm.forward(attended), pass, attended);
  }
}
