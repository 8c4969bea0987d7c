import type { GgufFile } from "@tslm/tensor";
import { ModelFileError } from "../errors.ts";
import { makeTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import { listOf } from "./config.ts";

/** How Qwen2 splits a text before its merges: the pattern of its `tokenizer.json`. */
export const QWEN2_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** Types of tokens in `tokenizer.ggml.token_type`. */
export const TOKEN_TYPES = { normal: 1, control: 3, userDefined: 4, unused: 5 } as const;

/**
 * The tokenizer and chat template in a GGUF file's metadata, as `tokenizer.json` and `tokenizer_config.json` would have
 * them, through the same library and the same checks.
 *
 * @throws ModelFileError naming what is wrong
 */
export function ggufTokenizer(file: GgufFile, vocabSize: number): Tokenizer {
  const text = (key: string, wanted?: string): string | undefined => {
    const value = file.metadata.get(key);
    if (value !== undefined && typeof value !== "string") {
      throw new ModelFileError(file.file, "must be a text", { field: key });
    }
    if (wanted !== undefined && value !== wanted) {
      throw new ModelFileError(file.file, `must be "${wanted}", but is ${JSON.stringify(value) ?? "missing"}`, {
        field: key,
      });
    }
    return value;
  };
  text("tokenizer.ggml.model", "gpt2");
  text("tokenizer.ggml.pre", "qwen2");
  const tokens = listOf(file, "tokenizer.ggml.tokens", "string");
  const types = listOf(file, "tokenizer.ggml.token_type", "number");
  if (types.length !== tokens.length) {
    throw new ModelFileError(file.file, `has ${types.length} entries for ${tokens.length} tokens`, {
      field: "tokenizer.ggml.token_type",
    });
  }
  const vocab: Record<string, number> = Object.create(null);
  const added: object[] = [];
  tokens.forEach((content, id) => {
    if (types[id] === TOKEN_TYPES.normal) vocab[content] = id;
    else if (types[id] === TOKEN_TYPES.control || types[id] === TOKEN_TYPES.userDefined) {
      const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
      added.push({ id, content, ...plain, special: types[id] === TOKEN_TYPES.control });
    }
  });
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  const split = { type: "Split", pattern: { Regex: QWEN2_SPLIT }, behavior: "Isolated", invert: false };
  const nameOf = (key: string): string | undefined => {
    const id = file.metadata.get(key);
    return typeof id === "number" ? tokens[id] : undefined;
  };
  return makeTokenizer(
    file.file,
    {
      json: {
        version: "1.0",
        added_tokens: added,
        normalizer: { type: "NFC" },
        pre_tokenizer: { type: "Sequence", pretokenizers: [split, byteLevel] },
        post_processor: byteLevel,
        decoder: byteLevel,
        model: { type: "BPE", vocab, merges: listOf(file, "tokenizer.ggml.merges", "string") },
      },
      config: {
        eos_token: nameOf("tokenizer.ggml.eos_token_id"),
        pad_token: nameOf("tokenizer.ggml.padding_token_id"),
        chat_template: text("tokenizer.chat_template"),
      },
    },
    { vocabSize },
  );
}
