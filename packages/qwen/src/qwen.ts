import { defaultDevice, openGguf } from "@tslm/tensor";
import { loadGenerationConfig, loadModelConfig } from "./config-files.ts";
import { Engine, type EngineOptions } from "./engine/engine.ts";
import type { EngineEvent, EngineRequest } from "./engine/types.ts";
import { ModelFileError } from "./errors.ts";
import { ggufGenerationConfig, ggufModelConfig, ggufTokenizer, ggufWeights } from "./gguf/index.ts";
import { LoadedQwen } from "./loaded.ts";
import { type LoadModelOptions, loadModel, QwenModel } from "./model/index.ts";
import { type ChatMessage, loadTokenizer } from "./tokenizer/index.ts";

/**
 * A model folder, loaded: config, tokenizer, weights, and what one does with them.
 *
 * @example
 * using qwen = await Qwen.load("path/to/Qwen2.5-0.5B-Instruct");
 * for await (const { text } of qwen.stream([{ role: "user", content: "你好" }])) process.stdout.write(text);
 */
export class Qwen extends LoadedQwen {
  #engine: Engine | undefined;

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

  /**
   * Answers a conversation, the oldest message first, through the model's chat template: as {@link LoadedQwen.chat}, but
   * that many may be asked for at once and share their passes through the model. The first call makes the engine.
   *
   * @param options as for `Engine.generate`; `signal` ends the answer at the next token, and so does leaving the loop
   * @throws EngineRejection when the conversation is too long or too many wait
   */
  stream(messages: readonly ChatMessage[], options: Omit<EngineRequest, "tokens"> = {}): AsyncIterable<EngineEvent> {
    this.#engine ??= this.createEngine();
    return this.#engine.generate({ ...options, tokens: this.tokenizer.encode(this.tokenizer.renderChat(messages)) });
  }

  /** An engine of this model, which ends answers as the model's files say. Its owner disposes of it before the model. */
  createEngine(options: EngineOptions = {}): Engine {
    return new Engine(this.model, this.tokenizer, { endTokens: this.generationConfig.eosTokenIds, ...options });
  }

  /** Gives the memory of weights and engine back; answers under way end. */
  override dispose(): void {
    void this.#engine?.dispose();
    super.dispose();
  }
}
