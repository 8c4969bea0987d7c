import type { GgufEntry, StoredType } from "@tslm/tensor";
import { ModelFileError } from "../errors.ts";
import type { ModelToWrite } from "../model/save.ts";
import { GGUF_ARCHITECTURE } from "./names.ts";
import { QWEN2_SPLIT, TOKEN_TYPES } from "./tokenizer.ts";

/** llama.cpp's numbers of what most of a file's weights are (`llama_ftype`). */
const FILE_TYPES: { readonly [K in StoredType]: number } = {
  ...{ f32: 0, f16: 1, q4_0: 2, q4_1: 3, q8_0: 7, q5_0: 8, q5_1: 9, bf16: 32 },
};
const QUANTIZATION_VERSION = 2;

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

/**
 * The metadata of a GGUF file of a Qwen2 model, as llama.cpp's converter (`convert_hf_to_gguf.py`) writes them: sizes, tokenizer, chat
 * template, and the first end token of the generation configuration as the one that ends an answer.
 *
 * @param name what the file says of itself, `general.name`
 * @throws ModelFileError for a tokenizer that llama.cpp's `qwen2` pre-tokenizer does not stand for
 */
export function ggufMetadata(model: ModelToWrite, name: string, type: StoredType): Map<string, GgufEntry> {
  const { config, generationConfig } = model;
  const key = (rest: string): string => `${GGUF_ARCHITECTURE}.${rest}`;
  const metadata = new Map<string, GgufEntry>([
    ["general.architecture", GGUF_ARCHITECTURE],
    ["general.type", "model"],
    ["general.name", name],
    ["general.file_type", FILE_TYPES[type]],
    ["general.quantization_version", QUANTIZATION_VERSION],
    [key("block_count"), config.numHiddenLayers],
    [key("context_length"), config.maxPositionEmbeddings],
    [key("embedding_length"), config.hiddenSize],
    [key("feed_forward_length"), config.intermediateSize],
    [key("attention.head_count"), config.numAttentionHeads],
    [key("attention.head_count_kv"), config.numKeyValueHeads],
    [key("rope.freq_base"), { float32: config.ropeTheta }],
    [key("attention.layer_norm_rms_epsilon"), { float32: config.rmsNormEps }],
  ]);
  if (config.headDim * config.numAttentionHeads !== config.hiddenSize) {
    for (const part of ["attention.key_length", "attention.value_length", "rope.dimension_count"]) {
      metadata.set(key(part), config.headDim);
    }
  }
  for (const [entry, value] of tokenizerMetadata(model)) metadata.set(entry, value);
  const [end] = generationConfig.eosTokenIds;
  const { pad_token: pad } = model.tokenizer.config;
  const added = model.tokenizer.json.added_tokens as readonly AddedToken[];
  const padding = generationConfig.padTokenId ?? added.find(({ content }) => content === pad)?.id;
  const ids = { eos: end, padding, bos: generationConfig.bosTokenId };
  for (const [token, id] of Object.entries(ids)) {
    if (id !== undefined) metadata.set(`tokenizer.ggml.${token}_token_id`, id);
  }
  metadata.set("tokenizer.ggml.add_bos_token", false);
  if (model.tokenizer.chatTemplate !== undefined) metadata.set("tokenizer.chat_template", model.tokenizer.chatTemplate);
  return metadata;
}

function* tokenizerMetadata({ config, tokenizer }: ModelToWrite): Generator<[string, GgufEntry]> {
  const { model, added_tokens, pre_tokenizer } = tokenizer.json as {
    model: { vocab: Readonly<Record<string, number>>; merges: readonly (string | readonly string[])[] };
    added_tokens: readonly AddedToken[];
    pre_tokenizer: unknown;
  };
  // llama.cpp has the pattern in its code under this name; another pattern would give other tokens without a word.
  if (!JSON.stringify(pre_tokenizer).includes(JSON.stringify(QWEN2_SPLIT))) {
    throw new ModelFileError("tokenizer.json", "splits text otherwise than Qwen2 does, which GGUF has no name for", {
      field: "pre_tokenizer",
    });
  }
  // Rows of the embedding without a token are padding.
  const tokens = Array.from({ length: config.vocabSize }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(config.vocabSize).fill(TOKEN_TYPES.unused);
  for (const [token, id] of Object.entries(model.vocab)) {
    tokens[id] = token;
    types[id] = TOKEN_TYPES.normal;
  }
  for (const { id, content, special } of added_tokens) {
    tokens[id] = content;
    types[id] = special ? TOKEN_TYPES.control : TOKEN_TYPES.userDefined;
  }
  yield ["tokenizer.ggml.model", "gpt2"];
  yield ["tokenizer.ggml.pre", "qwen2"];
  yield ["tokenizer.ggml.tokens", tokens];
  yield ["tokenizer.ggml.token_type", types];
  yield ["tokenizer.ggml.merges", model.merges.map((merge) => (typeof merge === "string" ? merge : merge.join(" ")))];
}
