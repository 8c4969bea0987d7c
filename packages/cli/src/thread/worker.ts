// The thread that a command runs in. What it writes goes to the main thread, which owns terminal and signals.
import { Writable } from "node:stream";
import { parentPort, workerData } from "node:worker_threads";
import { Interrupted } from "../errors.ts";
import { type Context, NOTHING_WRITTEN, perform, type Runnable } from "../run.ts";
import { Terminal } from "../terminal.ts";
import type { FromThread, StreamKind, ThreadCommand, ThreadOptions, ToThread } from "./protocol.ts";

const COMMANDS: { readonly [Name in ThreadCommand]: () => Promise<(context: Context) => Runnable> } = {
  ask: async () => (await import("../commands/ask.ts")).ask,
  eval: async () => (await import("../commands/eval.ts")).evaluate,
  export: async () => (await import("../commands/export.ts")).exportModel,
  train: async () => (await import("../commands/train.ts")).train,
};

const port = parentPort!;
const send = (message: FromThread): void => port.postMessage(message);

/** One of the process's streams, seen from this thread. */
function stream(where: "stdout" | "stderr", kind: StreamKind): Writable & StreamKind {
  const writable = new Writable({
    decodeStrings: false,
    write(text: string, _, done) {
      send({ kind: "write", where, text });
      done();
    },
  });
  return Object.assign(writable, kind);
}

class ThreadContext implements Context {
  readonly signal: AbortSignal;
  readonly terminal: Terminal;
  #kept = NOTHING_WRITTEN;

  constructor({ stdout, stderr }: ThreadOptions) {
    const abort = new AbortController();
    this.signal = abort.signal;
    this.terminal = new Terminal({ stdout: stream("stdout", stdout), stderr: stream("stderr", stderr) });
    port.on("message", ({ signal }: ToThread) => abort.abort(new Interrupted(signal)));
  }
  get kept(): string {
    return this.#kept;
  }
  set kept(sentence: string) {
    this.#kept = sentence;
    send({ kind: "kept", sentence });
  }
  async whole<T>(work: () => Promise<T>): Promise<T> {
    send({ kind: "whole", isRunning: true });
    try {
      return await work();
    } finally {
      send({ kind: "whole", isRunning: false });
    }
  }
}

const options = workerData as ThreadOptions;
const context = new ThreadContext(options);
const status = await perform(await COMMANDS[options.command](), context, options.argv);
await context.terminal.flush();
send({ kind: "end", status });
