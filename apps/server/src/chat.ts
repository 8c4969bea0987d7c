/** One message of a conversation. */
export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** What a client asks for, checked and with all defaults filled in. */
export interface ChatRequest {
  /** The conversation, the oldest message first; the last one is the user's. */
  readonly messages: readonly Message[];
  /** Name of the adapter; null is the base model. */
  readonly adapter: string | null;
  readonly maxTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  readonly topP: number;
  /** 0 keeps all tokens. */
  readonly topK: number;
  readonly seed: number;
}

/** A request with its prompt in tokens. */
export interface Prompt {
  readonly request: ChatRequest;
  readonly ids: readonly number[];
}

export type FinishReason = "stop" | "length";

/** A piece of an answer: text in whole characters, and at last how it ended. */
export type ChatEvent =
  | { readonly delta: string }
  | { readonly finishReason: FinishReason; readonly completionTokens: number };

/** What answers conversations: a model with its adapters. The server calls it for one conversation at a time. */
export interface Chatter {
  /** Name of the base model. */
  readonly model: string;
  /** Names of the adapters, the one that answers by default first. */
  readonly adapters: readonly string[];
  /** What computes, for `/health`. */
  readonly device: { readonly name: string; readonly isa: string; readonly threads: number };
  /** @throws ApiError "unprocessable" when the model cannot take the conversation */
  prepare(request: ChatRequest): Prompt | Promise<Prompt>;
  /** Ends with a `finishReason`, or throws the signal's reason soon after it aborts. */
  answer(prompt: Prompt, signal: AbortSignal): AsyncIterable<ChatEvent>;
}
