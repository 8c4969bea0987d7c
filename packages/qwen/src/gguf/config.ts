import type { GgufFile, GgufValue } from "@tslm/tensor";
import { type GenerationConfig, type ModelConfig, parseGenerationConfig, parseModelConfig } from "../config.ts";
import { ModelFileError } from "../errors.ts";

/** Control tokens that end an answer, whatever `tokenizer.ggml.eos_token_id` says: llama.cpp goes by these names too. */
const END_TOKENS = ["<|im_end|>", "<|endoftext|>"];
const CONTROL = 3;

/** A list of metadata. @throws ModelFileError when it is missing or not a list of that type */
export function listOf<T extends "string" | "number">(
  file: GgufFile,
  key: string,
  type: T,
): readonly (T extends "string" ? string : number)[] {
  const value = file.metadata.get(key);
  if (!Array.isArray(value) || !value.every((item) => typeof item === type)) {
    throw new ModelFileError(file.file, `must be a list of ${type}s`, { field: key });
  }
  return value as readonly (T extends "string" ? string : number)[];
}

/**
 * The configuration that a GGUF file's metadata describe, checked as `config.json` is.
 *
 * @throws ModelFileError naming what is wrong
 */
export function ggufModelConfig(file: GgufFile): ModelConfig {
  const get = (key: string): GgufValue | undefined => file.metadata.get(key);
  const architecture = get("general.architecture");
  if (architecture !== "qwen2") {
    throw new ModelFileError(file.file, `must be "qwen2", but is ${JSON.stringify(architecture) ?? "missing"}`, {
      field: "general.architecture",
    });
  }
  const scaling = get("qwen2.rope.scaling.type");
  const rows = file.has("token_embd.weight") ? file.info("token_embd.weight").shape[0] : undefined;
  const json = {
    model_type: architecture,
    architectures: ["Qwen2ForCausalLM"],
    hidden_size: get("qwen2.embedding_length"),
    intermediate_size: get("qwen2.feed_forward_length"),
    num_hidden_layers: get("qwen2.block_count"),
    num_attention_heads: get("qwen2.attention.head_count"),
    num_key_value_heads: get("qwen2.attention.head_count_kv"),
    head_dim: get("qwen2.attention.key_length"),
    vocab_size: rows,
    max_position_embeddings: get("qwen2.context_length"),
    // Stored in single precision: 1e-6 comes back as 9.99999997e-7.
    rms_norm_eps: shortest(get("qwen2.attention.layer_norm_rms_epsilon")),
    rope_theta: get("qwen2.rope.freq_base"),
    rope_scaling: scaling === undefined || scaling === "none" ? undefined : { type: scaling },
    tie_word_embeddings: !file.has("output.weight"),
    bos_token_id: get("tokenizer.ggml.bos_token_id"),
    eos_token_id: get("tokenizer.ggml.eos_token_id"),
    pad_token_id: get("tokenizer.ggml.padding_token_id"),
  };
  return parseModelConfig(json, file.file);
}

/** The shortest decimal that gives the same single-precision number. */
function shortest(value: GgufValue | undefined): GgufValue | undefined {
  if (typeof value !== "number" || !Number.isFinite(value)) return value;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}

/** Greedy decoding, ended by the tokens that the file names. */
export function ggufGenerationConfig(file: GgufFile, config: ModelConfig): GenerationConfig {
  const tokens = listOf(file, "tokenizer.ggml.tokens", "string");
  const types = listOf(file, "tokenizer.ggml.token_type", "number");
  const named = END_TOKENS.map((token) => tokens.indexOf(token)).filter((id) => types[id] === CONTROL);
  return parseGenerationConfig({ eos_token_id: [...new Set([...config.eosTokenIds, ...named])] }, config, file.file);
}
