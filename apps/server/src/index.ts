export { type App, type AppOptions, createApp, type Peer } from "./app.ts";
export * from "./backend.ts";
export { ConfigError, type ConfigSources, loadConfig, plainKey } from "./config/load.ts";
export {
  type ApiKey,
  configSchema,
  type ServeConfig,
  type ServerConfig,
  type ServerConfigInput,
  serverConfigOf,
} from "./config/schema.ts";
export { Engine, EngineError, type StartOptions } from "./engine/engine.ts";
export type { AdapterSource, EngineOptions } from "./engine/protocol.ts";
export { AdapterReloader } from "./engine/reload.ts";
export { ApiError, type ErrorType } from "./errors.ts";
export { hashOfKey } from "./http/auth.ts";
export { DEFAULT_LIMITS, type Limits } from "./limits.ts";
export { createLogger, LOG_LEVELS, type LogLevel, type ServerLogger } from "./log.ts";
export { ListenError, type RunningServer, type ServeOptions, serve } from "./serve.ts";
