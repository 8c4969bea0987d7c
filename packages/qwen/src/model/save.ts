import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { noGrad, type Tensor, writeSafetensors } from "@tslm/tensor";
import type { GenerationConfig, ModelConfig } from "../config.ts";
import type { QwenModel } from "./model.ts";

const oneOrMore = (ids: readonly number[]): number | readonly number[] | undefined => (ids.length > 1 ? ids : ids[0]);

/** What transformers' `config.json` of such a model says; `parseModelConfig` reads it back. */
export function modelConfigJson(config: ModelConfig): Record<string, unknown> {
  return {
    architectures: config.architectures.length > 0 ? config.architectures : ["Qwen2ForCausalLM"],
    model_type: config.modelType,
    hidden_act: "silu",
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.ropeTheta,
    tie_word_embeddings: config.tieWordEmbeddings,
    use_sliding_window: false,
    torch_dtype: "bfloat16",
    bos_token_id: config.bosTokenId,
    eos_token_id: oneOrMore(config.eosTokenIds),
    pad_token_id: config.padTokenId,
  };
}

/** What transformers' `generation_config.json` says; `parseGenerationConfig` reads it back. */
export function generationConfigJson(config: GenerationConfig): Record<string, unknown> {
  return {
    bos_token_id: config.bosTokenId,
    eos_token_id: oneOrMore(config.eosTokenIds),
    pad_token_id: config.padTokenId,
    do_sample: config.doSample,
    temperature: config.temperature,
    top_k: config.topK,
    top_p: config.topP,
    min_p: config.minP,
    repetition_penalty: config.repetitionPenalty,
  };
}

/**
 * Writes `config.json`, `generation_config.json` and `model.safetensors` (rounded to bf16), each whole or not at all.
 * transformers and `loadModel` read them; the tokenizer's files are the caller's.
 */
export async function saveModel(dir: string, model: QwenModel, generationConfig: GenerationConfig): Promise<void> {
  await mkdir(dir, { recursive: true });
  const rounded = new Map<string, Tensor>();
  try {
    for (const [name, t] of model.namedParameters()) {
      rounded.set(name, t.dtype === "bf16" ? t.alias() : noGrad(() => t.to("bf16")).keep());
    }
    await writeSafetensors(join(dir, "model.safetensors"), rounded, { format: "pt" });
  } finally {
    for (const t of rounded.values()) t.dispose();
  }
  await writeJson(join(dir, "config.json"), modelConfigJson(model.config));
  await writeJson(join(dir, "generation_config.json"), generationConfigJson(generationConfig));
}

async function writeJson(file: string, value: unknown): Promise<void> {
  await writeFile(`${file}.part`, `${JSON.stringify(value, null, 2)}\n`);
  await rename(`${file}.part`, file);
}
