import type { Lora } from "@tslm/lora";
import {
  type EngineEvent,
  EngineRejection,
  type EngineRequest,
  type EngineStats,
  type GenerationEngine,
  type Qwen,
} from "@tslm/qwen";
import type { AdapterHost } from "./adapters.ts";
import type { EngineOptions } from "./protocol.ts";

/** What answers in the engine's thread. */
export interface HostedEngine extends GenerationEngine, AdapterHost {
  close(): Promise<void>;
}

export function createEngine(qwen: Qwen, _options: EngineOptions): HostedEngine {
  return new OneByOne(qwen);
}

/** Answers one request after another. */
class OneByOne implements HostedEngine {
  readonly #qwen: Qwen;
  readonly #loras = new Map<string, Lora>();
  #attached: Lora | undefined;
  #last: Promise<void> = Promise.resolve();
  #running = 0;
  #waiting = 0;
  #lastPassAt = 0;
  #generated = 0;

  constructor(qwen: Qwen) {
    this.#qwen = qwen;
  }
  get stats(): EngineStats {
    return {
      running: this.#running,
      waiting: this.#waiting,
      cache: { used: 0, kept: 0, capacity: 0 },
      promptTokens: 0,
      cachedTokens: 0,
      generatedTokens: this.#generated,
      batch: this.#running,
      lastPassAt: this.#lastPassAt,
    };
  }
  addAdapter(key: string, lora: Lora): void {
    this.#loras.set(key, lora);
  }
  removeAdapter(key: string): void {
    this.#loras.delete(key);
  }
  async embed(): Promise<Float32Array[]> {
    throw new EngineRejection("closing", "no embeddings yet");
  }
  async drain(): Promise<void> {}
  async close(): Promise<void> {}

  async *generate(request: EngineRequest): AsyncGenerator<EngineEvent> {
    const begin = performance.now();
    const { promise, resolve } = Promise.withResolvers<void>();
    const before = this.#last;
    this.#last = before.then(() => promise);
    this.#waiting++;
    await before;
    this.#waiting--;
    this.#running++;
    try {
      const lora = request.adapter == null ? undefined : this.#loras.get(request.adapter);
      if (lora !== this.#attached) {
        this.#attached?.detach();
        lora?.attach();
        this.#attached = lora;
      }
      const queuedMs = performance.now() - begin;
      for (let index = 0; index < (request.n ?? 1); index++) {
        let made = 0;
        let firstTokenMs = 0;
        const { temperature, topK, topP, minP, repetitionPenalty, seed, maxNewTokens, stop, signal } = request;
        const options = { temperature, topK, topP, minP, repetitionPenalty, maxNewTokens, stop, signal };
        const seeded = seed === undefined ? options : { ...options, seed: seed + index };
        for await (const step of this.#qwen.generate(request.tokens, seeded)) {
          this.#lastPassAt = performance.now();
          if (made === 0) firstTokenMs = performance.now() - begin;
          if (step.token !== undefined) {
            made++;
            this.#generated++;
          }
          const usage = {
            promptTokens: request.tokens.length,
            cachedTokens: 0,
            completionTokens: made,
            queuedMs,
            firstTokenMs,
            totalMs: performance.now() - begin,
          };
          const tokens = step.token === undefined ? [] : [step.token];
          const end = step.finishReason ? { finishReason: step.finishReason, usage } : {};
          yield { index, tokens, text: step.text, ...end };
        }
      }
    } finally {
      this.#running--;
      resolve();
    }
  }
}
