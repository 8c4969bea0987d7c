import type { Quantization } from "@tslm/qwen";
import type { DeviceName } from "@tslm/tensor";
import type { ChatEvent, ChatRequest, Chatter, Prompt } from "../chat.ts";
import type { ErrorType } from "../errors.ts";

/** What the engine loads. */
export interface EngineOptions {
  /** Folder of the model. */
  readonly dir: string;
  /** What to call it. */
  readonly name: string;
  /** Folders of adapters and what to call them, the default one first. */
  readonly adapters: readonly { readonly name: string; readonly dir: string }[];
  readonly device: DeviceName;
  readonly threads?: number;
  /** See `CreateDeviceOptions`. */
  readonly precision?: "f32" | "bf16";
  /** Rounds the weights; see `LoadModelOptions`. */
  readonly quantize?: Quantization;
}

/** An error on its way between threads. */
export interface SentError {
  readonly message: string;
  readonly stack?: string;
  /** Of an `ApiError`. */
  readonly type?: ErrorType;
  readonly param?: string;
}

/** To the engine. `id` is a call's number. */
export type ToEngine =
  | { readonly kind: "prepare"; readonly id: number; readonly request: ChatRequest }
  | { readonly kind: "answer"; readonly id: number; readonly prompt: Prompt }
  | { readonly kind: "abort"; readonly id: number }
  | { readonly kind: "end" };

/** From the engine: first how loading goes, then what becomes of calls. */
export type FromEngine =
  | { readonly kind: "loading"; readonly loaded: number; readonly total: number }
  /** Something that the user should know of, as that an adapter belongs to another model. */
  | { readonly kind: "warning"; readonly message: string }
  | { readonly kind: "ready"; readonly device: Chatter["device"] }
  | { readonly kind: "failed"; readonly error: SentError }
  | { readonly kind: "prepared"; readonly id: number; readonly prompt: Prompt }
  | { readonly kind: "event"; readonly id: number; readonly event: ChatEvent }
  | { readonly kind: "done"; readonly id: number }
  | { readonly kind: "error"; readonly id: number; readonly error: SentError };
