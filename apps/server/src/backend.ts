import type { EngineFinishReason, EngineUsage, SamplingOptions } from "@tslm/qwen";

/** A call of a tool in an assistant's message. */
export interface MessageToolCall {
  readonly function: { readonly name: string; readonly arguments: Readonly<Record<string, unknown>> | string };
}

/** One message of a conversation. */
export interface Message {
  readonly role: "system" | "user" | "assistant" | "tool";
  /** Empty where an assistant's message has only calls of tools. */
  readonly content: string;
  readonly toolCalls?: readonly MessageToolCall[];
}

/** A function the model may call, as in OpenAI's interface. */
export interface Tool {
  readonly type: "function";
  readonly function: {
    readonly name: string;
    readonly description?: string;
    readonly parameters?: Readonly<Record<string, unknown>>;
  };
}

/** What is to be continued: a conversation, a text, or tokens. */
export type PromptInput =
  | {
      /** The oldest message first. */
      readonly messages: readonly Message[];
      readonly tools?: readonly Tool[];
      /** How the answer begins: text that the model goes on from. */
      readonly begin?: string;
    }
  | { readonly text: string }
  | { readonly tokens: readonly number[] };

export const CONTEXT_POLICIES = ["error", "trim-oldest", "trim-middle"] as const;
/**
 * What becomes of a prompt that the model has no room for. `error` refuses it. `trim-oldest` leaves out messages (of a text:
 * tokens) from the beginning on, never the system text nor the last message. `trim-middle` leaves out what stands in the
 * middle, if need be of the last message too.
 */
export type ContextPolicy = (typeof CONTEXT_POLICIES)[number];

/** What an answer must look like. */
export type ConstraintSpec =
  | { readonly kind: "json" }
  | { readonly kind: "schema"; readonly schema: unknown }
  | { readonly kind: "regex"; readonly pattern: string };

/** What is asked of a backend, checked and with all defaults filled in. */
export interface AnswerRequest {
  readonly prompt: PromptInput;
  /** Name of the adapter; null is the base model. */
  readonly adapter: string | null;
  readonly sampling: SamplingOptions;
  readonly contextPolicy: ContextPolicy;
  /** Absent: as many as there is room for. */
  readonly maxTokens?: number;
  /** Answers wanted. Default 1. */
  readonly n?: number;
  /** The answer ends before the first of these. */
  readonly stop?: readonly string[];
  /** Goes on behind end tokens. Default false. */
  readonly ignoreEnd?: boolean;
  /** Tokens that end the answer besides the model's own, also where those are passed over. */
  readonly stopTokens?: readonly number[];
  /** Log-probabilities of each token and of so many likeliest ones. */
  readonly logprobs?: number;
  readonly constraint?: ConstraintSpec;
  /** Whose request it is: those who wait get their turns fairly. */
  readonly client?: string;
  readonly priority?: number;
  /** Milliseconds from now after which what is not done ends with `deadline`. */
  readonly timeoutMs?: number;
}

/** A token, as the log-probabilities name it. */
export interface ShownToken {
  readonly id: number;
  readonly text: string;
  readonly bytes: readonly number[];
  readonly logprob: number;
}

/** What becomes of a request: first that it was taken, then pieces of its answers, and each answer's end. */
export type AnswerEvent =
  | {
      readonly kind: "start";
      readonly promptTokens: number;
      /** Tokens that the context policy left out. */
      readonly droppedTokens: number;
      /** Version of the adapter that answers; see `AdapterInfo`. */
      readonly adapterVersion?: number;
    }
  | {
      readonly kind: "piece";
      readonly index: number;
      /** Text in whole characters; may be empty. */
      readonly text: string;
      /** Tokens that came with it. */
      readonly tokens: number;
      readonly logprobs?: readonly (ShownToken & { readonly top: readonly ShownToken[] })[];
    }
  | {
      readonly kind: "end";
      readonly index: number;
      readonly finishReason: EngineFinishReason;
      readonly usage: EngineUsage;
    };

/** A loaded adapter. */
export interface AdapterInfo {
  readonly name: string;
  /** Rises each time its files are read again. */
  readonly version: number;
  /** Multiplies what the adapter adds; 1 is as trained. */
  readonly scale: number;
  readonly rank: number;
  /** Answers that it is giving now, older versions included. */
  readonly running: number;
}

/** What computes and what it knows. */
export interface ModelInfo {
  readonly device: { readonly name: string; readonly isa: string; readonly threads: number };
  /** Positions of prompt and answer together. */
  readonly contextLength: number;
  readonly vocabularySize: number;
  readonly parameters: number;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly chatTemplate: string | undefined;
  readonly quantization: string | undefined;
  /** How the model's files say that tokens are to be chosen. */
  readonly sampling: SamplingOptions;
}

/** What a backend is doing now. */
export interface BackendStats {
  readonly running: number;
  readonly waiting: number;
  /** Rows of the key/value cache: in use, kept for reuse, in all. */
  readonly cacheUsed: number;
  readonly cacheKept: number;
  readonly cacheCapacity: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** Sequences in the last pass. */
  readonly batch: number;
  /** Milliseconds since the backend last did something while there was something to do; 0 where there is nothing. */
  readonly stalledMs: number;
}

export type BackendState = "loading" | "ready" | "restarting" | "failed" | "ended";

/** What answers: a model with its adapters, many requests at once. */
export interface Backend {
  /** Name of the base model. */
  readonly model: string;
  readonly state: BackendState;
  /** @throws ApiError "unavailable" until the model is loaded */
  readonly info: ModelInfo;
  /** The adapters, the one that answers by default first. */
  readonly adapters: readonly AdapterInfo[];
  readonly stats: BackendStats;
  /**
   * Answers. Leaving the loop (`break`) or the signal ends it at the next token.
   *
   * @throws ApiError when the request cannot be taken, before the first event; the signal's reason
   */
  answer(request: AnswerRequest, signal: AbortSignal): AsyncIterable<AnswerEvent>;
  /** Mean of the base model's last hidden states over each input's tokens, and how many tokens these were in all. */
  embed(
    inputs: readonly (string | readonly number[])[],
    signal: AbortSignal,
  ): Promise<{ vectors: Float32Array[]; tokens: number }>;
  /** Token ids of a text; control tokens are recognised where asked for. */
  tokenize(text: string, options: { readonly specialTokens: boolean }): Promise<number[]>;
  /** The tokens of a text one by one as they are written. */
  detokenize(tokens: readonly number[]): Promise<string>;
  /** A conversation through the chat template, or as the adapter's training put it: its text and its tokens. */
  render(prompt: PromptInput, adapter: string | null): Promise<{ text: string; tokens: number[] }>;
  /** Loads an adapter from a folder or a GGUF file, in the place of one of this name. @throws ApiError */
  loadAdapter(name: string, dir: string, options?: { readonly scale?: number }): Promise<AdapterInfo>;
  /** @throws ApiError "not_found" */
  unloadAdapter(name: string): Promise<void>;
}
