// The entry for browsers: all that needs no file system; an adapter's files are made by `adapterBytes`.
export { adapterBytes, type BytesOptions, CONFIG_FILE, WEIGHTS_FILE } from "./adapter-bytes.ts";
export type { LoraConfig, LoraConfigInput } from "./config.ts";
export { ConfigError, DivergenceError, LoraError, OptionError } from "./errors.ts";
export { applyLora, Lora, type ParameterCount, type StartOptions, startLora } from "./lora.ts";
export {
  chatPromptFormat,
  DEFAULT_INSTRUCTION,
  type Example,
  type PromptFormat,
  promptFormat,
  promptOf,
  putQuestion,
} from "./prompt.ts";
export { TRAIN_DEFAULTS, type TrainOptions } from "./train/options.ts";
export type { StepResult, StopReason, TrainResult } from "./train/result.ts";
export {
  type ExampleSequence,
  type SequenceOptions,
  type TrainingExample,
  trainingSequences,
} from "./train/sequences.ts";
export { type StepAnswer, type TrainRun, totalSteps, train } from "./train/train.ts";
