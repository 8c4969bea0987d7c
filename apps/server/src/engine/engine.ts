import { Worker } from "node:worker_threads";
import type { ChatEvent, ChatRequest, Chatter, Prompt } from "../chat.ts";
import { ApiError } from "../errors.ts";
import type { EngineOptions, FromEngine, SentError, ToEngine } from "./protocol.ts";

export interface StartOptions extends EngineOptions {
  /** Gives up loading. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (loaded: number, total: number) => void;
  /** What the user should know of while it goes on. */
  readonly onWarning?: (message: string) => void;
}

/** The engine's thread failed: a model that cannot be loaded, or a fault while it ran. */
export class EngineError extends Error {
  override readonly name = "EngineError";
}

/** How long the engine's thread may take to end before it is ended. */
const END_MS = 5000;

type Call = (message: FromEngine | { kind: "gone"; error: Error }) => void;

/**
 * A model with its adapters in a thread of its own, so that the thread that serves HTTP never waits for it. Call `answer` for
 * one prompt at a time.
 */
export class Engine implements Chatter {
  readonly model: string;
  readonly adapters: readonly string[];
  readonly device: Chatter["device"];
  /** Rejects when the thread ends on its own. */
  readonly crashed: Promise<never>;
  readonly #worker: Worker;
  readonly #exited: Promise<void>;
  readonly #calls = new Map<number, Call>();
  #next = 0;
  #isEnding = false;

  private constructor(worker: Worker, { name, adapters }: EngineOptions, device: Chatter["device"]) {
    this.#worker = worker;
    this.model = name;
    this.adapters = adapters.map((adapter) => adapter.name);
    this.device = device;
    worker.on("message", (message: FromEngine) => {
      if ("id" in message) this.#calls.get(message.id)?.(message);
    });
    const { promise, reject } = Promise.withResolvers<never>();
    this.crashed = promise;
    this.crashed.catch(() => {});
    this.#exited = new Promise((resolve) => {
      worker.on("exit", () => resolve());
    });
    const fail = (error: Error): void => {
      for (const call of this.#calls.values()) call({ kind: "gone", error });
      this.#calls.clear();
      if (!this.#isEnding) reject(error);
    };
    worker.on("error", (error) => fail(new EngineError(`the engine failed: ${error.message}`, { cause: error })));
    worker.on("exit", () => fail(new EngineError("the engine's thread ended")));
  }

  /**
   * Starts the thread and loads model and adapters in it.
   *
   * @throws EngineError saying why they cannot be loaded; the signal's reason
   */
  static async start({ signal, onProgress, onWarning, ...options }: StartOptions): Promise<Engine> {
    signal?.throwIfAborted();
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: options });
    const { promise, resolve, reject } = Promise.withResolvers<Engine>();
    const onAbort = (): void => reject(signal!.reason);
    signal?.addEventListener("abort", onAbort);
    worker.on("error", (error) => reject(new EngineError(`the engine failed: ${error.message}`, { cause: error })));
    worker.on("message", (message: FromEngine) => {
      if (message.kind === "loading") onProgress?.(message.loaded, message.total);
      else if (message.kind === "warning") onWarning?.(message.message);
      else if (message.kind === "ready") resolve(new Engine(worker, options, message.device));
      else if (message.kind === "failed") reject(received(message.error));
    });
    try {
      return await promise;
    } catch (error) {
      void worker.terminate();
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  async prepare(request: ChatRequest): Promise<Prompt> {
    const id = this.#next++;
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(id, (message) => {
          if (message.kind === "prepared") resolve(message.prompt);
          else if (message.kind === "error") reject(received(message.error));
          else if (message.kind === "gone") reject(message.error);
        });
        this.#post({ kind: "prepare", id, request });
      });
    } finally {
      this.#calls.delete(id);
    }
  }

  async *answer(prompt: Prompt, signal: AbortSignal): AsyncGenerator<ChatEvent> {
    const id = this.#next++;
    const arrived: Parameters<Call>[0][] = [];
    let wake = (): void => {};
    this.#calls.set(id, (message) => {
      arrived.push(message);
      wake();
    });
    // The engine stops at its next token and says so: only then the next prompt may come.
    const onAbort = (): void => this.#post({ kind: "abort", id });
    signal.addEventListener("abort", onAbort);
    let isOver = false;
    try {
      this.#post({ kind: "answer", id, prompt });
      if (signal.aborted) onAbort();
      while (!isOver) {
        const message = arrived.shift();
        if (message === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        } else if (message.kind === "event") {
          if (!signal.aborted) yield message.event;
        } else {
          isOver = true;
          if (message.kind === "error") throw signal.aborted ? signal.reason : received(message.error);
          if (message.kind === "gone") throw message.error;
        }
      }
      signal.throwIfAborted();
    } finally {
      signal.removeEventListener("abort", onAbort);
      // A reader that left in the middle (a `break`) still waits for the engine to be free.
      if (!isOver) await this.#stop(id, arrived);
      this.#calls.delete(id);
    }
  }

  /** Frees the model and ends the thread. */
  async dispose(): Promise<void> {
    this.#isEnding = true;
    this.#post({ kind: "end" });
    const timer = setTimeout(() => void this.#worker.terminate(), END_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  #stop(id: number, arrived: Parameters<Call>[0][]): Promise<void> {
    const isEnd = ({ kind }: Parameters<Call>[0]): boolean => kind === "done" || kind === "error" || kind === "gone";
    if (arrived.some(isEnd)) return Promise.resolve();
    return new Promise((resolve) => {
      this.#calls.set(id, (message) => {
        if (isEnd(message)) resolve();
      });
      this.#post({ kind: "abort", id });
    });
  }

  #post(message: ToEngine): void {
    this.#worker.postMessage(message);
  }
}

function received({ message, stack, type, param }: SentError): Error {
  const error = type === undefined ? new EngineError(message) : new ApiError(type, message, { param });
  if (stack !== undefined) error.stack = stack;
  return error;
}
