import { CommanderError } from "@commander-js/extra-typings";
import { EXIT, exitStatus, explain, Interrupted } from "./errors.ts";
import { Terminal } from "./terminal.ts";

/** What every command is given. */
export interface Context {
  /** Aborts at the first Ctrl-C, with an `Interrupted` as its reason. */
  readonly signal: AbortSignal;
  readonly terminal: Terminal;
  /** Told when interrupted: what of the work is kept. A command sets it as it goes. */
  onInterrupt: () => string;
}

/** What `run` needs of commander's `Command`. */
export interface Runnable {
  parseAsync(argv: readonly string[], options: { from: "user" }): Promise<unknown>;
}

/**
 * Runs a command as the process: Ctrl-C aborts its signal (a second one kills), an error becomes one sentence on stderr,
 * and the process ends with the status of the contract: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
 */
export async function run(build: (context: Context) => Runnable, argv = process.argv.slice(2)): Promise<never> {
  const terminal = new Terminal();
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    // Once: from then on the signal has its default action again, so the second one ends the process at once.
    process.once(signal, () => {
      if (signal === "SIGINT") terminal.say("\nStopping; press Ctrl-C again to end at once.");
      abort.abort(new Interrupted(signal));
    });
  }
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // The reader of a pipe (`| head`) has gone: there is nobody left to tell.
    process.exit(error.code === "EPIPE" ? EXIT.done : EXIT.failed);
  });

  const context: Context = { signal: abort.signal, terminal, onInterrupt: () => "Nothing was written." };
  let status: number = EXIT.done;
  try {
    await build(context).parseAsync(argv, { from: "user" });
  } catch (thrown) {
    const error = abort.signal.aborted ? abort.signal.reason : thrown;
    status = exitStatus(error);
    if (argv.includes("--debug") && thrown instanceof Error) terminal.say(thrown.stack ?? String(thrown));
    if (error instanceof Interrupted) terminal.say(`Interrupted. ${context.onInterrupt()}`);
    // Commander has told its own errors already.
    else if (!(error instanceof CommanderError)) terminal.say(terminal.colors.red(`error: ${explain(error)}`));
  }
  await terminal.flush();
  process.exit(status);
}
