import { Worker } from "node:worker_threads";
import type { EventSink, RunEvent } from "../events.ts";
import { PageError } from "./listen.ts";
import type { FromPage, PageAction, PageThreadOptions, ToPage } from "./protocol.ts";

export type { PageAction } from "./protocol.ts";

export interface LivePageOptions {
  /** Undefined: 8010, or a free one where that is in use. */
  port?: number;
  /** Called between two passes of the training when someone pressed a button. */
  onAction: (action: PageAction) => void;
}

/** How long the last events may take to reach the pages when a run ends. */
const CLOSE_MS = 2000;

/** The page on which a run can be watched, stopped and saved, in a thread of its own. */
export class LivePage implements EventSink {
  /** Where to open it. */
  readonly url: string;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  #isClosed = false;

  private constructor(worker: Worker, url: string, ended: Promise<void>) {
    this.#worker = worker;
    this.url = url;
    this.#ended = ended;
  }

  /** @throws PageError when the port cannot be had */
  static async open({ port, onAction }: LivePageOptions): Promise<LivePage> {
    const workerData: PageThreadOptions = { port };
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData });
    const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
    const url = await new Promise<string>((resolve, reject) => {
      worker.once("error", reject);
      worker.on("message", (message: FromPage) => {
        if (message.kind === "listening") resolve(message.url);
        if (message.kind === "failed") reject(new PageError(message.message));
        if (message.kind === "action") onAction(message.action);
      });
    }).catch(async (error) => {
      await worker.terminate();
      throw error;
    });
    return new LivePage(worker, url, ended);
  }

  write(event: RunEvent): void {
    this.#worker.postMessage({ kind: "event", event } satisfies ToPage);
  }

  /** Lets the last events reach the pages that are open. Calling it again does nothing. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#worker.postMessage({ kind: "close" } satisfies ToPage);
    await Promise.race([this.#ended, Bun.sleep(CLOSE_MS)]);
    await this.#worker.terminate();
  }
}
