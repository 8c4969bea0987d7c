/**
 * Many answers at once from one model.
 *
 * A step takes some rows of prompts through the model in one pass, and one row (or a few) of each running answer in
 * another, and chooses all next tokens from one product with the head. Batching changes no answer, bit for bit: no row's
 * result depends on the rows beside it, and two kinds of rows are kept apart by name (`rowsAs`), because devices round
 * products of few rows otherwise than those of many. A prompt's rows always go the way of many rows, which reads a long
 * prompt fastest, in chunks of any size. An answer's rows, and the last one of its prompt, always go the way of few, however
 * many there are: one stream decodes as fast as alone, and the weights come from memory once for all. So a row's result is
 * fixed by what it is, a prompt's or an answer's, also where it is computed again after an interruption or as one of several
 * proposed ones. For the same reason only rows of prompts are shared with later requests: in the next turn of a
 * conversation the last answer, which was computed as one, is read once more as a part of the prompt.
 */
import { CacheRows, type CacheType } from "../model/cache.ts";
import type { RowAdapter } from "../model/layers.ts";
import type { LanguageModel } from "../model/pass.ts";
import type { TokenBytes } from "../tokenizer/text-stream.ts";
import { nextTurn } from "../turn.ts";
import { Answer, type Submission } from "./answer.ts";
import { type Choosing, chooseAll } from "./choose.ts";
import { Computing } from "./compute.ts";
import { EmbeddingSequence } from "./embedding.ts";
import { EventQueue } from "./event-queue.ts";
import { PAGE_ROWS } from "./pages.ts";
import { byAdapter, type Part } from "./parts.ts";
import { proposeTokens } from "./propose.ts";
import { Scheduler } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";
import {
  type EngineEvent,
  EngineRejection,
  type EngineRequest,
  type EngineStats,
  type GenerationEngine,
} from "./types.ts";

/** Rows of proposed tokens in one step at the most. */
const SPARE_ROWS = 3;

export interface EngineOptions {
  /** Memory of the key/value cache, bytes. Default 512 MiB, or less where all that can run at once needs less. */
  readonly cacheBytes?: number;
  /** How keys and values are kept. `q8_0` holds 3.76 times as many in the same memory, rounded to 8 bits. Default `f32`. */
  readonly cacheType?: CacheType;
  /** Answers under way at once; others wait. Default 64. */
  readonly maxRunning?: number;
  /** Answers that may wait; more are rejected. Default 1,024. */
  readonly maxWaiting?: number;
  /** Rows of prompts in one step while no answer is waiting for its next token. Default 512. */
  readonly promptRows?: number;
  /** The same while answers are: a long prompt makes them pause so long at the most. Default 128. */
  readonly promptRowsBeside?: number;
  /**
   * Tokens looked up in the text so far and checked along with the next one, in a step of few rows: faster where answers
   * repeat their prompt, the same in any case. Default 3; 0: none.
   */
  readonly proposedTokens?: number;
  /** Tokens that end an answer: `eos_token_id` of `generation_config.json`. Default none. */
  readonly endTokens?: readonly number[];
}

/**
 * See {@link GenerationEngine}. The model must carry no adapter: those are given by name ({@link setAdapter}).
 *
 * @example
 * const engine = new Engine(qwen.model, qwen.tokenizer, { endTokens: qwen.generationConfig.eosTokenIds });
 * for await (const { text } of engine.generate({ tokens, maxNewTokens: 100 })) process.stdout.write(text);
 */
export class Engine implements GenerationEngine {
  readonly #model: LanguageModel;
  readonly #tokenizer: TokenBytes;
  readonly #maxRunning: number;
  readonly #maxWaiting: number;
  readonly #endTokens: readonly number[];
  readonly #proposedTokens: number;
  readonly #cache: CacheRows;
  readonly #computing: Computing;
  readonly #scheduler: Scheduler;
  readonly #adapters = new Map<string, RowAdapter>();
  /** Adapters that no name leads to but answers still use, and who waits for their end. */
  readonly #retired = new Map<RowAdapter, (() => void)[]>();
  readonly #counts = { promptTokens: 0, cachedTokens: 0, generatedTokens: 0, batch: 0, lastPassAt: performance.now() };
  #isClosing = false;
  #cancelsAll = false;
  #loop: Promise<void> | undefined;

