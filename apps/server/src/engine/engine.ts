import { Worker } from "node:worker_threads";
import type {
  AdapterInfo,
  AnswerEvent,
  AnswerRequest,
  Backend,
  BackendState,
  BackendStats,
  ModelInfo,
  PromptInput,
} from "../backend.ts";
import { ApiError } from "../errors.ts";
import type {
  AdapterSource,
  CallName,
  EngineCalls,
  EngineOptions,
  FromEngine,
  SentError,
  ToEngine,
  WorkerData,
} from "./protocol.ts";
import { now, SharedStats } from "./shared-stats.ts";

export interface StartOptions extends EngineOptions {
  /** Gives up loading. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (loaded: number, total: number) => void;
  /** What the user should know of while it goes on. */
  readonly onWarning?: (message: string) => void;
  /** Seconds without a sign of life, with work to do, after which the thread is ended and started again; 0 or absent: never. */
  readonly stallRestartSeconds?: number;
  /** The thread died, or stood still, and is started again. */
  readonly onRestart?: (error: Error) => void;
}

/** The engine's thread failed: a model that cannot be loaded, or a fault while it ran. */
export class EngineError extends Error {
  override readonly name = "EngineError";
}

/** How long the engine's thread may take to end before it is ended. */
const END_MS = 5000;
/** After so many deaths within a minute the engine is given up. */
const MOST_DEATHS = 5;
const DEATHS_MS = 60_000;

/** `mayRepeat`: whether the request may be put to the next thread. */
type Message = FromEngine | { readonly kind: "gone"; readonly mayRepeat: boolean };
type Call = (message: Message) => void;

/** Nothing of the model's thread can be had now. */
function unavailable(state: BackendState): ApiError {
  if (state === "loading") return new ApiError("unavailable", "the model is being loaded", { retryAfter: 2 });
  if (state === "restarting") {
    return new ApiError("unavailable", "the engine had a fault and is starting again", { retryAfter: 2 });
  }
  return new ApiError("unavailable", "the engine has ended", { retryAfter: 30 });
}

/**
 * A model with its adapters in a thread of its own, so that the thread that serves HTTP never waits for it. A thread that dies is
 * started again, with the adapters it had; requests that had told nothing yet are put to the new one. One that stands still is
 * ended and started again too; its requests fail, for one of them may be why.
 */
export class Engine implements Backend {
  readonly model: string;
  /** Resolves when the model is loaded; rejects when it cannot be. */
  readonly ready: Promise<void>;
  /** Rejects when the engine is given up. */
  readonly crashed: Promise<never>;
  readonly #options: StartOptions;
  readonly #stats = new SharedStats();
  readonly #calls = new Map<number, Call>();
  readonly #giveUp: (error: Error) => void;
  /** What has to be loaded again after a restart. */
  #sources: AdapterSource[];
  #worker: Worker | undefined;
  #exited: Promise<void> = Promise.resolve();
  #state: BackendState = "loading";
  #info: ModelInfo | undefined;
  #adapters: readonly AdapterInfo[];
  #next = 0;
  #busySince = 0;
  #deaths: number[] = [];
  readonly #watch: ReturnType<typeof setInterval> | undefined;

  constructor(options: StartOptions) {
    this.#options = options;
    this.model = options.name;
    this.#sources = [...options.adapters];
    this.#adapters = options.adapters.map(({ name, scale = 1 }) => ({ name, version: 0, scale, rank: 0, running: 0 }));
    const { promise, reject } = Promise.withResolvers<never>();
    this.crashed = promise;
    this.crashed.catch(() => {});
    this.#giveUp = reject;
    this.ready = this.#start(options.signal);
    this.ready.catch(() => {});
    const limit = 1000 * (options.stallRestartSeconds ?? 0);
    if (limit > 0) this.#watch = setInterval(() => this.#checkMoves(limit), Math.min(1000, limit / 4));
    this.#watch?.unref();
  }

