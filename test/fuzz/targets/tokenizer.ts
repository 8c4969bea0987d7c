import {
  ModelFileError,
  makeTokenizer,
  parseGenerationConfig,
  parseModelConfig,
} from "../../../packages/qwen/src/index.ts";
import { tinyTokenizerConfig, tinyTokenizerJson } from "../../../packages/qwen/src/tokenizer/testdata/tiny.ts";
import { allowing, check, type FuzzTarget, partsOf } from "../target.ts";

const TEXT = "hello, 中文 <|im_end|> l'été 😀\n\n  x";
const MODEL = {
  model_type: "qwen2",
  architectures: ["Qwen2ForCausalLM"],
  hidden_size: 8,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 300,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  eos_token_id: [1, 2],
};

/** An added or changed part of `tokenizer.json` as a text of its own, so that mutations need not get past 256 bytes of vocabulary. */
function changed(json: string): unknown {
  const { vocab = {}, merges = [], ...rest } = JSON.parse(json);
  const tiny = tinyTokenizerJson();
  const model = { ...tiny.model, vocab: { ...tiny.model.vocab, ...vocab }, merges: [...tiny.model.merges, ...merges] };
  return { ...tiny, model, ...rest };
}

/** A model's JSON files: tokenizer.json (what differs from a small good one), its config, config.json and generation_config.json. */
export const target: FuzzTarget = {
  words: [
    "added_tokens",
    "special",
    "content",
    "Regex",
    "merges",
    "vocab",
    "pretokenizers",
    "Sequence",
    "Split",
    "Isolated",
  ],
  seeds() {
    const { added_tokens, normalizer, pre_tokenizer, decoder } = tinyTokenizerJson();
    const config = JSON.stringify(tinyTokenizerConfig);
    return [
      [JSON.stringify({ vocab: { ab: 400 }, merges: ["a b", ["a", "b"]] }), config, JSON.stringify(MODEL), "{}"],
      [JSON.stringify({ added_tokens, normalizer }), "{}", "{}", '{"eos_token_id":[1],"temperature":0.7,"top_k":20}'],
      [JSON.stringify({ pre_tokenizer }), config, "{}", "{}"],
      [JSON.stringify({ decoder, post_processor: null, normalizer: { type: "Sequence", normalizers: [] } }), "{}"],
    ].map((parts) => parts.join("\0"));
  },
  fuzz(data) {
    const [json, config, model, generation] = partsOf(data, 4);
    const parse = (text: string): unknown => allowing([SyntaxError], () => JSON.parse(text));
    const modelConfig = allowing([ModelFileError], () => parseModelConfig(parse(model)));
    if (modelConfig) allowing([ModelFileError], () => parseGenerationConfig(parse(generation), modelConfig));

    const parts = allowing([SyntaxError, TypeError], () => ({ json: changed(json), config: parse(config) }));
    const tokenizer = parts && allowing([ModelFileError], () => makeTokenizer("model", parts, { vocabSize: 1000 }));
    if (!tokenizer) return;
    const ids = allowing([ModelFileError], () => tokenizer.encode(TEXT));
    if (ids)
      check(
        ids.every((id) => id < tokenizer.size),
        () => `an id beyond ${tokenizer.size}`,
      );
    if (ids) tokenizer.decode(ids);
  },
};
