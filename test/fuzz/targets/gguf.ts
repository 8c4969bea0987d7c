import {
  ggufGenerationConfig,
  ggufModelConfig,
  ggufTokenizer,
  ModelFileError,
} from "../../../packages/qwen/src/index.ts";
import {
  DTypeError,
  FormatError,
  parseGguf,
  reference,
  serializeGguf,
  tensor,
} from "../../../packages/tensor/src/index.ts";
import { allowing, check, type FuzzTarget } from "../target.ts";

/** Files of models in llama.cpp's format: the header, the tensors, and the model that the metadata describe. */
export const target: FuzzTarget = {
  words: ["GGUF", "general.alignment", "general.architecture", "qwen2", "tokenizer.ggml.tokens", "qwen2.block_count"],
  maxLength: 4096,
  async seeds() {
    const tensors = new Map([
      ["token_embd.weight", tensor([[1, 2]])],
      ["b", tensor([1, 2, 3]).to("bf16")],
    ]);
    return [
      await serializeGguf(tensors, new Map([["general.name", "x"]])),
      await serializeGguf(
        tensors,
        new Map<string, string | number | (string | number)[] | { float32: number }>([
          ["general.architecture", "qwen2"],
          ["general.alignment", 32],
          ["qwen2.embedding_length", 2],
          ["qwen2.feed_forward_length", 4],
          ["qwen2.block_count", 1],
          ["qwen2.attention.head_count", 1],
          ["qwen2.attention.head_count_kv", 1],
          ["qwen2.context_length", 128],
          ["qwen2.attention.layer_norm_rms_epsilon", { float32: 1e-6 }],
          ["qwen2.rope.freq_base", { float32: 10000 }],
          ["tokenizer.ggml.model", "gpt2"],
          ["tokenizer.ggml.pre", "qwen2"],
          ["tokenizer.ggml.tokens", ["a", "<|im_end|>"]],
          ["tokenizer.ggml.token_type", [1, 3]],
          ["tokenizer.ggml.merges", ["a a"]],
          ["tokenizer.ggml.eos_token_id", 1],
        ]),
      ),
    ];
  },
  fuzz(data) {
    const file = allowing([FormatError], () => parseGguf(data));
    if (!file) return;
    for (const name of file.names()) {
      const { byteLength = 0, offset } = file.info(name);
      check(offset + byteLength <= data.length, () => `${name} reaches beyond the file`);
      allowing([DTypeError], () => file.tensor(name, { device: reference }))?.dispose();
    }
    const config = allowing([ModelFileError], () => ggufModelConfig(file));
    if (config) allowing([ModelFileError], () => ggufGenerationConfig(file, config));
    allowing([ModelFileError], () => ggufTokenizer(file, 1000));
  },
};
