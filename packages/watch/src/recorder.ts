import { mkdirSync } from "node:fs";
import { cpus, hostname, platform, release, totalmem } from "node:os";
import { basename, join, resolve } from "node:path";
import {
  type Answer,
  type EndEvent,
  type EventOf,
  type EventSink,
  LOG_FORMAT,
  type RunEvent,
  type StartEvent,
  type StepEvent,
} from "./events.ts";
import { settledEvents } from "./history.ts";
import { JsonlLog } from "./jsonl.ts";
import { Smoothed } from "./smoothed.ts";
import { TensorBoardLog } from "./tensorboard/log.ts";

/** What is known when a run begins; the rest of the event is found out here. */
export type RunStart = Omit<StartEvent, "event" | "time" | "format" | "id" | "pid" | "host" | "machine">;

/** What the trainer tells of a step. */
export type StepMeasures = Pick<
  StepEvent,
  "step" | "epoch" | "loss" | "token_accuracy" | "grad_norm" | "lr" | "tokens" | "seconds"
>;

export interface RecorderOptions {
  /** The run's folder; undefined: nothing is written. See {@link makeRunFolder}. */
  folder?: string;
  /** Others who want the events, such as a page. */
  sinks?: readonly EventSink[];
  /** Told once of each file that can no longer be written. Training goes on without it. */
  onProblem?: (problem: string) => void;
}

/**
 * Makes the folder of a new run below `runs`, named by the second in which it begins: `20260131-142501`, with `-2` behind it for
 * another of the same second.
 *
 * @throws the system's error when it cannot be made
 */
export function makeRunFolder(runs: string, now = new Date()): string {
  mkdirSync(runs, { recursive: true });
  const pad = (x: number): string => String(x).padStart(2, "0");
  const date = `${now.getFullYear()}${pad(now.getMonth() + 1)}${pad(now.getDate())}`;
  const name = `${date}-${pad(now.getHours())}${pad(now.getMinutes())}${pad(now.getSeconds())}`;
  for (let count = 1; ; count++) {
    const folder = join(runs, count === 1 ? name : `${name}-${count}`);
    try {
      mkdirSync(folder);
      return folder;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

/** This computer, for a report. */
export function machine(): StartEvent["machine"] {
  const processors = cpus();
  return {
    cpu: processors[0]?.model.trim() || "unknown",
    cores: processors.length,
    memory_bytes: totalmem(),
    system: `${platform()} ${release()}`,
  };
}

/**
 * Writes down a run as it happens: to its `log.jsonl`, to TensorBoard's event file and to whoever else listens. All of it is
 * kept in memory too, for the report.
 */
export class RunRecorder {
  readonly folder: string | undefined;
  readonly events: RunEvent[] = [];
  readonly #sinks: EventSink[] = [];
  /** Those of them that have no events of an earlier process. */
  readonly #listeners: readonly EventSink[];
  readonly #onProblem: (problem: string) => void;
  readonly #smoothed = new Smoothed();
  readonly #begun = performance.now();
  #tokens = 0;
  #seconds = 0;
  #secondsBefore = 0;

  constructor({ folder, sinks = [], onProblem = () => {} }: RecorderOptions) {
    this.folder = folder;
    this.#onProblem = onProblem;
    if (folder !== undefined) {
      for (const make of [() => new JsonlLog(folder), () => new TensorBoardLog(folder)]) this.#try(make);
    }
    this.#listeners = sinks;
    this.#sinks.push(...sinks);
  }

  /** The first event. */
  start(start: RunStart): void {
    this.#emit({
      event: "start",
      time: now(),
      format: LOG_FORMAT,
      id: this.folder === undefined ? "" : basename(resolve(this.folder)),
      pid: process.pid,
      host: hostname(),
      ...start,
      machine: machine(),
    });
  }

  /** The run goes on after a step that was saved. `earlier` is what the log says of it until then. */
  resume(step: number, earlier: readonly RunEvent[] = []): void {
    this.events.push(...earlier);
    for (const event of earlier) this.#send(event, this.#listeners);
    this.#secondsBefore = activeSeconds(earlier);
    const resumed: RunEvent = { event: "resume", time: now(), step, pid: process.pid, host: hostname() };
    for (const event of settledEvents([...earlier, resumed])) if (event.event === "step") this.#count(event);
    this.#emit(resumed);
  }

  /** A step that is done. */
  step(measures: StepMeasures): StepEvent {
    const smoothed = this.#count(measures);
    const { step, epoch, loss, token_accuracy, grad_norm, lr, tokens, seconds } = measures;
    const event: StepEvent = {
      event: "step",
      time: now(),
      ...{ step, epoch, loss, smoothed_loss: smoothed, token_accuracy, grad_norm, lr, tokens, seconds },
      tokens_per_second: this.#tokens / this.#seconds,
      memory_bytes: process.memoryUsage.rss(),
    };
    this.#emit(event);
    return event;
  }

  /** The loss of the rows that are held out. */
  validation(measures: Pick<EventOf<"validation">, "step" | "loss" | "token_accuracy">): void {
    this.#emit({ event: "validation", time: now(), ...measures });
  }

  /** What the sample questions are answered after a step; 0: before training. */
  samples(step: number, answers: Answer[]): void {
    this.#emit({ event: "samples", time: now(), step, answers });
  }

  /** All that is needed to go on after this step is saved. */
  checkpoint(step: number, folder: string): void {
    this.#emit({ event: "checkpoint", time: now(), step, folder });
  }

  /** The last event. */
  end(end: Omit<EndEvent, "event" | "time" | "seconds">): void {
    const seconds = this.#secondsBefore + (performance.now() - this.#begun) / 1000;
    this.#emit({ event: "end", time: now(), seconds, ...end });
  }

  /** Closes the files and lets go of the listeners. */
  async close(): Promise<void> {
    for (const sink of this.#sinks.splice(0)) await sink.close();
  }

  #count({ loss, tokens, seconds }: Pick<StepEvent, "loss" | "tokens" | "seconds">): number {
    this.#tokens += tokens;
    this.#seconds += seconds;
    return this.#smoothed.add(loss);
  }

  #try(make: () => EventSink): void {
    try {
      this.#sinks.push(make());
    } catch (error) {
      this.#onProblem((error as Error).message);
    }
  }

  #emit(event: RunEvent): void {
    this.events.push(event);
    this.#send(event, this.#sinks);
  }

  #send(event: RunEvent, sinks: readonly EventSink[]): void {
    for (const sink of [...sinks]) {
      try {
        sink.write(event);
      } catch (error) {
        const place = this.#sinks.indexOf(sink);
        if (place >= 0) this.#sinks.splice(place, 1);
        this.#onProblem((error as Error).message);
      }
    }
  }
}

/** Seconds in which a process worked on the run, without the pauses before it was resumed. */
function activeSeconds(events: readonly RunEvent[]): number {
  let [sum, from] = [0, Number.NaN];
  events.forEach((event, i) => {
    if (event.event === "start" || event.event === "resume") from = Date.parse(event.time);
    const next = events[i + 1];
    if (next === undefined || next.event === "resume") sum += (Date.parse(event.time) - from) / 1000;
  });
  return sum;
}

function now(): string {
  return new Date().toISOString();
}
