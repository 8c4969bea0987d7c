import type { Writable } from "node:stream";
import { createColors } from "picocolors";

export type Colors = ReturnType<typeof createColors>;

/**
 * Where a command speaks: `print` and `json` to stdout, the result, which other programs may read; everything else to
 * stderr, for people.
 */
export class Terminal {
  readonly stdout: Writable;
  readonly stderr: Writable;
  /** Is stderr a screen that can be drawn on? */
  readonly isScreen: boolean;
  /** Colours for stderr; they change nothing where it is no screen or NO_COLOR is set. */
  readonly colors: Colors;
  /** Characters a line of stdout; undefined where it is no screen. */
  readonly columns: number | undefined;
  #unwritten = 0;
  #onWritten = (): void => {};

  constructor(
    streams: { stdout: Writable & { columns?: number }; stderr: Writable & { isTTY?: boolean } } = process,
    env: Record<string, string | undefined> = process.env,
  ) {
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.columns = streams.stdout.columns;
    this.isScreen = streams.stderr.isTTY === true && env.TERM !== "dumb";
    this.colors = createColors(this.isScreen && !env.NO_COLOR);
  }

  /** Text of the result. */
  out(text: string): void {
    this.#write(this.stdout, text);
  }
  /** Text for people. */
  err(text: string): void {
    this.#write(this.stderr, text);
  }
  /** A line for people. */
  say(line = ""): void {
    this.err(`${line}\n`);
  }
  /** A line that must not be missed. */
  warn(line: string): void {
    this.say(this.colors.yellow(`warning: ${line}`));
  }
  /** A line of the result. */
  print(line: string): void {
    this.out(`${line}\n`);
  }
  /** A value of the result, one line of JSON. */
  json(value: unknown): void {
    this.print(JSON.stringify(value));
  }
  /** Waits until everything is written: a pipe takes only so much at a time, and an exit would drop the rest. */
  async flush(): Promise<void> {
    if (this.#unwritten === 0) return;
    await new Promise<void>((resolve) => {
      this.#onWritten = resolve;
    });
  }

  #write(stream: Writable, text: string): void {
    // Each text's own callback: under Bun that of a last empty one does not wait for those before it.
    this.#unwritten++;
    stream.write(text, () => {
      if (--this.#unwritten === 0) this.#onWritten();
    });
  }
}

/** Removes what would move the cursor, colour the screen or ring the bell when untrusted text is shown on it. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not reach a screen
  return text.replaceAll(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "\ufffd");
}

/** A text as one word of a command to copy: nothing in it is a shell's to run. */
export function shellWord(text: string): string {
  const shown = printable(text);
  if (/^[\w./~:-]+$/.test(shown)) return shown;
  return /[$`\\!"]/.test(shown) ? `'${shown.replaceAll("'", `'\\''`)}'` : `"${shown}"`;
}
