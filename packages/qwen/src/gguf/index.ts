export { ggufGenerationConfig, ggufModelConfig } from "./config.ts";
export { ggufMetadata } from "./metadata.ts";
export { GGUF_ARCHITECTURE, ggufName } from "./names.ts";
export { ggufTokenizer } from "./tokenizer.ts";
export { ggufWeights } from "./weights.ts";
export { ggufSources, ggufType, writeModelGguf } from "./write.ts";
