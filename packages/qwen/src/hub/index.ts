export { type CachedModel, type Env, type FindOptions, findCached, isCompleteModel } from "./cache.ts";
export { type DownloadedModel, type DownloadOptions, type DownloadProgress, downloadModel } from "./download.ts";
export { HubError, type HubErrorCode } from "./errors.ts";
export type { HttpOptions } from "./http.ts";
export { isModelName } from "./names.ts";
export { DEFAULT_ENDPOINTS, HUB_SOURCES, type HubSource } from "./protocols.ts";
export { type ResolvedModel, type ResolveOptions, resolveModel } from "./resolve.ts";
