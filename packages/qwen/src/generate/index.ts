export { entropies } from "./entropy.ts";
export { type FinishReason, type GenerateOptions, type GenerationStep, generate } from "./generate.ts";
export { maskScores, penalizePresence, penalizeRepetition } from "./penalties.ts";
export {
  argmax,
  type Candidates,
  candidates,
  checkSampling,
  Sampler,
  type SamplingOptions,
} from "./sampling.ts";
export { perplexity, type Score, score } from "./score.ts";
