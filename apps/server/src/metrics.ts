import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Backend } from "./backend.ts";

/** From a millisecond to ten minutes. */
const SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

/** What Prometheus reads at `/metrics`: numbers alone, of no request's contents. */
export class Metrics {
  readonly registry = new Registry();
  readonly requests = this.#counter("tslm_requests_total", "Requests by route and status", ["route", "status"]);
  readonly requestSeconds = this.#histogram("tslm_request_seconds", "Until the answer's first byte", ["route"]);
  readonly answers = this.#counter("tslm_answers_total", "Answers by how they ended", ["reason"]);
  readonly promptTokens = this.#counter("tslm_prompt_tokens_total", "Tokens of prompts");
  readonly cachedTokens = this.#counter("tslm_cached_prompt_tokens_total", "Of them, those found in the cache");
  readonly droppedTokens = this.#counter("tslm_dropped_prompt_tokens_total", "Tokens that a context policy left out");
  readonly generatedTokens = this.#counter("tslm_generated_tokens_total", "Tokens of answers");
  readonly queueSeconds = this.#histogram("tslm_queue_seconds", "From arrival until the engine began");
  readonly firstTokenSeconds = this.#histogram("tslm_time_to_first_token_seconds", "From arrival to the first token");
  readonly betweenTokensSeconds = this.#histogram("tslm_time_between_tokens_seconds", "Between two tokens of a stream");
  readonly restarts = this.#counter("tslm_engine_restarts_total", "Times the engine died and was started again");

  constructor(backend: Backend, admitted: () => number) {
    const gauge = (name: string, help: string, value: () => number): void => {
      const made: Gauge = new Gauge({ name, help, registers: [this.registry], collect: () => made.set(value()) });
    };
    gauge("tslm_requests_in_flight", "Requests that run or wait", admitted);
    gauge("tslm_sequences_running", "Answers that the engine is giving", () => backend.stats.running);
    gauge("tslm_sequences_waiting", "Answers that wait for the engine", () => backend.stats.waiting);
    gauge("tslm_batch_size", "Sequences in the engine's last pass", () => backend.stats.batch);
    gauge(
      "tslm_cache_rows_used",
      "Rows of the key/value cache that running answers use",
      () => backend.stats.cacheUsed,
    );
    gauge("tslm_cache_rows_kept", "Rows kept for prompts that begin alike", () => backend.stats.cacheKept);
    gauge("tslm_cache_rows_capacity", "Rows of the key/value cache", () => backend.stats.cacheCapacity);
    gauge("tslm_engine_stalled_seconds", "Since the engine last moved, with work to do", () => {
      return backend.stats.stalledMs / 1000;
    });
    gauge("tslm_engine_up", "1 while the engine answers", () => (backend.state === "ready" ? 1 : 0));
    gauge("process_resident_memory_bytes", "Resident memory", () => process.memoryUsage.rss());
  }

  #counter<const Label extends string = never>(name: string, help: string, labelNames: Label[] = []): Counter<Label> {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }
  #histogram<const Label extends string = never>(name: string, help: string, labelNames: Label[] = []) {
    return new Histogram({ name, help, labelNames, buckets: SECONDS, registers: [this.registry] });
  }
}
