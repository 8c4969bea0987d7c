export {
  type ChatMessage,
  ChatTemplate,
  ChatTemplateError,
  type RenderLimits,
  type RenderOptions,
  type ToolCall,
} from "./chat-template.ts";
export { loadTokenizer } from "./load.ts";
export { TextStream, type TextStreamOptions, type TokenBytes } from "./text-stream.ts";
export {
  type DecodeOptions,
  type EncodeOptions,
  type LoadTokenizerOptions,
  makeTokenizer,
  Tokenizer,
  type TokenizerFiles,
} from "./tokenizer.ts";
