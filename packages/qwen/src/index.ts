export {
  type GenerationConfig,
  loadGenerationConfig,
  loadModelConfig,
  type ModelConfig,
  parseGenerationConfig,
  parseModelConfig,
  type WeightDtype,
} from "./config.ts";
export { ModelFileError } from "./errors.ts";
export * from "./generate/index.ts";
export * from "./gguf/index.ts";
export * from "./hub/index.ts";
export * from "./model/index.ts";
export { type Completion, Qwen } from "./qwen.ts";
export * from "./tokenizer/index.ts";
