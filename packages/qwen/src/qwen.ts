import { type Device, defaultDevice, openGguf } from "@tslm/tensor";
import { type GenerationConfig, loadGenerationConfig, loadModelConfig, type ModelConfig } from "./config.ts";
import { ModelFileError } from "./errors.ts";
import {
  type FinishReason,
  type GenerateOptions,
  type GenerationStep,
  generate,
  type Score,
  score,
} from "./generate/index.ts";
import { ggufGenerationConfig, ggufModelConfig, ggufTokenizer, ggufWeights } from "./gguf/index.ts";
import { type LoadModelOptions, loadModel, QwenModel } from "./model/index.ts";
import { type ChatMessage, loadTokenizer, type Tokenizer } from "./tokenizer/index.ts";

/** A whole answer. */
export interface Completion {
  readonly text: string;
  /** Its tokens, without the end token. */
  readonly tokens: readonly number[];
  readonly finishReason: FinishReason;
  /** The end token that was chosen, if one was. */
  readonly endToken: number | undefined;
}

/**
 * A model folder, loaded: config, tokenizer, weights, and what one does with them.
 *
 * @example
 * using qwen = await Qwen.load("path/to/Qwen2.5-0.5B-Instruct");
 * for await (const { text } of qwen.chat([{ role: "user", content: "你好" }])) process.stdout.write(text);
 */
export class Qwen {
  readonly dir: string;
  readonly config: ModelConfig;
  readonly generationConfig: GenerationConfig;
  readonly tokenizer: Tokenizer;
  readonly model: QwenModel;

  constructor(dir: string, parts: { generationConfig: GenerationConfig; tokenizer: Tokenizer; model: QwenModel }) {
    this.dir = dir;
    this.config = parts.model.config;
    this.generationConfig = parts.generationConfig;
    this.tokenizer = parts.tokenizer;
    this.model = parts.model;
  }

  /**
   * Loads `config.json`, `generation_config.json`, the tokenizer and the weights of a folder; or all of it from a GGUF
   * file, whose quantised weights are used as they lie there.
   *
   * @param dir a model's folder, or a file whose name ends in `.gguf`
   * @throws ModelFileError naming the file and what is wrong with it
   */
  static async load(dir: string, options: LoadModelOptions = {}): Promise<Qwen> {
    if (dir.toLowerCase().endsWith(".gguf")) return Qwen.#loadGguf(dir, options);
    const config = await loadModelConfig(dir);
    const generationConfig = await loadGenerationConfig(dir, config);
    const tokenizer = await loadTokenizer(dir, { vocabSize: config.vocabSize });
    const model = (await loadModel(dir, config, options)).eval();
    return new Qwen(dir, { generationConfig, tokenizer, model });
  }

  static async #loadGguf(path: string, options: LoadModelOptions): Promise<Qwen> {
    if (options.quantize) {
      throw new ModelFileError(
        path,
        `holds weights that are quantised already; leave out quantize (${options.quantize})`,
      );
    }
    using file = await openGguf(path);
    const config = ggufModelConfig(file);
    const generationConfig = ggufGenerationConfig(file, config);
    const tokenizer = ggufTokenizer(file, config.vocabSize);
    const tensors = await ggufWeights(file, config, options.device ?? defaultDevice(), options);
    const model = new QwenModel(config, (name) => tensors.get(name)!).eval();
    return new Qwen(path, { generationConfig, tokenizer, model });
  }

  get device(): Device {
    return this.model.device;
  }

  /**
   * Continues a prompt: greedy and without penalty unless told otherwise, whatever `generation_config.json` says of
   * sampling; its end tokens end the answer.
   */
  generate(ids: readonly number[], options: GenerateOptions = {}): AsyncGenerator<GenerationStep, void, undefined> {
    const endTokens = options.endTokens ?? this.generationConfig.eosTokenIds;
    return generate(this.model, this.tokenizer, ids, { ...options, endTokens });
  }

  /** Answers a conversation, the oldest message first, through the model's chat template. */
  chat(
    messages: readonly ChatMessage[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GenerationStep, void, undefined> {
    return this.generate(this.tokenizer.encode(this.tokenizer.renderChat(messages)), options);
  }

  /** {@link generate} to the end. */
  async complete(ids: readonly number[], options: GenerateOptions = {}): Promise<Completion> {
    const tokens: number[] = [];
    let text = "";
    for await (const step of this.generate(ids, options)) {
      text += step.text;
      if (step.token !== undefined) tokens.push(step.token);
      const { finishReason, endToken } = step;
      if (finishReason) return { text, tokens, finishReason, endToken };
    }
    throw new Error("generation ended without a reason");
  }

  /** Log-probabilities of a text's tokens and the best tokens after it. */
  score(ids: readonly number[], options: { signal?: AbortSignal } = {}): Promise<Score> {
    return score(this.model, ids, options);
  }

  /** Gives the weights' memory back. */
  dispose(): void {
    this.model.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
