import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseGenerationConfig, parseModelConfig, QwenModel, saveModel } from "../../packages/qwen/src/index.ts";
import { tinyTokenizerConfig, tinyTokenizerJson } from "../../packages/qwen/src/tokenizer/testdata/tiny.ts";
import { Generator } from "../../packages/tensor/src/index.ts";

/** Writes a random model of the Qwen2 architecture with a tokenizer of bytes: right in everything but what it says. */
export async function writeTinyModel(dir: string, { hidden = 32, seed = 1, positions = 2048 } = {}): Promise<void> {
  const tokenizer = tinyTokenizerJson();
  const idOf = (token: string) => tokenizer.added_tokens.find(({ content }) => content === token)!.id;
  const config = parseModelConfig({
    model_type: "qwen2",
    hidden_size: hidden,
    intermediate_size: 2 * hidden,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 272,
    max_position_embeddings: positions,
    rope_theta: 10000,
    tie_word_embeddings: true,
    eos_token_id: idOf("<|im_end|>"),
  });
  const generation = parseGenerationConfig({ eos_token_id: [idOf("<|im_end|>"), idOf("<|endoftext|>")] }, config);
  const model = QwenModel.init(config, new Generator(seed), { std: 0.2 });
  await saveModel(dir, model, generation);
  model.dispose();
  await writeFile(join(dir, "tokenizer.json"), JSON.stringify(tokenizer));
  await writeFile(join(dir, "tokenizer_config.json"), JSON.stringify(tinyTokenizerConfig));
}