  /** @throws RangeError for an option out of its range */
  constructor(model: LanguageModel, tokenizer: TokenBytes, options: EngineOptions = {}) {
    const { maxRunning = 64, maxWaiting = 1024, promptRows = 512, promptRowsBeside = 128 } = options;
    for (const [name, value] of Object.entries({ maxRunning, promptRows, promptRowsBeside }))
      checkCount(name, value, 1);
    const { cacheBytes = 512 * 2 ** 20, cacheType, endTokens = [], proposedTokens = 3 } = options;
    for (const [name, value] of Object.entries({ maxWaiting, proposedTokens })) checkCount(name, value, 0);
    const { config, device } = model;
    const pageBytes = CacheRows.rowBytes(config, cacheType) * PAGE_ROWS;
    const needed = maxRunning * Math.ceil(config.maxPositionEmbeddings / PAGE_ROWS);
    const pages = Math.min(needed, Math.floor(cacheBytes / pageBytes));
    if (!(pages >= 1)) throw new RangeError(`cacheBytes must be at least ${pageBytes}, a page, but is ${cacheBytes}`);
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#maxRunning = maxRunning;
    this.#maxWaiting = maxWaiting;
    this.#endTokens = endTokens;
    this.#proposedTokens = proposedTokens;
    const cache = new CacheRows(config, pages * PAGE_ROWS, device, { type: cacheType, keyBiases: model.keyBiases });
    this.#cache = cache;
    this.#computing = new Computing(model, cache);
    this.#scheduler = new Scheduler({ pages, maxRunning, promptRows, promptRowsBeside }, (from, to) =>
      cache.copy([...from], [...to]),
    );
  }

  /** Tokens that a prompt and its answer may have together. */
  get contextLength(): number {
    return Math.min(this.#model.config.maxPositionEmbeddings, this.#cache.capacity);
  }

  get stats(): EngineStats {
    const { pool, tree, running, waiting } = this.#scheduler;
    const kept = tree.kept;
    const cache = { used: pool.size - pool.free - kept, kept, capacity: pool.size };
    return {
      ...{ ...this.#counts, running, waiting },
      cache: { used: cache.used * PAGE_ROWS, kept: cache.kept * PAGE_ROWS, capacity: cache.capacity * PAGE_ROWS },
    };
  }

  /** Names of the adapters that requests find. */
  get adapters(): readonly string[] {
    return [...this.#adapters.keys()];
  }

  /** Gives an adapter a name, or another adapter to a name; answers that began keep the one they began with. */
  setAdapter(name: string, adapter: RowAdapter): void {
    const before = this.#adapters.get(name);
    this.#adapters.set(name, adapter);
    if (before) void this.#unused(before);
  }

  /**
   * Requests no longer find the adapter of this name.
   *
   * @returns resolved when the last answer that uses it has ended: it may be freed then
   */
  removeAdapter(name: string): Promise<void> {
    const adapter = this.#adapters.get(name);
    this.#adapters.delete(name);
    return adapter ? this.#unused(adapter) : Promise.resolve();
  }

  /** Resolved when no name leads to the adapter and no answer uses it: it may be freed then. */
  whenUnused(adapter: RowAdapter): Promise<void> {
    return this.#unused(adapter);
  }

  generate(request: EngineRequest): AsyncIterable<EngineEvent> {
    const { n = 1, maxNewTokens = Number.POSITIVE_INFINITY, logprobs = 0, tokens } = request;
    checkCount("n", n, 1);
    checkCount("logprobs", logprobs, 0);
    if (maxNewTokens !== Number.POSITIVE_INFINITY) checkCount("maxNewTokens", maxNewTokens, 0);
    this.#refuse(tokens, n);
    const submission: Submission = {
      ...{ request, adapter: this.#adapterOf(request), at: performance.now(), isLeft: false, unfinished: n },
      events: new EventQueue<EngineEvent>(() => {
        submission.isLeft = true;
      }),
    };
    // The last token of an answer needs no row of its own: nothing follows it.
    const limit = Math.min(maxNewTokens, this.contextLength - tokens.length + 1);
    const context = { pool: this.#scheduler.pool, tokenizer: this.#tokenizer, endTokens: this.#endTokens, limit };
    const answers = Array.from({ length: n }, (_, index) => new Answer(submission, index, context));
    const [first, ...siblings] = answers;
    if (limit === 0) {
      for (const answer of answers) answer.finish("length");
    } else {
      first.siblings.push(...siblings);
      this.#submit([first]);
    }
    return submission.events;
  }

  async embed(
    texts: readonly (readonly number[])[],
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<Float32Array[]> {
    signal?.throwIfAborted();
    for (const tokens of texts) this.#refuse(tokens, texts.length);
    const sequences = texts.map((tokens) => new EmbeddingSequence(tokens, this.#scheduler.pool, signal));
    this.#submit(sequences);
    return await Promise.all(sequences.map(({ done }) => done));
  }

  async drain(graceMs: number): Promise<void> {
    this.#isClosing = true;
    const timer = setTimeout(() => {
      this.#cancelsAll = true;
    }, graceMs);
    await this.#loop;
    clearTimeout(timer);
  }

  /** Cancels what runs and waits, and gives the cache's memory back: at once where nothing runs. */
  async dispose(): Promise<void> {
    this.#cancelsAll = true;
    this.#isClosing = true;
    if (this.#loop) await this.#loop;
    this.#cache.dispose();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #adapterOf({ adapter: name }: EngineRequest): RowAdapter | undefined {
    if (name === null || name === undefined) return undefined;
    const adapter = this.#adapters.get(name);
    if (adapter) return adapter;
    const known = this.adapters.length > 0 ? `there are ${this.adapters.join(", ")}` : "none is loaded";
    throw new EngineRejection("unknown-adapter", `no adapter is called "${name}"; ${known}`);
  }

  #refuse(tokens: readonly number[], count: number): void {
    const { vocabSize } = this.#model.config;
    if (this.#isClosing) throw new EngineRejection("closing", "the engine is closing and takes no more requests");
    if (tokens.length === 0) throw new RangeError("the prompt is empty; it needs at least one token");
    const bad = tokens.findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
    if (bad >= 0) throw new RangeError(`token ${tokens[bad]} at place ${bad} is not in the vocabulary of ${vocabSize}`);
    if (tokens.length > this.contextLength) {
      throw new EngineRejection(
        "too-long",
        `the prompt has ${tokens.length} tokens but there is room for ${this.contextLength}; shorten it`,
      );
    }
    const { running, waiting } = this.#scheduler;
    if (waiting + count > this.#maxWaiting + Math.max(0, this.#maxRunning - running)) {
      throw new EngineRejection("queue-full", `${waiting} answers are waiting; try again later`);
    }
  }

  #submit(sequences: readonly Sequence[]): void {
    for (const sequence of sequences) this.#scheduler.submit(sequence);
    this.#loop ??= this.#run().finally(() => {
      this.#loop = undefined;
      // Memory that only steps need.
      this.#computing.dispose();
    });
  }

  async #run(): Promise<void> {
    const scheduler = this.#scheduler;
    while (!scheduler.isIdle) {
      // Timers, sockets and signals get their turn.
      await nextTurn();
      const now = performance.now();
      scheduler.reap((sequence) => (this.#cancelsAll ? "cancelled" : sequence.interrupted(now)));
      scheduler.admit(now);
      const parts = scheduler.plan((answer, answering) => this.#propose(answer, answering));
      const [prompts, answers] = [byAdapter(parts.prompts), byAdapter(parts.answers)];
      try {
        await this.#step(prompts, answers);
      } catch (error) {
        // What the failed pass left half-written belongs to nobody then.
        for (const { sequence } of [...prompts, ...answers]) {
          sequence.fail(error);
          scheduler.end(sequence);
        }
      }
      this.#counts.lastPassAt = performance.now();
      this.#tellUnused();
    }
  }

  /** While a step has few rows, some more cost next to nothing: the weights are read once for all. */
  #propose(answer: Answer, answering: number): readonly number[] {
    const most = Math.min(this.#proposedTokens, Math.floor(SPARE_ROWS / answering), answer.left - 1);
    return most > 0 && answer.trustsProposals ? proposeTokens(answer.tokens, most) : [];
  }

  async #step(prompts: readonly Part[], answers: readonly Part[]): Promise<void> {
    const parts = [...prompts, ...answers];
    if (parts.length === 0) return;
    this.#counts.batch = new Set(parts.map(({ sequence }) => sequence)).size;
    /** Rows from whose scores tokens are chosen: the last of what an answer has, and those of proposed tokens. */
    const wantsLogits = ({ sequence, from, count, proposed }: Part): number[] => {
      if (!(sequence instanceof Answer) || from + count < sequence.tokens.length) return [];
      return Array.from({ length: 1 + proposed.length }, (_, i) => count - 1 + i);
    };
    const wantsHidden = ({ sequence }: Part): boolean => sequence instanceof EmbeddingSequence;
    const { logits, hidden } = this.#computing.compute({ prompts, answers }, wantsLogits, wantsHidden);
    try {
      for (const [{ sequence, count }, states] of hidden) {
        const values = (await states.data()) as Float32Array;
        (sequence as EmbeddingSequence).add(values, count);
      }
      let row = 0;
      const choosing: Choosing[] = [];
      for (const part of parts) {
        const { sequence, from, count, proposed } = part;
        const rows = wantsLogits(part).length;
        this.#scheduler.advance(sequence, from + count);
        if (sequence instanceof EmbeddingSequence && sequence.computed === sequence.promptLength) {
          this.#scheduler.end(sequence);
        }
        if (rows === 0 || !(sequence instanceof Answer)) continue;
        choosing.push({ answer: sequence, row, proposed });
        for (const answer of this.#fork(sequence)) choosing.push({ answer, row, proposed: [] });
        row += rows;
      }
      if (!logits) return;
      const before = choosing.map(({ answer }) => answer.tokens.length);
      await chooseAll(choosing, logits);
      choosing.forEach(({ answer, proposed }, i) => {
        const made = answer.tokens.length - before[i];
        if (proposed.length > 0) answer.judgeProposals(proposed.length, made - 1);
        this.#counts.generatedTokens += made;
        // Proposed tokens that became part of the answer are computed; the last one chosen is not.
        if (made > 1) this.#scheduler.advance(answer, answer.computed + made - 1);
        if (answer.ended) this.#scheduler.end(answer);
      });
    } finally {
      logits?.dispose();
      for (const states of hidden.values()) states.dispose();
    }
  }

  /** When a request's prompt is computed, its other answers go on from there. */
  #fork(first: Answer): Answer[] {
    if (first.tokens.length === first.promptLength) {
      this.#counts.promptTokens += first.promptLength;
      this.#counts.cachedTokens += first.cached;
    }
    if (first.siblings.length === 0) return [];
    return this.#scheduler.fork(first, performance.now());
  }

  #unused(adapter: RowAdapter): Promise<void> {
    return new Promise((resolve) => {
      const waiting = this.#retired.get(adapter);
      if (waiting) waiting.push(resolve);
      else this.#retired.set(adapter, [resolve]);
      this.#tellUnused();
    });
  }

  /** Forgets adapters that nobody uses any more, with the pages that were computed with them. */
  #tellUnused(): void {
    for (const [adapter, waiting] of this.#retired) {
      if ([...this.#adapters.values()].includes(adapter) || this.#scheduler.uses(adapter)) continue;
      this.#retired.delete(adapter);
      this.#scheduler.tree.forget(adapter);
      for (const resolve of waiting) resolve();
    }
  }
}

function checkCount(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(`${name} must be a whole number of at least ${least}, but is ${value}`);
}
