export { type App, type AppOptions, createApp } from "./app.ts";
export { DEFAULT_LIMITS, type Limits } from "./body.ts";
export type { ChatEvent, ChatRequest, Chatter, FinishReason, Message, Prompt } from "./chat.ts";
export { Engine, EngineError, type StartOptions } from "./engine/engine.ts";
export { type ChatAdapter, ModelChatter } from "./engine/model-chatter.ts";
export type { EngineOptions } from "./engine/protocol.ts";
export { ApiError, type ErrorType } from "./errors.ts";
export { createLogger, LOG_LEVELS, type LogLevel } from "./log.ts";
export { ListenError, type RunningServer, type ServeOptions, serve } from "./serve.ts";
