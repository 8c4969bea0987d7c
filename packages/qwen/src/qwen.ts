import { defaultDevice, openGguf } from "@tslm/tensor";
import { loadGenerationConfig, loadModelConfig } from "./config-files.ts";
import { ModelFileError } from "./errors.ts";
import { ggufGenerationConfig, ggufModelConfig, ggufTokenizer, ggufWeights } from "./gguf/index.ts";
import { LoadedQwen } from "./loaded.ts";
import { type LoadModelOptions, loadModel, QwenModel } from "./model/index.ts";
import { loadTokenizer } from "./tokenizer/index.ts";

/**
 * A model folder, loaded: config, tokenizer, weights, and what one does with them.
 *
 * @example
 * using qwen = await Qwen.load("path/to/Qwen2.5-0.5B-Instruct");
 * for await (const { text } of qwen.chat([{ role: "user", content: "你好" }])) process.stdout.write(text);
 */
export class Qwen extends LoadedQwen {
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
}
