import { dirname, join } from "node:path";
import type { Diagnosis, StepAnswer, StepResult } from "@tslm/lora";
import {
  type Answer,
  LivePage,
  makeRunFolder,
  RunRecorder,
  type RunStart,
  type RunStatus,
  readEvents,
  writeReport,
} from "@tslm/watch";
import { explain, Interrupted } from "../errors.ts";
import { peakMemory } from "../resources.ts";
import type { Context } from "../run.ts";
import { printable } from "../terminal.ts";
import { TrainingProgress } from "./progress.ts";
import type { SampleQuestions } from "./samples.ts";

/** What of the options is about watching. */
export interface WatchOptions {
  /** The adapter's folder. */
  readonly out: string;
  /** Folder of the runs; beside the adapter's unless given. */
  readonly runs?: string;
  /** Steps between two rounds of sample questions; 0: only before and after. */
  readonly sampleEvery: number;
  readonly ui?: boolean;
  readonly uiPort?: number;
}

/** Where the runs of an adapter's folder are written down unless `--runs` says otherwise. */
export function runsFolder({ out, runs }: Pick<WatchOptions, "out" | "runs">): string {
  return runs ?? join(dirname(out), "runs");
}

/** A training run as it is watched: on the terminal, in files, on a page. */
export class Watch {
  readonly #context: Context;
  readonly #options: WatchOptions;
  readonly #page: LivePage | undefined;
  #recorder = new RunRecorder({});
  #progress: TrainingProgress | undefined;
  #isStopAsked = false;
  /** Called when someone asks for a checkpoint on the page. */
  onSave: () => void = () => {};

  private constructor(context: Context, options: WatchOptions, page: LivePage | undefined) {
    this.#context = context;
    this.#options = options;
    this.#page = page;
  }

  /**
   * Does `work` under watch, and writes down how it ends. The page, if one is wanted, opens first: a port that is in use is to
   * be told before a model is loaded.
   *
   * @throws PageError, and what `work` throws
   */
  static async follow(context: Context, options: WatchOptions, work: (watch: Watch) => Promise<void>): Promise<void> {
    const watch = await Watch.#open(context, options);
    try {
      await work(watch);
      await watch.#close();
    } catch (error) {
      await watch.#close(error);
      throw error;
    }
  }

  static async #open(context: Context, options: WatchOptions): Promise<Watch> {
    if (!options.ui) return new Watch(context, options, undefined);
    let watch: Watch | undefined;
    const page = await LivePage.open({
      port: options.uiPort,
      onAction(action) {
        if (action === "save") watch?.onSave();
        if (action === "stop" && watch) watch.#isStopAsked = true;
      },
    });
    watch = new Watch(context, options, page);
    context.terminal.say(`Watch it at ${page.url}`);
    return watch;
  }

  /** The run's folder; undefined where none can be written. */
  get folder(): string | undefined {
    return this.#recorder.folder;
  }

  /** The run begins. */
  start(start: RunStart): void {
    let folder: string | undefined;
    try {
      folder = makeRunFolder(runsFolder(this.#options));
    } catch (error) {
      this.#notWritten((error as Error).message);
    }
    this.#record(folder, start);
    this.#recorder.start(start);
  }

  /** A run goes on after a step. It is written down where it was before; where that is not there any more, as a new one. */
  async resume(step: number, start: RunStart, folder: string | undefined): Promise<void> {
    const earlier = folder === undefined ? [] : await readEvents(folder).catch(() => []);
    if (earlier.length === 0) return this.start(start);
    this.#record(folder, start);
    this.#recorder.resume(step, earlier);
  }

  #record(folder: string | undefined, { options }: RunStart): void {
    const onProblem = (problem: string): void => this.#notWritten(problem);
    this.#recorder = new RunRecorder({ folder, sinks: this.#page ? [this.#page] : [], onProblem });
    this.#progress = new TrainingProgress(this.#context.terminal, Number(options.epochs));
  }
  #notWritten(problem: string): void {
    this.#context.terminal.warn(`the run is not written down any more: ${problem}`);
  }

  /** What the sample questions are answered; step 0: before training. */
  samples(step: number, answers: Answer[]): void {
    this.#recorder.samples(step, answers);
  }

  /** A checkpoint is on the disk. */
  checkpoint(step: number, folder: string): void {
    this.#recorder.checkpoint(step, folder);
  }

  /** For the trainer's `onStep`: writes the step down, asks the samples when it is their turn, and says whether to stop. */
  async step(result: StepResult, total: number, questions: SampleQuestions): Promise<StepAnswer> {
    const { step, validation_loss } = result;
    const event = this.#recorder.step(result);
    if (validation_loss !== undefined) this.#recorder.validation({ step, loss: validation_loss });
    this.#progress?.update(event, total);
    const { sampleEvery } = this.#options;
    if (sampleEvery > 0 && step % sampleEvery === 0 && step < total) {
      const answers = await questions.ask(this.#context.signal);
      this.samples(step, answers);
      this.#sayAnswers(step, answers);
    }
    return this.#isStopAsked ? "stop" : undefined;
  }

  /** The steps are done; what follows is told by other lines. */
  trained(): void {
    this.#progress?.stop();
    this.#progress = undefined;
  }

  /** The run has ended and its adapter is saved: writes the report; its path. */
  async end(status: "done" | "stopped", diagnosis: Diagnosis): Promise<string | undefined> {
    this.#recorder.end({ status, diagnosis, peak_rss_bytes: peakMemory().peak_rss_bytes });
    return this.#report();
  }

  /** @param error what ended the run, if anything */
  async #close(error?: unknown): Promise<void> {
    this.trained();
    const { events } = this.#recorder;
    if (error !== undefined && events.length > 0 && events.at(-1)?.event !== "end") {
      const { signal } = this.#context;
      const cause = signal.aborted ? signal.reason : error;
      const status: RunStatus = cause instanceof Interrupted ? "interrupted" : "failed";
      const message = status === "failed" ? { error: explain(cause) } : {};
      this.#recorder.end({ status, ...message, peak_rss_bytes: peakMemory().peak_rss_bytes });
      await this.#report();
    }
    await this.#recorder.close();
    await this.#page?.close();
  }

  async #report(): Promise<string | undefined> {
    if (this.folder === undefined) return undefined;
    try {
      return await writeReport(this.folder, this.#recorder.events);
    } catch (error) {
      this.#context.terminal.warn(`no report was written: ${(error as Error).message}`);
      return undefined;
    }
  }

  #sayAnswers(step: number, answers: readonly Answer[]): void {
    const { terminal } = this.#context;
    this.#progress?.stop();
    for (const { question, answer } of answers) {
      terminal.say(terminal.colors.dim(printable(`Step ${step}: ${question} → ${oneLine(answer)}`)));
    }
  }
}

/** Characters of an answer on the way; the page and the report have all of it. */
const SHOWN = 80;

function oneLine(text: string): string {
  const characters = [...text.replaceAll(/\s*\n\s*/g, " ⏎ ")];
  return characters.length <= SHOWN ? characters.join("") : `${characters.slice(0, SHOWN).join("")}…`;
}
