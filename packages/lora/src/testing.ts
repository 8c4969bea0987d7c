import {
  attention,
  Embedding,
  Generator,
  Linear,
  linearCrossEntropy,
  Module,
  RMSNorm,
  Tensor,
  type TensorOptions,
  uniform,
} from "@tslm/tensor";
import type { TrainingPass } from "./train/pass.ts";

class TinyAttention extends Module {
  q_proj: Module & { forward(x: Tensor): Tensor };
  k_proj: Module & { forward(x: Tensor): Tensor };
  v_proj: Module & { forward(x: Tensor): Tensor };
  o_proj: Module & { forward(x: Tensor): Tensor };
  constructor(size: number, random: Generator, options: TensorOptions) {
    super();
    this.q_proj = Linear.init(size, size, random, options);
    this.k_proj = Linear.init(size, size / 2, random, options);
    this.v_proj = Linear.init(size, size / 2, random, options);
    this.o_proj = Linear.init(size, size, random, { ...options, bias: false });
  }
  forward(x: Tensor, pass: Pick<TrainingPass, "segments">): Tensor {
    const [rows, size] = x.shape;
    const heads = (t: Tensor, n: number): Tensor => t.reshape(rows, n, size / 2);
    const q = heads(this.q_proj.forward(x), 2);
    const out = attention(q, heads(this.k_proj.forward(x), 1), heads(this.v_proj.forward(x), 1), pass.segments);
    return this.o_proj.forward(out.reshape(rows, size));
  }
}

class TinyLayer extends Module {
  input_layernorm: RMSNorm;
  self_attn: TinyAttention;
  constructor(size: number, random: Generator, options: TensorOptions) {
    super();
    this.input_layernorm = RMSNorm.init(size, 1e-6, options);
    this.self_attn = new TinyAttention(size, random, options);
  }
  forward(x: Tensor, pass: TrainingPass): Tensor {
    return x.add(this.self_attn.forward(this.input_layernorm.forward(x), pass));
  }
}

class TinyBody extends Module {
  embed_tokens: Embedding;
  layers: TinyLayer[];
  constructor(size: number, vocabulary: number, layers: number, random: Generator, options: TensorOptions) {
    super();
    this.embed_tokens = Embedding.init(vocabulary, size, random, options);
    this.layers = Array.from({ length: layers }, () => new TinyLayer(size, random, options));
  }
}

/** A language model for tests, with the names of a transformers model: grouped queries, no positions, tied or own head. */
export class TinyModel extends Module {
  model: TinyBody;
  lm_head: Linear;
  constructor({
    size = 8,
    vocabulary = 11,
    layers = 2,
    tied = false,
    seed = 1,
    ...options
  }: { size?: number; vocabulary?: number; layers?: number; tied?: boolean; seed?: number } & TensorOptions = {}) {
    super();
    const random = new Generator(seed);
    this.model = new TinyBody(size, vocabulary, layers, random, options);
    this.lm_head = tied
      ? new Linear(this.model.embed_tokens.weight)
      : Linear.init(size, vocabulary, random, { ...options, bias: false });
  }
  hidden(pass: TrainingPass): Tensor {
    const { device, dtype } = this.lm_head.weight;
    const index = Tensor.from(pass.tokens, [pass.tokens.length], { dtype: "i32", device });
    const embedded = this.model.embed_tokens.forward(index);
    const x = pass.perturb ? pass.perturb(embedded) : embedded;
    return this.model.layers.reduce((h, layer) => layer.forward(h, pass), dtype === "f64" ? x.to("f64") : x);
  }
  loss(pass: TrainingPass): Tensor {
    const { device, dtype } = this.lm_head.weight;
    const active = Int32Array.from(pass.targets.keys()).filter((i) => pass.targets[i] >= 0);
    const rows = [active.length];
    const index = (values: Int32Array): Tensor => Tensor.from(values, rows, { dtype: "i32", device });
    const scale = Tensor.from(
      Float32Array.from(active, (i) => pass.scale[i]),
      rows,
      { dtype: dtype === "f64" ? "f64" : "f32", device },
    );
    const hidden = this.hidden(pass).indexSelect(index(active));
    return linearCrossEntropy(hidden, this.lm_head.weight, index(active.map((i) => pass.targets[i])), scale, {
      correct: pass.correct,
      labelSmoothing: pass.labelSmoothing,
    });
  }
}

/** Fills tensors with reproducible numbers from −bound to bound, so that B is not 0. */
export async function perturb(tensors: readonly Tensor[], bound = 0.5, seed = 5): Promise<void> {
  const random = new Generator(seed);
  for (const t of tensors) {
    using values = uniform(t.shape, bound, random.next(), { dtype: t.dtype, device: t.device });
    write(t, await values.data());
  }
}

/** Overwrites a parameter. */
export function write(t: Tensor, values: ArrayLike<number>): void {
  const host = t.dtype === "f64" ? Float64Array.from(values) : Float32Array.from(values);
  t.device.write(t.storage, 0, new Uint8Array(host.buffer));
}
