import { Worker } from "node:worker_threads";
import { exitWithReader, onInterruption } from "../run.ts";
import { Terminal } from "../terminal.ts";
import type { StreamKind, ThreadCommand, ThreadOptions } from "./protocol.ts";
import { supervise } from "./supervise.ts";

/**
 * As `run`, for a command that computes for seconds without a pause. It works in a thread of its own, while this one owns
 * the terminal and the signals: Ctrl-C is answered within about a second, even in the middle of a pass over a large model.
 */
export async function runInThread(command: ThreadCommand, argv = process.argv.slice(2)): Promise<never> {
  const terminal = new Terminal();
  exitWithReader();
  const { stdout, stderr } = process;
  const workerData: ThreadOptions = { command, argv, stdout: kindOf(stdout), stderr: kindOf(stderr) };
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData });
  const supervision = supervise(worker, terminal);
  onInterruption(terminal, (reason) => {
    supervision.interrupt(reason);
    process.once(reason.signal, supervision.leave);
  });
  const status = await supervision.status;
  await terminal.flush();
  process.exit(status);
}

function kindOf({ isTTY = false, columns }: NodeJS.WriteStream): StreamKind {
  return { isTTY, columns };
}
