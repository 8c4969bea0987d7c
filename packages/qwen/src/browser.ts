// The entry for browsers: all that needs no file system, models being parsed from the bytes of their files.
export {
  type GenerationConfig,
  type ModelConfig,
  parseGenerationConfig,
  parseModelConfig,
  type WeightDtype,
} from "./config.ts";
export * from "./constraint/index.ts";
export { ModelFileError } from "./errors.ts";
export * from "./generate/index.ts";
export { type Completion, LoadedQwen as Qwen, type ParseOptions } from "./loaded.ts";
export { QwenModel } from "./model/model.ts";
export { type LanguageModel, nextTokens, type Pass, passOf } from "./model/pass.ts";
export { makeTokenizer, Tokenizer } from "./tokenizer/tokenizer.ts";
