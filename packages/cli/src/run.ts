import { EXIT, exitStatus, explain, Interrupted, isUsageTold } from "./errors.ts";
import { Terminal } from "./terminal.ts";

/** What every command is given. */
export interface Context {
  /** Aborts at the first Ctrl-C, with an `Interrupted` as its reason. */
  readonly signal: AbortSignal;
  readonly terminal: Terminal;
  /** A sentence: what of the work is kept if it is interrupted now. A command sets it as it goes. */
  kept: string;
  /** Does what an interruption must not cut short, such as writing files that belong together: it waits for the end. */
  whole<T>(work: () => Promise<T>): Promise<T>;
}

/** What a command says is kept before it has done anything. */
export const NOTHING_WRITTEN = "Nothing was written.";

/** What `run` needs of commander's `Command`. */
export interface Runnable {
  parseAsync(argv: readonly string[], options: { from: "user" }): Promise<unknown>;
}

/**
 * Runs a command as the process: Ctrl-C aborts its signal (a second one kills), an error becomes one sentence on stderr,
 * and the process ends with the status of the contract: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
 *
 * For commands that never compute for long without a pause: a signal is seen only in one. Others: `runInThread`.
 */
export async function run(build: (context: Context) => Runnable, argv = process.argv.slice(2)): Promise<never> {
  const terminal = new Terminal();
  const abort = new AbortController();
  onInterruption(terminal, (interrupted) => abort.abort(interrupted));
  exitWithReader();
  const whole: Context["whole"] = (work) => work();
  const status = await perform(build, { signal: abort.signal, terminal, kept: NOTHING_WRITTEN, whole }, argv);
  await terminal.flush();
  process.exit(status);
}

/** Runs a command, tells its error on the terminal, and gives the exit status. */
export async function perform(
  build: (context: Context) => Runnable,
  context: Context,
  argv: readonly string[],
): Promise<number> {
  const { signal, terminal } = context;
  try {
    await build(context).parseAsync(argv, { from: "user" });
    return EXIT.done;
  } catch (thrown) {
    const error = signal.aborted ? signal.reason : thrown;
    if (argv.includes("--debug") && thrown instanceof Error) terminal.say(thrown.stack ?? String(thrown));
    if (error instanceof Interrupted) terminal.say(interruption(context.kept));
    else if (!isUsageTold(error)) terminal.say(terminal.colors.red(`error: ${explain(error)}`));
    return exitStatus(error);
  }
}

/** What is said last of an interrupted command. */
export function interruption(kept: string): string {
  return `Interrupted. ${kept}`;
}

/** Calls `stop` at the first Ctrl-C or SIGTERM. */
export function onInterruption(terminal: Terminal, stop: (interrupted: Interrupted) => void): void {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    // Once: from then on the signal has its default action again, so the second one ends the process at once.
    process.once(signal, () => {
      if (signal === "SIGINT") terminal.say("\nStopping; press Ctrl-C again to end at once.");
      stop(new Interrupted(signal));
    });
  }
}

/** Ends the process when the reader of its output (`| head`) has gone: there is nobody left to tell. */
export function exitWithReader(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? EXIT.done : EXIT.failed);
  });
}
