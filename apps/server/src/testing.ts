import type {
  AdapterInfo,
  AnswerEvent,
  AnswerRequest,
  Backend,
  BackendState,
  ModelInfo,
  PromptInput,
} from "./backend.ts";
import { ApiError } from "./errors.ts";

/** The text that a prompt ends with. */
export function lastText(prompt: PromptInput): string {
  if ("messages" in prompt) return prompt.messages.at(-1)!.content;
  return "text" in prompt ? prompt.text : String.fromCodePoint(...prompt.tokens);
}

/**
 * A backend for tests that computes nothing: says back the last message, word by word. Words do things: `broken` throws,
 * `long` ends for want of room. A token is a character of the prompt, and a word of the answer.
 */
export class EchoBackend implements Backend {
  model = "echo";
  state: BackendState = "ready";
  adapters: AdapterInfo[] = ["first", "second"].map((name) => ({ name, version: 1, scale: 1, rank: 8, running: 0 }));
  readonly info: ModelInfo = {
    device: { name: "none", isa: "none", threads: 1 },
    contextLength: 1024,
    vocabularySize: 256,
    parameters: 1,
    layers: 1,
    hiddenSize: 2,
    chatTemplate: "{{ messages }}",
    quantization: undefined,
    sampling: { temperature: 0.5 },
  };
  stalledMs = 0;
  /** Requests that were taken. */
  readonly requests: AnswerRequest[] = [];
  /** Of them, those that were ended from outside. */
  readonly aborted: number[] = [];
  active = 0;
  /** Milliseconds before each word. */
  pause = 0;
  /** What is said instead of the message. */
  answerText: string | undefined;

  get stats() {
    const cache = { cacheUsed: this.active, cacheKept: 0, cacheCapacity: 100 };
    const tokens = { promptTokens: 0, cachedTokens: 0, generatedTokens: 0 };
    return { running: this.active, waiting: 0, ...cache, ...tokens, batch: this.active, stalledMs: this.stalledMs };
  }

  async *answer(request: AnswerRequest, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
    const text = lastText(request.prompt);
    if (text === "too long") {
      throw new ApiError("unprocessable", "the conversation is too long", { code: "context_length_exceeded" });
    }
    const index = this.requests.push(request) - 1;
    this.active++;
    const usage = { cachedTokens: 0, queuedMs: 0, firstTokenMs: 1, totalMs: 1 };
    try {
      yield { kind: "start", promptTokens: [...text].length, droppedTokens: text.startsWith("dropped") ? 7 : 0 };
      const words = (this.answerText ?? text).split(/(?<= )/);
      for (const word of words) {
        await Bun.sleep(this.pause);
        signal.throwIfAborted();
        if (word.trim() === "broken") throw new Error("a secret of the inside");
        const shown = { id: 1, text: word, bytes: [...new TextEncoder().encode(word)], logprob: -0.5 };
        const top = Array.from({ length: request.logprobs ?? 0 }, () => shown);
        const logprobs = request.logprobs === undefined ? {} : { logprobs: [{ ...shown, top }] };
        for (let i = 0; i < (request.n ?? 1); i++)
          yield { kind: "piece", index: i, text: word, tokens: 1, ...logprobs };
      }
      const finishReason = text.endsWith("late") ? "deadline" : text.endsWith("long") ? "length" : "stop";
      for (let i = 0; i < (request.n ?? 1); i++) {
        const ended = { ...usage, promptTokens: [...text].length, completionTokens: words.length };
        yield { kind: "end", index: i, finishReason, usage: ended };
      }
    } finally {
      if (signal.aborted) this.aborted.push(index);
      this.active--;
    }
  }

  async embed(inputs: readonly (string | readonly number[])[]) {
    return { vectors: inputs.map((input) => new Float32Array([3, input.length])), tokens: inputs.length };
  }
  async tokenize(text: string) {
    return [...text].map((char) => char.codePointAt(0)!);
  }
  async detokenize(tokens: readonly number[]) {
    return String.fromCodePoint(...tokens.map((token) => Math.min(token, 0x10ffff)));
  }
  async render(prompt: PromptInput) {
    const text = JSON.stringify(prompt);
    return { text, tokens: await this.tokenize(text) };
  }
  async loadAdapter(name: string, _dir: string, { scale = 1 } = {}): Promise<AdapterInfo> {
    const before = this.adapters.find((adapter) => adapter.name === name);
    const info = { name, version: (before?.version ?? 0) + 1, scale, rank: 8, running: 0 };
    this.adapters = [...this.adapters.filter((adapter) => adapter !== before), info];
    return info;
  }
  async unloadAdapter(name: string): Promise<void> {
    if (!this.adapters.some((adapter) => adapter.name === name)) throw new ApiError("not_found", "no such adapter");
    this.adapters = this.adapters.filter((adapter) => adapter.name !== name);
  }
}
