export {
  CACHE_TYPES,
  type CacheOptions,
  type CacheShape,
  type CacheStore,
  type CacheType,
  type KeyBiases,
  KeyValueCache,
  type StoredKeys,
} from "./cache.ts";
export {
  type AdapterRows,
  Attention,
  DecoderLayer,
  type LayerPass,
  MLP,
  type ParameterSource,
  type Projection,
  type RowAdapter,
} from "./layers.ts";
export { Decoder, type LayerObserver, QwenModel } from "./model.ts";
export { parameterCount, parameterShapes } from "./parameters.ts";
export { ContextLengthError, checkPass, type LanguageModel, nextTokens, type Pass, passOf } from "./pass.ts";
export { QUANTIZATIONS, type Quantization, quantizedFolder } from "./quantize.ts";
export { ropeFrequencies } from "./rope.ts";
export {
  FOLDER_TYPES,
  type FolderType,
  generationConfigJson,
  type ModelToWrite,
  modelConfigJson,
  saveModel,
  writeModelFolder,
} from "./save.ts";
export { type LoadModelOptions, loadModel } from "./weights.ts";
