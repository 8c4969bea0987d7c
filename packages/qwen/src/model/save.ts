import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { noGrad, type StoredType, type Tensor, type TensorSource, writeSafetensors } from "@tslm/tensor";
import type { GenerationConfig, ModelConfig, WeightDtype } from "../config.ts";
import type { TokenizerFiles } from "../tokenizer/index.ts";
import type { QwenModel } from "./model.ts";
import { parameterShapes } from "./parameters.ts";

const oneOrMore = (ids: readonly number[]): number | readonly number[] | undefined => (ids.length > 1 ? ids : ids[0]);

/** What transformers' `config.json` of such a model says; `parseModelConfig` reads it back. */
export function modelConfigJson(config: ModelConfig, dtype: WeightDtype = "bfloat16"): Record<string, unknown> {
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
    torch_dtype: dtype,
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

/** Types that a model's folder can be written in, and what `config.json` calls them. */
export const FOLDER_TYPES = { bf16: "bfloat16", f16: "float16", f32: "float32" } as const satisfies Partial<
  Record<StoredType, WeightDtype>
>;
export type FolderType = keyof typeof FOLDER_TYPES;

/** A model on its way into files, weights one after another. */
export interface ModelToWrite {
  readonly config: ModelConfig;
  readonly generationConfig: GenerationConfig;
  readonly tokenizer: TokenizerFiles;
  /** A parameter by transformers' name. What it returns is disposed of once it is written. */
  readonly read: (name: string) => Tensor;
}

/**
 * Writes what transformers loads: `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` (chat
 * template included) and `model.safetensors`. The folder must exist; each file is there whole or not at all.
 */
export async function writeModelFolder(dir: string, model: ModelToWrite, type: FolderType): Promise<void> {
  const { config, generationConfig, tokenizer, read } = model;
  const sources = new Map<string, TensorSource>();
  for (const [name, shape] of parameterShapes(config)) sources.set(name, { type, shape, read: () => read(name) });
  await writeSafetensors(join(dir, "model.safetensors"), sources, { format: "pt" });
  await writeJson(join(dir, "config.json"), modelConfigJson(config, FOLDER_TYPES[type]));
  const { temperature, top_k, top_p, min_p, ...greedy } = generationConfigJson(generationConfig);
  // transformers warns of settings of sampling beside do_sample: false.
  const sampling = generationConfig.doSample ? { temperature, top_k, top_p, min_p } : {};
  await writeJson(join(dir, "generation_config.json"), { ...greedy, ...sampling });
  await writeJson(join(dir, "tokenizer.json"), tokenizer.json);
  const { chatTemplate, config: tokenizerConfig } = tokenizer;
  await writeJson(join(dir, "tokenizer_config.json"), {
    ...tokenizerConfig,
    tokenizer_class: "Qwen2Tokenizer",
    model_max_length: config.maxPositionEmbeddings,
    ...(chatTemplate === undefined ? {} : { chat_template: chatTemplate }),
  });
}

async function writeJson(file: string, value: unknown): Promise<void> {
  await writeFile(`${file}.part`, `${JSON.stringify(value, null, 2)}\n`);
  await rename(`${file}.part`, file);
}
