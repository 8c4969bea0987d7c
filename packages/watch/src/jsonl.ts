import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { EventSink, RunEvent } from "./events.ts";

export const LOG_FILE = "log.jsonl";

/**
 * A run's `log.jsonl`: an event a line, handed to the system at once, so that a killed process loses none. Lines are added to a
 * log that is there.
 */
export class JsonlLog implements EventSink {
  readonly path: string;
  readonly #file: number;

  /** @throws the system's error when the file cannot be opened */
  constructor(folder: string) {
    this.path = join(folder, LOG_FILE);
    this.#file = openSync(this.path, "a+");
    // A line that a kill cut off would spoil the next one.
    const text = readFileSync(this.#file);
    ftruncateSync(this.#file, text.lastIndexOf("\n") + 1);
  }

  write(event: RunEvent): void {
    writeSync(this.#file, `${JSON.stringify(event)}\n`);
  }

  close(): void {
    closeSync(this.#file);
  }
}
