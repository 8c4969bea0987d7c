import type { CacheType, Quantization } from "@tslm/qwen";
import type { DeviceName } from "@tslm/tensor";
import type { AdapterInfo, AnswerEvent, AnswerRequest, ModelInfo, PromptInput } from "../backend.ts";
import type { ErrorCode, ErrorType } from "../errors.ts";

/** An adapter that the engine loads. */
export interface AdapterSource {
  readonly name: string;
  /** A folder, or a GGUF file. */
  readonly dir: string;
  readonly scale?: number;
}

/** What the engine loads. */
export interface EngineOptions {
  /** Folder of the model. */
  readonly dir: string;
  /** What to call it. */
  readonly name: string;
  /** The default one first. */
  readonly adapters: readonly AdapterSource[];
  readonly device: DeviceName;
  readonly threads?: number;
  /** See `CreateDeviceOptions`. */
  readonly precision?: "f32" | "bf16";
  /** Rounds the weights; see `LoadModelOptions`. */
  readonly quantize?: Quantization;
  /** Answers given at once; others wait. */
  readonly concurrency?: number;
  /** Bytes of the key/value cache. */
  readonly cacheBytes?: number;
  /** How keys and values are kept. */
  readonly cacheType?: CacheType;
}

/** What the worker gets besides. */
export interface WorkerData {
  readonly options: EngineOptions;
  /** Of `SharedStats`. */
  readonly stats: SharedArrayBuffer;
}

/** An error on its way between threads. */
export interface SentError {
  readonly message: string;
  readonly stack?: string;
  /** Of an `ApiError`. */
  readonly type?: ErrorType;
  readonly param?: string;
  readonly code?: ErrorCode;
  readonly retryAfter?: number;
}

/** What can be asked of the engine besides answers, and what comes back. */
export interface EngineCalls {
  readonly tokenize: (text: string, specialTokens: boolean) => number[];
  readonly detokenize: (tokens: readonly number[]) => string;
  readonly render: (prompt: PromptInput, adapter: string | null) => { text: string; tokens: number[] };
  readonly embed: (
    inputs: readonly (string | readonly number[])[],
  ) => Promise<{ vectors: Float32Array[]; tokens: number }>;
  readonly loadAdapter: (source: AdapterSource) => Promise<AdapterInfo>;
  readonly unloadAdapter: (name: string) => void;
}

export type CallName = keyof EngineCalls;

/** To the engine. `id` is a request's number. */
export type ToEngine =
  | { readonly kind: "answer"; readonly id: number; readonly request: AnswerRequest }
  | { readonly kind: "call"; readonly id: number; readonly name: CallName; readonly args: readonly unknown[] }
  | { readonly kind: "abort"; readonly id: number }
  /** Ends the thread as a fault would; for tests. */
  | { readonly kind: "die" }
  /** Blocks the thread for ever, computing or waiting; for tests. */
  | { readonly kind: "hang"; readonly how: "computing" | "waiting" }
  | { readonly kind: "end" };

/** From the engine: first how loading goes, then what becomes of requests. */
export type FromEngine =
  | { readonly kind: "loading"; readonly loaded: number; readonly total: number }
  /** Something that the user should know of, as that an adapter belongs to another model. */
  | { readonly kind: "warning"; readonly message: string }
  | { readonly kind: "ready"; readonly info: ModelInfo; readonly adapters: readonly AdapterInfo[] }
  | { readonly kind: "failed"; readonly error: SentError }
  | { readonly kind: "adapters"; readonly adapters: readonly AdapterInfo[] }
  | { readonly kind: "event"; readonly id: number; readonly event: AnswerEvent }
  | { readonly kind: "result"; readonly id: number; readonly value: unknown }
  | { readonly kind: "done"; readonly id: number }
  | { readonly kind: "error"; readonly id: number; readonly error: SentError };
