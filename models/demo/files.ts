import {
  type GenerationConfig,
  type ModelConfig,
  parseGenerationConfig,
  parseModelConfig,
} from "../../packages/qwen/src/index.ts";
import { type Bpe, SPLIT_PATTERN } from "./bpe.ts";
import { END, END_OF_TEXT, START, SYSTEM } from "./corpus.ts";

/** Control tokens, in order of their ids, which follow the vocabulary's. */
const SPECIAL = [END_OF_TEXT, START, END];

/** Qwen2.5's chat template without tools, and with a system message of its own. */
const CHAT_TEMPLATE = `{%- if messages[0]['role'] != 'system' %}
    {{- '${START}system\\n${SYSTEM}${END}\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '${START}' + message.role + '\\n' + message.content + '${END}' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '${START}assistant\\n' }}
{%- endif %}
`;

/** Rows of the embedding for a vocabulary. */
export function vocabularySize(bpe: Bpe): number {
  return bpe.tokens.length + SPECIAL.length;
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 1)}\n`;

/** The text of `tokenizer.json`. */
export function tokenizerJson(bpe: Bpe): string {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  return json({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map((content, i) => ({
      id: bpe.tokens.length + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: { type: "NFC" },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: SPLIT_PATTERN }, behavior: "Isolated", invert: false },
        byteLevel,
      ],
    },
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(bpe.tokens.map((token, id) => [token, id])),
      merges: bpe.merges.map((pair) => pair.join(" ")),
    },
  });
}

/** The text of `tokenizer_config.json`. */
export function tokenizerConfigJson(maxLength: number): string {
  return json({
    tokenizer_class: "Qwen2Tokenizer",
    model_max_length: maxLength,
    pad_token: END_OF_TEXT,
    eos_token: END,
    bos_token: null,
    unk_token: null,
    add_prefix_space: false,
    clean_up_tokenization_spaces: false,
    split_special_tokens: false,
    chat_template: CHAT_TEMPLATE,
  });
}

/** What `config.json` says. */
export function demoConfig(vocabulary: number): ModelConfig {
  const first = vocabulary - SPECIAL.length;
  return parseModelConfig({
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_act: "silu",
    hidden_size: 128,
    intermediate_size: 416,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 1024,
    rope_theta: 10000,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    vocab_size: vocabulary,
    torch_dtype: "bfloat16",
    bos_token_id: first + SPECIAL.indexOf(END_OF_TEXT),
    eos_token_id: first + SPECIAL.indexOf(END),
    pad_token_id: first + SPECIAL.indexOf(END_OF_TEXT),
  });
}

/** What `generation_config.json` says: greedy, which suits a model this small; either end token ends an answer. */
export function demoGenerationConfig(config: ModelConfig): GenerationConfig {
  return parseGenerationConfig(
    { eos_token_id: [config.eosTokenIds[0], config.padTokenId], do_sample: false, temperature: 1, top_k: 0 },
    config,
  );
}
