export {
  type GenerationConfig,
  type ModelConfig,
  parseGenerationConfig,
  parseModelConfig,
  type WeightDtype,
} from "./config.ts";
export { loadGenerationConfig, loadModelConfig } from "./config-files.ts";
export * from "./constraint/index.ts";
export { Engine, type EngineOptions } from "./engine/engine.ts";
export * from "./engine/types.ts";
export { ModelFileError } from "./errors.ts";
export * from "./generate/index.ts";
export * from "./gguf/index.ts";
export * from "./hub/index.ts";
export { type Completion, LoadedQwen, type ParseOptions } from "./loaded.ts";
export * from "./model/index.ts";
export { Qwen } from "./qwen.ts";
export * from "./tokenizer/index.ts";
