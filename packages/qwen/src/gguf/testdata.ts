import { type GgufEntry, noGrad, type Tensor, writeGguf } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import type { QwenModel } from "../model/model.ts";
import { tinyTokenizerConfig, tinyTokenizerJson } from "../tokenizer/testdata/tiny.ts";
import { ggufName } from "./names.ts";

/** What llama.cpp's converter writes of a model with the tiny tokenizer. */
export function tinyMetadata(config: ModelConfig): Map<string, GgufEntry> {
  const { model, added_tokens } = tinyTokenizerJson();
  // By id: keys that look like numbers come first in an object.
  const byId = Object.entries(model.vocab).sort(([, a], [, b]) => a - b);
  const tokens = byId.map(([token]) => token);
  const types = tokens.map(() => 1);
  for (const { content, special } of added_tokens) {
    tokens.push(content);
    types.push(special ? 3 : 4);
  }
  const idOf = (token: string): number => tokens.indexOf(token);
  return new Map<string, GgufEntry>([
    ["general.architecture", "qwen2"],
    ["qwen2.block_count", config.numHiddenLayers],
    ["qwen2.context_length", config.maxPositionEmbeddings],
    ["qwen2.embedding_length", config.hiddenSize],
    ["qwen2.feed_forward_length", config.intermediateSize],
    ["qwen2.attention.head_count", config.numAttentionHeads],
    ["qwen2.attention.head_count_kv", config.numKeyValueHeads],
    ["qwen2.rope.freq_base", { float32: config.ropeTheta }],
    ["qwen2.attention.layer_norm_rms_epsilon", config.rmsNormEps],
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", "qwen2"],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", types],
    ["tokenizer.ggml.merges", model.merges as string[]],
    ["tokenizer.ggml.eos_token_id", idOf("<|im_end|>")],
    ["tokenizer.ggml.padding_token_id", idOf("<|endoftext|>")],
    ["tokenizer.chat_template", tinyTokenizerConfig.chat_template],
  ]);
}

/** Writes a model as a GGUF file, its parameters and metadata changed first. */
export async function writeTinyGguf(
  path: string,
  model: QwenModel,
  change: (tensors: Map<string, Tensor>, metadata: Map<string, GgufEntry>) => void = () => {},
): Promise<void> {
  const tensors = new Map(
    noGrad(() => [...model.namedParameters()].map(([name, t]) => [ggufName(name), t.detach()] as const)),
  );
  const metadata = tinyMetadata(model.config);
  change(tensors, metadata);
  await writeGguf(path, tensors, metadata);
}
