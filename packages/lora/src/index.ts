export {
  adapterFiles,
  loadAdapter,
  readAdapterConfig,
  type SaveOptions,
  saveAdapter,
} from "./adapter.ts";
export { adapterBytes, type BytesOptions, CONFIG_FILE, WEIGHTS_FILE } from "./adapter-bytes.ts";
export { type BaseFingerprint, baseFingerprint, baseParameters, isSameBase } from "./base-fingerprint.ts";
export {
  type AnswerSpan,
  type ChatMessage,
  ChatTemplateMismatchError,
  type ChatTokenizer,
  type Conversation,
  type EncodedConversation,
  encodeChatPrompt,
  encodeConversation,
} from "./chat.ts";
export {
  formatLoraConfig,
  type LoraConfig,
  type LoraConfigInput,
  loraConfigSchema,
  parseLoraConfig,
  savedConfig,
} from "./config.ts";
export type { Changes } from "./diagnosis/cures.ts";
export {
  type Diagnosis,
  type DiagnosisInput,
  diagnose,
  diagnoseError,
  diagnoseLive,
  isBroken,
  type SampleAnswer,
  VERDICTS,
  type Verdict,
} from "./diagnosis/diagnose.ts";
export { isAnswered, keyFacts, says, wrongNumbers } from "./diagnosis/facts.ts";
export { DropoutState } from "./dropout-state.ts";
export {
  AdapterError,
  CheckpointError,
  ConfigError,
  DivergenceError,
  LoraError,
  OptionError,
  UnchangedError,
} from "./errors.ts";
export { type CardOptions, formatCard, isCard, markdownTable } from "./export/card.ts";
export { mergedChatTemplate } from "./export/chat-template.ts";
export { mergedParameters } from "./export/merged.ts";
export { formatModelfile, type RenderChat } from "./export/modelfile.ts";
export { createFolder, type FileContent, saveFolder } from "./folder.ts";
export { type LoraGgufOptions, writeLoraGguf } from "./formats/gguf.ts";
export { PROMPT_KEY } from "./formats/gguf-file.ts";
export { mlxFiles } from "./formats/mlx.ts";
export { adapterKey, applyLora, Lora, type ParameterCount, type StartOptions, startLora } from "./lora.ts";
export { LoraLinear, type LoraLinearParts } from "./lora-linear.ts";
export {
  baseMismatch,
  type ChatPrompt,
  chatPromptFormat,
  DEFAULT_END_TOKEN,
  DEFAULT_INSTRUCTION,
  DEFAULT_TEMPLATE,
  type Example,
  formatPrompt,
  PROMPT_FILE,
  type PromptFormat,
  promptFormat,
  promptFormatSchema,
  promptOf,
  putQuestion,
  type Question,
  sequenceOf,
  type TemplatePrompt,
  withSystem,
} from "./prompt.ts";
export { readPrompt } from "./prompt-file.ts";
export {
  formatRecord,
  RECORD_FILE,
  readRecord,
  type TrainingRecord,
  trainingRecord,
  trainingRecordSchema,
} from "./record.ts";
export { linearLayers } from "./targets.ts";
export {
  adapterFolderOf,
  CHECKPOINTS_FOLDER,
  type Checkpoint,
  Checkpoints,
  type CheckpointsOptions,
  findCheckpoint,
  leftCheckpoint,
  type RunSettings,
} from "./train/checkpoint.ts";
export { mappedBytes, type PlannedRun, plannedSteps, trainingBytes } from "./train/estimate.ts";
export { estimateSeconds } from "./train/estimate-time.ts";
export { dataFingerprint, modelFingerprint } from "./train/fingerprint.ts";
export { availableMemory } from "./train/memory.ts";
export { checkTrainOptions, TRAIN_DEFAULTS, type TrainOptions } from "./train/options.ts";
export { checkOutcome } from "./train/outcome.ts";
export {
  packPasses,
  predictedTokens,
  type TrainableModel,
  type TrainingPass,
  type TrainingSequence,
} from "./train/pass.ts";
export type { BestStep, StepResult, StopReason, TrainResult } from "./train/result.ts";
export { checkResumable } from "./train/resume.ts";
export {
  type ExampleSequence,
  LOSS_MASKS,
  type LossMask,
  type SequenceOptions,
  type SequenceReport,
  type TrainingExample,
  trainingSequence,
  trainingSequences,
} from "./train/sequences.ts";
export { type SplitOptions, splitRows } from "./train/split.ts";
export { type SavedState, type StateKeeper, type TrainingProgress, TrainingState } from "./train/state.ts";
export { type StepAnswer, type TrainRun, totalSteps, train } from "./train/train.ts";
export { LoraVariant } from "./variants/variant.ts";
