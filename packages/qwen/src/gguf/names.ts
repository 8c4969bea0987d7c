/** Names that ggml gives the parts of a Qwen2 model, and transformers'. */

/** What GGUF files call the family. */
export const GGUF_ARCHITECTURE = "qwen2";

const TOP: Readonly<Record<string, string>> = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  lm_head: "output",
};

const BLOCK: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

/** `model.layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight` */
export function ggufName(name: string): string {
  const [, path, kind] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
  const [, layer, part] = /^model\.layers\.(\d+)\.(.*)$/.exec(path ?? "") ?? [];
  const found = part === undefined ? TOP[path ?? ""] : BLOCK[part];
  if (found === undefined) throw new TypeError(`${name} is not a parameter of a Qwen2 model`);
  return part === undefined ? `${found}.${kind}` : `blk.${layer}.${found}.${kind}`;
}
