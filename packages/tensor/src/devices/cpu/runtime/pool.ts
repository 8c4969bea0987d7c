// Threads that work on the items of one job at a time, the caller among them.
//
// A job is a kernel, the address of its arguments and a number of items; threads take items in chunks from a shared
// counter. What an item computes does not depend on who takes it, so results are the same for any number of threads.
// Starting a job allocates nothing: a few words are written, spinning threads see them at once, sleeping ones are woken.
//
// Signals: `run` is synchronous, and a signal handler written in JavaScript runs only when the caller is back in the
// event loop. So one job should stay within some 50 ms, and whoever computes for long awaits a macrotask now and then
// (the device's `read` and `synchronize` do).
import { builtin } from "./builtin.ts";
import type { KernelFunction } from "./host.ts";
import {
  CONTROL_WORDS,
  control,
  FAILURE_BYTES,
  MAX_KERNELS,
  MAX_THREADS,
  type PoolWorkerSetup,
  poolWorker,
} from "./pool-worker.ts";

/** A pool thread ended or failed: what its job has written is incomplete. */
export class PoolError extends Error {
  override readonly name = "PoolError";
}

/** Number of a kernel in the table shared with the threads. */
export type KernelIndex = number;

export interface PoolOptions {
  /** Threads that compute, the caller included; 1 starts none. */
  readonly threads: number;
  /** The kernels' memory in the WebAssembly tier. */
  readonly memory?: WebAssembly.Memory;
  /** Source put before the worker's own (see NativeHost.workerPrelude). */
  readonly prelude?: string;
}

interface Thread {
  /** Ends the thread and waits until it is gone. */
  end(): Promise<void>;
}

/** About 100 µs: longer than the caller needs between two ops, shorter than anyone would notice on a bill. */
const WORKER_SPINS = 40_000;
const CALLER_SPINS = 20_000;
/** How long the caller sleeps before it looks whether the threads it waits for are alive. */
const WATCH_MS = 200;
/** Without thread ids (not Linux): a job in which nothing moves for this long is lost. */
const STALL_MS = 60_000;

export class WorkerPool {
  readonly threads: number;
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly table: Float64Array<SharedArrayBuffer>;
  private readonly kernels: KernelFunction[] = [];
  private readonly names: string[] = [];
  private readonly options: PoolOptions;
  private workers: Thread[] | undefined;
  private lost: PoolError | undefined;
  private closed = false;
  private readonly mayWait: boolean;

  constructor(options: PoolOptions) {
    this.options = options;
    this.threads = checkThreads(options.threads);
    this.words = new Int32Array(sharedBuffer(CONTROL_WORDS * 4 + FAILURE_BYTES, this.threads), 0, CONTROL_WORDS);
    this.table = new Float64Array(sharedBuffer(8 * (1 + 2 * MAX_KERNELS), this.threads));
    this.mayWait = this.threads > 1 && mayWait();
  }

  /**
   * Makes a kernel known to all threads.
   * @param run the kernel as the caller's thread calls it
   * @param address of its machine code, or of its WebAssembly module's bytes in the shared memory
   */
  register(name: string, run: KernelFunction, address: number, bytes: number): KernelIndex {
    const index = this.kernels.length;
    if (index >= MAX_KERNELS) throw new PoolError(`[pool] no room for kernel ${name}: ${MAX_KERNELS} are registered`);
    this.kernels.push(run);
    this.names.push(name);
    this.table[1 + 2 * index] = address;
    this.table[2 + 2 * index] = bytes;
    return index;
  }

  /**
   * Runs a kernel over the items 0 … items−1, in chunks, on all threads; returns when all are done.
   * @throws PoolError when a thread was lost; the job's results are then incomplete and the pool is of no more use
   */
  run(kernel: KernelIndex, args: number, items: number, chunk = 1): void {
    if (this.lost) throw this.lost;
    if (this.closed) throw new PoolError("[pool] the device has been disposed");
    const call = this.kernels[kernel];
    if (call === undefined) throw new PoolError(`[pool] there is no kernel ${kernel}`);
    if (!(items >= 0 && chunk >= 1 && items < 2 ** 30 && chunk < 2 ** 20)) {
      throw new RangeError(`[pool] ${this.names[kernel]}: ${items} items in chunks of ${chunk} are out of range`);
    }
    if (items === 0) return;
    if (items <= chunk || this.threads === 1) {
      for (let begin = 0; begin < items; begin += chunk) call(args, begin, Math.min(begin + chunk, items));
      return;
    }
    this.workers ??= this.start();

    const { words } = this;
    words[control.kernel] = kernel;
    words[control.items] = items;
    words[control.chunk] = chunk;
    this.table[0] = args;
    Atomics.store(words, control.next, 0);
    Atomics.store(words, control.open, 1);
    Atomics.add(words, control.generation, 1);
    if (Atomics.load(words, control.sleepers) > 0) {
      Atomics.notify(words, control.generation, Math.ceil(items / chunk) - 1);
    }
    try {
      for (;;) {
        const begin = Atomics.add(words, control.next, chunk);
        if (begin >= items) break;
        call(args, begin, Math.min(begin + chunk, items));
      }
    } finally {
      // After a throw nobody takes more items.
      Atomics.store(words, control.next, items);
      Atomics.store(words, control.open, 0);
      this.join();
    }
    if (words[control.failed] !== 0) this.fail(kernel);
  }

