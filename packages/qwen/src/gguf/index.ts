export { ggufGenerationConfig, ggufModelConfig } from "./config.ts";
export { ggufName } from "./names.ts";
export { ggufTokenizer } from "./tokenizer.ts";
export { ggufWeights } from "./weights.ts";
