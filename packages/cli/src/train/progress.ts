import type { StepEvent } from "@tslm/watch";
import { bytes, Progress } from "../progress.ts";
import type { Terminal } from "../terminal.ts";

/** The line that tells how a training goes. */
export class TrainingProgress {
  readonly #progress: Progress;
  readonly #epochs: number;

  constructor(terminal: Terminal, epochs: number) {
    this.#progress = new Progress(terminal, "Training");
    this.#epochs = epochs;
  }

  /** A step is done. @param total steps of the run */
  update(event: StepEvent, total: number): void {
    this.#progress.update(event.step / total, describeStep(event, this.#epochs));
  }

  /** Takes the line off the screen. */
  stop(): void {
    this.#progress.stop();
  }
}

/** `epoch 1/3 · loss 1.234 (smoothed 1.301) · accuracy 62% · gradient 1.2 · rate 2.0e-4 · 75 tokens/s · 1.6 GB` */
export function describeStep(event: StepEvent, epochs: number): string {
  const { epoch, loss, smoothed_loss, token_accuracy, grad_norm, lr, tokens_per_second, memory_bytes } = event;
  return [
    `epoch ${epoch}/${epochs}`,
    `loss ${loss.toFixed(3)} (smoothed ${smoothed_loss.toFixed(3)})`,
    ...(token_accuracy === undefined ? [] : [`accuracy ${Math.round(100 * token_accuracy)}%`]),
    `gradient ${grad_norm.toPrecision(2)}`,
    `rate ${lr.toExponential(1)}`,
    `${tokens_per_second.toFixed(0)} tokens/s`,
    bytes(memory_bytes),
  ].join(" · ");
}
