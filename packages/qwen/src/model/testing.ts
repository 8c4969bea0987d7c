import { Generator, type MemoryCount, memory } from "@tslm/tensor";
import { type ModelConfig, parseModelConfig } from "../config.ts";
import { QwenModel } from "./model.ts";

/** A config.json small enough for plain loops; head sizes and counts differ, so that mixing them up shows. */
export function tinyConfig(overrides: Record<string, unknown> = {}): ModelConfig {
  return parseModelConfig({
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_act: "silu",
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 6,
    vocab_size: 50,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: true,
    eos_token_id: 49,
    ...overrides,
  });
}

/** A random model whose every parameter, biases and norms too, matters. */
export function tinyModel(config = tinyConfig(), seed = 1, dtype: "f32" | "f64" = "f32"): QwenModel {
  const model = QwenModel.init(config, new Generator(seed), { std: 0.3, dtype });
  let state = seed;
  for (const [name, t] of model.namedParameters()) {
    if (t.rank !== 1) continue;
    const values = Float64Array.from({ length: t.size }, () => {
      state = (state * 1103515245 + 12345) % 2147483648;
      return (name.endsWith(".bias") ? 0 : 1) + 0.4 * (state / 2147483648 - 0.5);
    });
    const bytes = dtype === "f64" ? values : Float32Array.from(values);
    t.device.write(t.storage, 0, new Uint8Array(bytes.buffer));
  }
  return model;
}

/** What lives now, once the garbage of earlier tests is gone (a tape without its backward pass waits for the collector). */
export async function settledMemory(): Promise<MemoryCount> {
  Bun.gc(true);
  await Bun.sleep(1);
  return livingMemory();
}

/** What lives now; the peak, which only grows, left out. */
export function livingMemory(): MemoryCount {
  return { ...memory(), peakBytes: 0 };
}

/** Numbers of a model by parameter name. */
export type Weights = ReadonlyMap<string, ArrayLike<number>>;

export async function weightsOf(model: QwenModel): Promise<Weights> {
  const out = new Map<string, ArrayLike<number>>();
  for (const [name, t] of model.namedParameters()) out.set(name, await t.data());
  return out;
}

/**
 * One sequence through Qwen2 in plain loops and double precision, written from the paper and transformers'
 * modeling_qwen2 without this package's code: the oracle of the model's tests.
 */
export function plainForward(config: ModelConfig, weights: Weights, ids: readonly number[]) {
  const { hiddenSize: H, headDim: D, numAttentionHeads: heads, numKeyValueHeads: kvHeads } = config;
  const get = (name: string): ArrayLike<number> => {
    const found = weights.get(name);
    if (!found) throw new Error(`no ${name}`);
    return found;
  };
  const project = (x: number[], name: string, bias: boolean): number[] => {
    const w = get(`${name}.weight`);
    const rows = w.length / x.length;
    return Array.from({ length: rows }, (_, r) => {
      let sum = bias ? get(`${name}.bias`)[r] : 0;
      for (let i = 0; i < x.length; i++) sum += x[i] * w[r * x.length + i];
      return sum;
    });
  };
  const norm = (x: number[], name: string): number[] => {
    const mean = x.reduce((a, b) => a + b * b, 0) / x.length;
    return x.map((value, i) => (value / Math.sqrt(mean + config.rmsNormEps)) * get(`${name}.weight`)[i]);
  };
  const rotate = (head: number[], position: number): number[] =>
    head.map((value, i) => {
      const half = D / 2;
      const angle = position / config.ropeTheta ** ((2 * (i % half)) / D);
      const partner = i < half ? -head[i + half] : head[i - half];
      return value * Math.cos(angle) + partner * Math.sin(angle);
    });
  const split = (x: number[], count: number): number[][] =>
    Array.from({ length: count }, (_, h) => x.slice(h * D, (h + 1) * D));
  const dot = (a: number[], b: number[]): number => a.reduce((sum, value, i) => sum + value * b[i], 0);

  let states = ids.map((id) => Array.from({ length: H }, (_, i) => get("model.embed_tokens.weight")[id * H + i]));
  const layers = [states];
  for (let l = 0; l < config.numHiddenLayers; l++) {
    const at = `model.layers.${l}`;
    const normed = states.map((x) => norm(x, `${at}.input_layernorm`));
    const q = normed.map((x, p) =>
      split(project(x, `${at}.self_attn.q_proj`, true), heads).map((head) => rotate(head, p)),
    );
    const k = normed.map((x, p) =>
      split(project(x, `${at}.self_attn.k_proj`, true), kvHeads).map((head) => rotate(head, p)),
    );
    const v = normed.map((x) => split(project(x, `${at}.self_attn.v_proj`, true), kvHeads));
    states = states.map((x, p) => {
      const joined: number[] = [];
      for (let h = 0; h < heads; h++) {
        const g = Math.floor(h / (heads / kvHeads));
        const scores = Array.from({ length: p + 1 }, (_, j) => Math.exp(dot(q[p][h], k[j][g]) / Math.sqrt(D)));
        const total = scores.reduce((a, b) => a + b, 0);
        for (let d = 0; d < D; d++) joined.push(scores.reduce((sum, s, j) => sum + (s / total) * v[j][g][d], 0));
      }
      const attended = project(joined, `${at}.self_attn.o_proj`, false).map((value, i) => value + x[i]);
      const inner = norm(attended, `${at}.post_attention_layernorm`);
      const gate = project(inner, `${at}.mlp.gate_proj`, false);
      const up = project(inner, `${at}.mlp.up_proj`, false);
      const wide = gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]);
      return project(wide, `${at}.mlp.down_proj`, false).map((value, i) => value + attended[i]);
    });
    layers.push(states);
  }
  const hidden = states.map((x) => norm(x, "model.norm"));
  const head = weights.has("lm_head.weight") ? "lm_head" : "model.embed_tokens";
  const logits = hidden.map((x) => project(x, head, false));
  const logprobs = logits.map((row) => {
    const most = Math.max(...row);
    const sum = most + Math.log(row.reduce((a, b) => a + Math.exp(b - most), 0));
    return row.map((value) => value - sum);
  });
  return { layers, hidden, logits, logprobs };
}

/** Largest distance between two lists of numbers. */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i] - b[i]);
    if (!(d <= most)) most = d;
  }
  return most;
}