  get state(): BackendState {
    return this.#state;
  }
  get info(): ModelInfo {
    if (!this.#info) throw unavailable(this.#state);
    return this.#info;
  }
  get adapters(): readonly AdapterInfo[] {
    return this.#adapters;
  }
  get stats(): BackendStats {
    const { lastPassAt, ...stats } = this.#stats.read();
    const stalledMs = this.#calls.size === 0 ? 0 : Math.max(0, now() - Math.max(lastPassAt, this.#busySince));
    return { ...stats, stalledMs };
  }

  async #start(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const { signal: _, onProgress, onWarning, onRestart, stallRestartSeconds, ...options } = this.#options;
    const workerData: WorkerData = { options: { ...options, adapters: this.#sources }, stats: this.#stats.buffer };
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData });
    this.#worker = worker;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#exited = new Promise((done) => worker.on("exit", () => done()));
    const onAbort = (): void => reject(signal!.reason);
    signal?.addEventListener("abort", onAbort);
    const fail = (error: Error): void => {
      reject(error);
      if (this.#worker === worker) this.#onDeath(error);
    };
    worker.on("error", (error) => fail(new EngineError(`the engine failed: ${error.message}`, { cause: error })));
    worker.on("exit", () => fail(new EngineError("the engine's thread ended")));
    worker.on("message", (message: FromEngine) => {
      if (this.#worker !== worker) return;
      if ("id" in message) this.#calls.get(message.id)?.(message);
      else if (message.kind === "loading") onProgress?.(message.loaded, message.total);
      else if (message.kind === "warning") onWarning?.(message.message);
      else if (message.kind === "adapters") this.#adapters = message.adapters;
      else if (message.kind === "failed") reject(received(message.error));
      else if (message.kind === "ready") {
        this.#info = message.info;
        this.#adapters = message.adapters;
        if (this.#state !== "ended") this.#state = "ready";
        resolve();
      }
    });
    try {
      await promise;
    } catch (error) {
      if (this.#worker === worker) this.#worker = undefined;
      if (this.#state === "loading") this.#state = "failed";
      void worker.terminate();
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  #checkMoves(limit: number): void {
    const { stalledMs } = this.stats;
    const worker = this.#worker;
    if (this.#state !== "ready" || !worker || stalledMs < limit) return;
    const seconds = Math.round(stalledMs / 1000);
    this.#onDeath(new EngineError(`the engine has not moved for ${seconds} s with work to do`), worker);
  }

  /** Ends a thread that stands still. @throws EngineError when it cannot be ended, as where machine code does not return */
  async #end(worker: Worker): Promise<void> {
    const exited = this.#exited;
    void worker.terminate();
    const ended = await Promise.race([exited.then(() => true), Bun.sleep(END_MS).then(() => false)]);
    if (!ended) throw new EngineError("the engine's thread stands still and cannot be ended; the process has to be");
  }

  /**
   * The thread is gone: tells who waits, and starts another.
   *
   * @param stalled the thread, where it is there but stands still
   */
  #onDeath(error: Error, stalled?: Worker): void {
    const wasReady = this.#state === "ready";
    this.#worker = undefined;
    if (!wasReady) return;
    const at = now();
    this.#deaths = [...this.#deaths.filter((death) => at - death < DEATHS_MS), at];
    const isHopeless = this.#deaths.length > MOST_DEATHS;
    this.#state = isHopeless ? "failed" : "restarting";
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) call({ kind: "gone", mayRepeat: stalled === undefined });
    if (isHopeless) {
      void stalled?.terminate();
      this.#giveUp(error);
      return;
    }
    this.#options.onRestart?.(error);
    const isOver = stalled ? this.#end(stalled) : Promise.resolve();
    const again = async (): Promise<void> => {
      await isOver;
      if (this.#state !== "ended") await this.#start();
    };
    again().catch((cause: Error) => {
      if (this.#state === "ended") return;
      this.#state = "failed";
      this.#giveUp(cause);
    });
  }

  async *answer(request: AnswerRequest, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
    let hasStarted = false;
    let hasTold = false;
    const begin = now();
    for (;;) {
      try {
        const waited = now() - begin;
        const left = request.timeoutMs === undefined ? {} : { timeoutMs: Math.max(0, request.timeoutMs - waited) };
        for await (const event of this.#answerOnce({ ...request, ...left }, signal)) {
          if (event.kind === "start") {
            if (hasStarted) continue;
            hasStarted = true;
          } else hasTold = true;
          yield event;
        }
        return;
      } catch (error) {
        if (!(error instanceof Gone)) throw error;
        if (!error.mayRepeat)
          throw new ApiError("unavailable", "the engine stood still and is started again", { retryAfter: 2 });
        if (hasTold)
          throw new ApiError("unavailable", "the engine had a fault in the middle of the answer", { retryAfter: 2 });
        // Nothing was told yet: the same request is put to the new thread.
        await this.#isBack(signal);
      }
    }
  }

  /** Waits until the engine answers again. @throws ApiError "unavailable" when it does not; the signal's reason */
  async #isBack(signal: AbortSignal): Promise<void> {
    while (this.#state === "restarting") {
      signal.throwIfAborted();
      await Bun.sleep(20);
    }
    if (this.#state !== "ready") throw unavailable(this.#state);
  }

  async *#answerOnce(request: AnswerRequest, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
    signal.throwIfAborted();
    const arrived: Message[] = [];
    let wake = (): void => {};
    const id = this.#open((message) => {
      arrived.push(message);
      wake();
    });
    const onAbort = (): void => {
      this.#post({ kind: "abort", id });
      wake();
    };
    signal.addEventListener("abort", onAbort);
    let isOver = false;
    try {
      this.#post({ kind: "answer", id, request });
      for (;;) {
        signal.throwIfAborted();
        const message = arrived.shift();
        if (message === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        } else if (message.kind === "event") yield message.event;
        else {
          isOver = true;
          if (message.kind === "error") throw received(message.error);
          if (message.kind === "gone") throw new Gone(message.mayRepeat);
          return;
        }
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      // A reader that left in the middle: the engine stops at its next token.
      if (!isOver) this.#post({ kind: "abort", id });
      this.#close(id);
    }
  }

  embed(inputs: readonly (string | readonly number[])[], signal: AbortSignal) {
    return this.#call("embed", [inputs], signal);
  }
  tokenize(text: string, { specialTokens }: { specialTokens: boolean }) {
    return this.#call("tokenize", [text, specialTokens]);
  }
  detokenize(tokens: readonly number[]) {
    return this.#call("detokenize", [tokens]);
  }
  render(prompt: PromptInput, adapter: string | null) {
    return this.#call("render", [prompt, adapter]);
  }
  async loadAdapter(name: string, dir: string, { scale }: { scale?: number } = {}): Promise<AdapterInfo> {
    const source = { name, dir, ...(scale !== undefined && { scale }) };
    const info = await this.#call("loadAdapter", [source]);
    const at = this.#sources.findIndex((known) => known.name === name);
    if (at < 0) this.#sources.push(source);
    else this.#sources[at] = source;
    return info;
  }
  async unloadAdapter(name: string): Promise<void> {
    await this.#call("unloadAdapter", [name]);
    this.#sources = this.#sources.filter((source) => source.name !== name);
  }
  /** Where the adapters come from. */
  get sources(): readonly AdapterSource[] {
    return this.#sources;
  }

  /** Ends the thread as a fault would; for tests. */
  die(): void {
    this.#post({ kind: "die" });
  }

  /** Blocks the thread for ever; for tests. */
  hang(how: "computing" | "waiting"): void {
    this.#post({ kind: "hang", how });
  }

  /** Frees the model and ends the thread. */
  async dispose(): Promise<void> {
    clearInterval(this.#watch);
    const wasReady = this.#state === "ready";
    this.#state = "ended";
    const worker = this.#worker;
    if (!worker) return;
    // One that still loads hears nothing.
    if (wasReady) this.#post({ kind: "end" });
    else void worker.terminate();
    const timer = setTimeout(() => void worker.terminate(), END_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  async #call<Name extends CallName>(
    name: Name,
    args: Parameters<EngineCalls[Name]>,
    signal?: AbortSignal,
  ): Promise<Awaited<ReturnType<EngineCalls[Name]>>> {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<Awaited<ReturnType<EngineCalls[Name]>>>();
    const id = this.#open((message) => {
      if (message.kind === "result") resolve(message.value as Awaited<ReturnType<EngineCalls[Name]>>);
      else if (message.kind === "error") reject(received(message.error));
      else if (message.kind === "gone") reject(unavailable("restarting"));
    });
    const onAbort = (): void => reject(signal!.reason);
    signal?.addEventListener("abort", onAbort);
    try {
      this.#post({ kind: "call", id, name, args });
      return await promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#close(id);
    }
  }

  /** @throws ApiError "unavailable" while there is no engine */
  #open(call: Call): number {
    if (this.#state !== "ready") throw unavailable(this.#state);
    if (this.#calls.size === 0) this.#busySince = now();
    const id = this.#next++;
    this.#calls.set(id, call);
    return id;
  }
  #close(id: number): void {
    this.#calls.delete(id);
  }
  #post(message: ToEngine): void {
    this.#worker?.postMessage(message);
  }
}

/** The thread died with this request. */
class Gone extends Error {
  readonly mayRepeat: boolean;

  constructor(mayRepeat: boolean) {
    super("the engine's thread is gone");
    this.mayRepeat = mayRepeat;
  }
}

function received({ message, stack, type, param, code, retryAfter }: SentError): Error {
  const error =
    type === undefined ? new EngineError(message) : new ApiError(type, message, { param, code, retryAfter });
  if (stack !== undefined) error.stack = stack;
  return error;
}
