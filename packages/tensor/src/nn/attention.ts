import { type Generator, zeros } from "../creation.ts";
import { ShapeError } from "../errors.ts";
import { linear, permute, reshape, scaledDotProductAttention, slice } from "../ops/index.ts";
import { show } from "../shape.ts";
import type { Tensor, TensorOptions } from "../tensor.ts";
import { xavierUniform } from "./init.ts";
import { Linear, parameter } from "./layers.ts";
import { Module } from "./module.ts";

/** What a query may see, and whether weights are dropped. */
export interface MultiheadOptions {
  /** i32 [queries, keys] or [batch, 1 or heads, queries, keys]: seen where not 0; f32: added to the scores. */
  readonly mask?: Tensor;
  /** A query sees the keys up to its own place. */
  readonly causal?: boolean;
}

/**
 * Attention of several heads (Vaswani et al., 2017). Shapes: query [batch, queries, size], key and value [batch, keys,
 * size], result [batch, queries, size]; in_proj_weight [3·size, size] holds the projections of queries, keys and values.
 * PyTorch's `nn.MultiheadAttention` with `batch_first` and without its second result, the weights.
 */
export class MultiheadAttention extends Module {
  in_proj_weight: Tensor;
  in_proj_bias: Tensor | undefined;
  out_proj: Linear;
  readonly heads: number;
  /** Share of the attention weights dropped in training. */
  readonly dropout: number;
  readonly #random: Generator | undefined;

  /** @param random draws what is dropped; needed where `dropout` is above 0 */
  constructor(
    heads: number,
    inProjWeight: Tensor,
    outProj: Linear,
    inProjBias?: Tensor,
    { dropout = 0, random }: { readonly dropout?: number; readonly random?: Generator } = {},
  ) {
    super();
    const size = inProjWeight.shape[1];
    if (inProjWeight.shape[0] !== 3 * size || size % heads !== 0)
      throw new ShapeError(
        "MultiheadAttention",
        `${show(inProjWeight.shape)} is not [3·size, size] for ${heads} heads`,
      );
    this.heads = heads;
    this.in_proj_weight = inProjWeight;
    this.in_proj_bias = inProjBias;
    this.out_proj = outProj;
    this.dropout = dropout;
    this.#random = random;
  }
  /** Xavier-uniform projections and biases of 0, as PyTorch initialises. */
  static init(
    size: number,
    heads: number,
    random: Generator,
    { bias = true, dropout = 0, dtype, device }: TensorOptions & { bias?: boolean; dropout?: number } = {},
  ): MultiheadAttention {
    const zero = (n: number): Tensor => parameter(() => zeros([n], { dtype, device }));
    const weight = parameter(() => xavierUniform([3 * size, size], random.next(), { dtype, device }));
    const out = Linear.init(size, size, random, { bias: false, dtype, device });
    if (bias) out.bias = zero(size);
    return new MultiheadAttention(heads, weight, out, bias ? zero(3 * size) : undefined, { dropout, random });
  }
  forward(query: Tensor, key = query, value = key, { mask, causal }: MultiheadOptions = {}): Tensor {
    const size = this.in_proj_weight.shape[1];
    for (const t of [query, key, value]) {
      if (t.rank !== 3 || t.shape[2] !== size || t.shape[0] !== query.shape[0])
        throw new ShapeError("MultiheadAttention", `needs [batch, length, ${size}], not ${show(t.shape)}`);
    }
    const [q, k, v] = this.#project(query, key, value).map((t) =>
      permute(reshape(t, [t.shape[0], t.shape[1], this.heads, size / this.heads]), [0, 2, 1, 3]),
    );
    const drops = this.training && this.dropout > 0 && this.#random;
    const dropout = drops ? { p: this.dropout, key: drops.next() } : undefined;
    const out = scaledDotProductAttention(q, k, v, { mask, causal, dropout });
    return this.out_proj.forward(reshape(permute(out, [0, 2, 1, 3]), query.shape));
  }
  /** One product where all three are one. */
  #project(query: Tensor, key: Tensor, value: Tensor): Tensor[] {
    const size = this.in_proj_weight.shape[1];
    const part = (t: Tensor, i: number, dim: number): Tensor => slice(t, dim, i * size, (i + 1) * size);
    if (query === key && key === value) {
      const joined = linear(query, this.in_proj_weight, this.in_proj_bias);
      return [0, 1, 2].map((i) => part(joined, i, -1));
    }
    const bias = (i: number): Tensor | undefined => this.in_proj_bias && part(this.in_proj_bias, i, 0);
    return [query, key, value].map((t, i) => linear(t, part(this.in_proj_weight, i, 0), bias(i)));
  }
}
