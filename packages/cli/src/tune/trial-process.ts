// The process of one trial: the command `train` with the arguments it is given. Its result, or its error, is a line of JSON on
// stdout. A process of its own gives back all its memory, and takes nothing with it when it fails.
import { Worker } from "node:worker_threads";
import { DivergenceError, UnchangedError } from "@tslm/lora";
import { train } from "../commands/train.ts";
import { exitStatus, explain } from "../errors.ts";
import { type Context, NOTHING_WRITTEN, onInterruption } from "../run.ts";
import { Terminal } from "../terminal.ts";
import { GivenUpError } from "../train/fix.ts";

new Worker(new URL("./parent-watch.ts", import.meta.url)).unref();
const terminal = new Terminal();
const abort = new AbortController();
onInterruption(terminal, (reason) => abort.abort(reason));
const context: Context = { signal: abort.signal, terminal, kept: NOTHING_WRITTEN, whole: (work) => work() };

let status = 0;
try {
  await train(context).parseAsync(process.argv.slice(2), { from: "user" });
} catch (thrown) {
  const error = abort.signal.aborted ? abort.signal.reason : thrown;
  status = exitStatus(error);
  const isOfSettings = [DivergenceError, UnchangedError, GivenUpError].some((kind) => error instanceof kind);
  terminal.json({ error: { name: (error as Error).name, message: explain(error), isOfSettings } });
}
await terminal.flush();
process.exit(status);
