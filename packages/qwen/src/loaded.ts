import { type Device, defaultDevice, parseSafetensors } from "@tslm/tensor";
import { type GenerationConfig, type ModelConfig, parseGenerationConfig, parseModelConfig } from "./config.ts";
import { ModelFileError } from "./errors.ts";
import {
  type FinishReason,
  type GenerateOptions,
  type GenerationStep,
  generate,
  type Score,
  score,
} from "./generate/index.ts";
import type { Loading } from "./gguf/weights.ts";
import type { QwenModel } from "./model/model.ts";
import { modelOf, readWeights } from "./model/read-weights.ts";
import type { ChatMessage } from "./tokenizer/chat-template.ts";
import { makeTokenizer, type Tokenizer } from "./tokenizer/tokenizer.ts";

/** A whole answer. */
export interface Completion {
  readonly text: string;
  /** Its tokens, without the end token. */
  readonly tokens: readonly number[];
  readonly finishReason: FinishReason;
  /** The end token that was chosen, if one was. */
  readonly endToken: number | undefined;
}

const WEIGHTS = "model.safetensors";

/** A model in memory: config, tokenizer, weights, and what one does with them. */
export class LoadedQwen {
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
   * A model from the bytes of its files: `config.json`, `tokenizer.json`, `model.safetensors` and, where there are such,
   * `generation_config.json`, `tokenizer_config.json` and `chat_template.jinja`. What a browser does, which has no folders.
   *
   * @throws ModelFileError naming the file and what is wrong with it; FormatError for weights that are no safetensors file
   */
  static async parse(
    files: Readonly<Record<string, Uint8Array>>,
    { device = defaultDevice(), ...loading }: ParseOptions = {},
  ): Promise<LoadedQwen> {
    for (const name of ["config.json", "tokenizer.json", WEIGHTS]) {
      if (!files[name]) throw new ModelFileError(name, "is missing");
    }
    const config = parseModelConfig(jsonOf(files, "config.json"));
    const generationConfig = parseGenerationConfig(jsonOf(files, "generation_config.json"), config);
    const template = textOf(files, "chat_template.jinja");
    const parts = { json: jsonOf(files, "tokenizer.json"), config: jsonOf(files, "tokenizer_config.json"), template };
    const tokenizer = makeTokenizer("tokenizer.json", parts, { vocabSize: config.vocabSize });
    const weights = parseSafetensors(files[WEIGHTS]);
    const shards = new Map([[WEIGHTS, weights]]);
    const tensors = await readWeights({ label: WEIGHTS, shards, index: undefined }, config, device, loading);
    return new LoadedQwen("", { generationConfig, tokenizer, model: modelOf(config, tensors).eval() });
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

/** Options of {@link LoadedQwen.parse}. */
export interface ParseOptions extends Loading {
  /** The default device unless given. */
  readonly device?: Device;
}

function textOf(files: Readonly<Record<string, Uint8Array>>, name: string): string | undefined {
  const bytes = files[name];
  if (bytes === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ModelFileError(name, "is not UTF-8 text", { cause });
  }
}

function jsonOf(files: Readonly<Record<string, Uint8Array>>, name: string): unknown {
  const text = textOf(files, name);
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch (cause) {
    throw new ModelFileError(name, `is not valid JSON (${(cause as Error).message})`, { cause });
  }
}
