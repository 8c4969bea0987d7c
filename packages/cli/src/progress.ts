import { type GenericBar, Presets, SingleBar } from "cli-progress";
import type { Terminal } from "./terminal.ts";

/** Nothing is shown of what takes less than this. */
const PATIENCE = 2000;
/** Where there is no screen to draw on, a line at most this often. */
const LINE_EVERY = 10_000;

/** `75 s`, `2 min 05 s`, `1 h 02 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  const pad = (x: number): string => String(x).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)} min ${pad(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${pad(Math.floor((s % 3600) / 60))} min`;
}

/** `1.5 GB`, in powers of 1000. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [value, unit] = [count, 0];
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/**
 * Progress of something that may take long: after two seconds a bar on a screen, or a line now and then where stderr goes
 * to a file.
 */
export class Progress {
  readonly #terminal: Terminal;
  readonly #label: string;
  readonly #started = performance.now();
  #bar: SingleBar | undefined;
  #lastLine = 0;

  constructor(terminal: Terminal, label: string) {
    this.#terminal = terminal;
    this.#label = label;
  }

  /**
   * @param done share of the work from 0 to 1
   * @param note what to show beside it, such as the loss
   */
  update(done: number, note: string): void {
    const elapsed = performance.now() - this.#started;
    if (elapsed < PATIENCE) return;
    // From the first hundredth nothing can be foretold.
    const left = done >= 0.01 ? `${duration((elapsed / 1000) * (1 / done - 1))} left` : "";
    const percent = `${Math.floor(done * 100)}%`.padStart(4);
    const text = [note, left].filter((part) => part !== "").join(" · ");
    if (this.#terminal.isScreen) {
      this.#bar ??= this.#start();
      this.#bar.update(Math.min(1, done), { percent, text });
      return;
    }
    if (elapsed - this.#lastLine < LINE_EVERY && this.#lastLine > 0) return;
    this.#lastLine = elapsed;
    this.#terminal.say(`${this.#label} ${percent} · ${text}`);
  }

  /** Takes the bar off the screen. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  #start(): SingleBar {
    const bar = new SingleBar(
      {
        stream: this.#terminal.stderr as NodeJS.WriteStream,
        format: `${this.#label} {bar} {percent} · {text}`,
        barsize: 24,
        hideCursor: true,
        clearOnComplete: true,
        linewrap: false,
        // Ctrl-C is `run`'s, which ends the command in order.
        gracefulExit: false,
      },
      Presets.rect,
    );
    (bar as GenericBar).start(1, 0, { percent: "  0%", text: "" });
    return bar;
  }
}