  /** Ends the threads and waits until they are gone: only then may code and memory be unmapped. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    Atomics.store(this.words, control.stop, 1);
    Atomics.add(this.words, control.generation, 1);
    Atomics.notify(this.words, control.generation);
    await Promise.all((this.workers ?? []).map((worker) => worker.end()));
  }

  /** Waits until no other thread is inside the job. */
  private join(): void {
    const { words } = this;
    let active = 0;
    for (let i = 0; i < CALLER_SPINS; i++) if (Atomics.load(words, control.active) === 0) return;
    const began = performance.now();
    while ((active = Atomics.load(words, control.active)) !== 0) {
      if (this.mayWait) {
        Atomics.store(words, control.waiting, 1);
        if (Atomics.load(words, control.active) === active) {
          if (Atomics.wait(words, control.active, active, WATCH_MS) === "timed-out") this.watch(began);
        }
        Atomics.store(words, control.waiting, 0);
      } else if (performance.now() - began > STALL_MS) this.watch(began);
    }
  }

  /** Throws when a thread is gone, or when there is no way to see it and nothing has happened for long. */
  private watch(began: number): void {
    const fs = builtin("node:fs");
    let seen = 0;
    for (let thread = 1; thread < this.threads; thread++) {
      if (Atomics.load(this.words, control.states + thread) !== 1) continue;
      const id = this.words[control.states + MAX_THREADS + thread];
      if (!id || !fs) continue;
      seen++;
      if (!fs.existsSync(`/proc/self/task/${id}`)) {
        throw (this.lost = new PoolError(`[pool] thread ${thread} of ${this.threads} ended in the middle of its work`));
      }
    }
    if (seen < this.threads - 1 && performance.now() - began > STALL_MS) {
      throw (this.lost = new PoolError(`[pool] no thread has finished for ${STALL_MS / 1000} s; one seems to be gone`));
    }
  }

  private fail(kernel: KernelIndex): never {
    const text = new Uint16Array(this.words.buffer, CONTROL_WORDS * 4);
    const message = String.fromCharCode(...text.subarray(1, 1 + text[0]!));
    this.lost = new PoolError(
      `[pool] thread ${this.words[control.failed]} of ${this.threads} failed in kernel ${this.names[kernel]}: ${message}`,
    );
    throw this.lost;
  }

  private start(): Thread[] {
    const source = `${this.options.prelude ?? ""}const run = ${poolWorker.toString()};\n`;
    return Array.from({ length: this.threads - 1 }, (_, index) => {
      const setup: PoolWorkerSetup = {
        thread: index + 1,
        control: this.words.buffer,
        table: this.table.buffer,
        memory: this.options.memory,
        words: control,
        controlWords: CONTROL_WORDS,
        maxThreads: MAX_THREADS,
        spins: WORKER_SPINS,
      };
      return startThread(source, setup, (reason) => {
        if (this.closed) return;
        this.lost ??= new PoolError(`[pool] thread ${index + 1} of ${this.threads} ended: ${reason}`);
      });
    });
  }
}

/** The number of threads, if there can be so many. */
export function checkThreads(threads: number): number {
  if (Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS) return threads;
  throw new RangeError(`[pool] threads must be a whole number from 1 to ${MAX_THREADS}, not ${threads}`);
}

/** A browser shares memory with workers only where the page is cross-origin isolated. */
export const mayShare: boolean =
  globalThis.SharedArrayBuffer !== undefined &&
  (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;

/** Memory that threads share; ordinary memory will do for one. */
function sharedBuffer(bytes: number, threads: number): SharedArrayBuffer {
  if (threads === 1) return new ArrayBuffer(bytes) as unknown as SharedArrayBuffer;
  if (mayShare) return new SharedArrayBuffer(bytes);
  throw new PoolError(
    "[pool] several threads need a cross-origin isolated page (COOP and COEP headers); use threads: 1",
  );
}

/** Browsers forbid their main thread to sleep. */
function mayWait(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
    return true;
  } catch {
    return false;
  }
}

/** Starts a Worker of whatever kind there is; it does not keep the process alive. */
function startThread(source: string, setup: PoolWorkerSetup, ended: (reason: string) => void): Thread {
  const nodeThreads = globalThis.process?.versions?.bun ? undefined : builtin("node:worker_threads");
  if (nodeThreads) {
    const worker = new nodeThreads.Worker(`${source}run(require("node:worker_threads").workerData);`, {
      eval: true,
      workerData: setup,
    });
    worker.unref();
    let reason = "it was ended from outside";
    worker.on("error", (error) => (reason = error.message));
    const gone = new Promise<void>((resolve) => worker.on("exit", () => resolve()));
    gone.then(() => ended(reason));
    return {
      async end() {
        worker.ref();
        await gone;
      },
    };
  }
  const url = URL.createObjectURL(
    new Blob([`${source}self.onmessage = (event) => { run(event.data); self.close(); };`], { type: "text/javascript" }),
  );
  const worker = new Worker(url) as Worker & { ref?(): void; unref?(): void };
  worker.unref?.();
  let reason = "it was ended from outside";
  worker.addEventListener("error", (event) => (reason = event.message));
  // Browsers have no "close" event: there the thread's memory is collected with it and need not be waited for.
  const gone = new Promise<void>((resolve) => worker.addEventListener("close", () => resolve()));
  gone.then(() => {
    URL.revokeObjectURL(url);
    ended(reason);
  });
  worker.postMessage(setup);
  return {
    async end() {
      if (!worker.ref) return;
      worker.ref();
      await gone;
    },
  };
}
