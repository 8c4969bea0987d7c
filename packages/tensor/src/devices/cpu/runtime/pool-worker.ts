// The life of one pool thread. `poolWorker` is turned into text and started from a blob, so that one and the same code
// runs in Bun, Node, browsers, bundles and compiled programs: it must not refer to anything outside itself.

/** Places in the control block (32-bit words), a cache line apart where different threads write them. */
export const control = {
  /** Counts jobs; sleeping threads wait on it. */
  generation: 0,
  /** Threads that sleep or are about to. */
  sleepers: 1,
  /** 1 tells threads to end. */
  stop: 2,
  /** Number of the first thread that failed, 0 while none has. */
  failed: 3,
  /** 1 while a job may be joined; 0 before its fields are written and once all its items are taken. */
  open: 16,
  kernel: 17,
  items: 18,
  chunk: 19,
  /** Next item to take. */
  next: 32,
  /** Threads inside the job besides the caller; the caller waits for 0. */
  active: 48,
  /** 1 while the caller sleeps on `active`. */
  waiting: 49,
  /** From here a word for each thread: 0 starting, 1 alive, 2 ended; then a word each for its thread id. */
  states: 64,
} as const;

export const MAX_THREADS = 256;
export const CONTROL_WORDS = control.states + 2 * MAX_THREADS;
/** Bytes for the text of a failure, after the control words. */
export const FAILURE_BYTES = 1024;
export const MAX_KERNELS = 4096;

export interface PoolWorkerSetup {
  /** Number of this thread, from 1; the caller is 0. */
  readonly thread: number;
  /** CONTROL_WORDS words, then FAILURE_BYTES bytes of UTF-16 text. */
  readonly control: SharedArrayBuffer;
  /** f64: [0] the arguments' address; then address and bytes of each kernel. */
  readonly table: SharedArrayBuffer;
  /** The kernels' memory in the WebAssembly tier; absent for machine code. */
  readonly memory?: WebAssembly.Memory;
  readonly words: typeof control;
  readonly controlWords: number;
  readonly maxThreads: number;
  /** Rounds of looking for a job before sleeping. */
  readonly spins: number;
}

/** Runs jobs until told to stop. Self-contained: its source text is the worker. */
export function poolWorker(setup: PoolWorkerSetup): void {
  const { thread, words, memory } = setup;
  const shared = new Int32Array(setup.control);
  const table = new Float64Array(setup.table);
  const kernels: (((args: number, begin: number, end: number) => void) | undefined)[] = [];
  const native = (globalThis as { tensorNative?: { kernelAt(address: number): (typeof kernels)[0] } }).tensorNative;
  const process = (globalThis as { process?: { getBuiltinModule?(name: string): typeof import("node:fs") } }).process;
  try {
    // Linux tells the thread's id, by which the caller sees that it is gone.
    const link = process?.getBuiltinModule?.("node:fs").readlinkSync("/proc/thread-self") ?? "";
    shared[words.states + setup.maxThreads + thread] = Number(link.slice(link.lastIndexOf("/") + 1)) || 0;
  } catch {
    // Not Linux: the caller falls back on time.
  }

  const kernel = (index: number) => {
    const known = kernels[index];
    if (known) return known;
    const address = table[1 + 2 * index]!;
    if (memory) {
      const code = new Uint8Array(memory.buffer, address, table[2 + 2 * index]!).slice();
      const instance = new WebAssembly.Instance(new WebAssembly.Module(code), { env: { memory } });
      return (kernels[index] = instance.exports.kernel as (typeof kernels)[0]);
    }
    return (kernels[index] = native!.kernelAt(address));
  };

  const fail = (error: unknown) => {
    if (Atomics.compareExchange(shared, words.failed, 0, thread) !== 0) return;
    const text = new Uint16Array(setup.control, setup.controlWords * 4);
    const message = String((error as Error)?.message ?? error).slice(0, text.length - 1);
    for (let i = 0; i < message.length; i++) text[i + 1] = message.charCodeAt(i);
    text[0] = message.length;
  };

  const work = () => {
    const run = kernel(shared[words.kernel]!)!;
    const args = table[0]!;
    const items = shared[words.items]!;
    const chunk = shared[words.chunk]!;
    for (;;) {
      const begin = Atomics.add(shared, words.next, chunk);
      if (begin >= items) return;
      run(args, begin, Math.min(begin + chunk, items));
    }
  };

  Atomics.store(shared, words.states + thread, 1);
  // Generation 0 is "no job yet": a thread that starts during a job joins it.
  let seen = 0;
  while (Atomics.load(shared, words.stop) === 0) {
    let generation = Atomics.load(shared, words.generation);
    for (let i = 0; generation === seen && i < setup.spins; i++) generation = Atomics.load(shared, words.generation);
    if (generation === seen) {
      Atomics.add(shared, words.sleepers, 1);
      Atomics.wait(shared, words.generation, seen);
      Atomics.sub(shared, words.sleepers, 1);
      continue;
    }
    seen = generation;
    // Counted first, then looked: either the caller sees this thread and waits for it, or this thread sees a closed job.
    Atomics.add(shared, words.active, 1);
    try {
      if (Atomics.load(shared, words.open) === 1) work();
    } catch (error) {
      fail(error);
    }
    if (Atomics.sub(shared, words.active, 1) === 1 && Atomics.load(shared, words.waiting) === 1) {
      Atomics.notify(shared, words.active);
    }
  }
  Atomics.store(shared, words.states + thread, 2);
}
