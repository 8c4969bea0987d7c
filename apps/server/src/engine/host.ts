import type { Lora } from "@tslm/lora";
import { type GenerationEngine, type LoadedQwen, Engine as ManyAnswers, type RowAdapter } from "@tslm/qwen";
import type { EngineOptions } from "./protocol.ts";

/** What answers in the engine's thread. */
export interface HostedEngine extends GenerationEngine {
  /** Tokens that a prompt and its answer may have together. */
  readonly contextLength: number;
  /** @param scale multiplies what the adapter adds */
  addAdapter(key: string, lora: Lora, scale: number): void;
  /** Resolved when no answer uses it any more: it may be freed then. */
  removeAdapter(key: string): Promise<void>;
  close(): Promise<void>;
}

/** The engine of many answers over a loaded model. The HTTP side bounds how many may wait. */
export function createEngine(
  { model, tokenizer, generationConfig }: LoadedQwen,
  { concurrency, cacheBytes, cacheType }: EngineOptions,
): HostedEngine {
  const engine = new ManyAnswers(model, tokenizer, {
    endTokens: generationConfig.eosTokenIds,
    ...(cacheBytes !== undefined && { cacheBytes }),
    ...(cacheType !== undefined && { cacheType }),
    ...(concurrency !== undefined && { maxRunning: concurrency }),
    maxWaiting: Number.MAX_SAFE_INTEGER,
  });
  return {
    get contextLength() {
      return engine.contextLength;
    },
    get stats() {
      return engine.stats;
    },
    generate: (request) => engine.generate(request),
    embed: (texts, options) => engine.embed(texts, options),
    drain: (graceMs) => engine.drain(graceMs),
    addAdapter(key, lora, scale) {
      const adapter: RowAdapter = {
        addTo: (layer, x, y, addend) => lora.addTo(layer, x, y, addend, scale),
      };
      engine.setAdapter(key, adapter);
    },
    removeAdapter: (key) => engine.removeAdapter(key),
    close: () => engine.dispose(),
  };
}
