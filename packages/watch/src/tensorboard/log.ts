import { closeSync, openSync, writeSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import type { Answer, EventSink, RunEvent, StartEvent } from "../events.ts";
import { restartEvent, type ScalarValue, summaryEvent, type TextValue, versionEvent } from "./event.ts";
import { tfRecord } from "./record.ts";

let made = 0;

/**
 * A run's numbers and texts as TensorBoard reads them: one `events.out.tfevents…` file a process. Tags are those of
 * transformers and TRL, so that runs of several tools stand in one chart.
 */
export class TensorBoardLog implements EventSink {
  readonly path: string;
  readonly #file: number;

  /** @throws the system's error when the file cannot be made */
  constructor(folder: string, now = Date.now()) {
    const name = `events.out.tfevents.${Math.floor(now / 1000)}.${hostname()}.${process.pid}.${made++}`;
    this.path = join(folder, name);
    this.#file = openSync(this.path, "wx");
    this.#write(versionEvent(now / 1000));
  }

  write(event: RunEvent): void {
    const wallTime = Date.parse(event.time) / 1000;
    switch (event.event) {
      case "start":
        this.#write(summaryEvent(wallTime, 0, [], [{ tag: "args", text: settingsText(event) }]));
        return;
      case "resume":
        this.#write(restartEvent(wallTime, event.step + 1));
        return;
      case "step": {
        const { loss, smoothed_loss, token_accuracy, grad_norm, lr, epoch, tokens_per_second, memory_bytes } = event;
        this.#write(
          summaryEvent(wallTime, event.step, [
            { tag: "train/loss", value: loss },
            { tag: "train/smoothed_loss", value: smoothed_loss },
            ...accuracy("train", token_accuracy),
            { tag: "train/grad_norm", value: grad_norm },
            { tag: "train/learning_rate", value: lr },
            { tag: "train/epoch", value: epoch },
            { tag: "train/tokens_per_second", value: tokens_per_second },
            { tag: "train/memory_bytes", value: memory_bytes },
          ]),
        );
        return;
      }
      case "validation": {
        const scalars = [{ tag: "eval/loss", value: event.loss }, ...accuracy("eval", event.token_accuracy)];
        this.#write(summaryEvent(wallTime, event.step, scalars));
        return;
      }
      case "samples":
        this.#write(summaryEvent(wallTime, event.step, [], event.answers.map(sampleText)));
        return;
      case "end": {
        if (!event.diagnosis) return;
        const { verdict, reasons, advice } = event.diagnosis;
        const text = [`**${verdict}**`, ...reasons, ...advice.map((line) => `- ${line}`)].join("\n\n");
        this.#write(summaryEvent(wallTime, 0, [], [{ tag: "diagnosis", text }]));
      }
    }
  }

  close(): void {
    closeSync(this.#file);
  }

  #write(event: Uint8Array): void {
    writeSync(this.#file, tfRecord(event));
  }
}

function accuracy(group: string, value: number | undefined): ScalarValue[] {
  return value === undefined ? [] : [{ tag: `${group}/mean_token_accuracy`, value }];
}

function settingsText({ model, data, options }: StartEvent): string {
  const all = { model: model.name, data: data.file, ...options };
  const rows = Object.entries(all).map(([name, value]) => `| ${name} | ${cell(value)} |`);
  return ["| setting | value |", "| --- | --- |", ...rows].join("\n");
}

/** A value in a table of Markdown. */
function cell(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.replaceAll("|", "\\|").replaceAll("\n", " ");
}

function sampleText({ question, answer }: Answer): TextValue {
  return { tag: `samples/${question}`, text: answer };
}
