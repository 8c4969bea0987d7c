export * from "./generate/index.ts";
export * from "./model/index.ts";
export { type Completion, Qwen } from "./qwen.ts";
