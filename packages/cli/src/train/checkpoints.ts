import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  CHECKPOINTS_FOLDER,
  Checkpoints,
  type CheckpointsOptions,
  leftCheckpoint,
  type StateKeeper,
  type TrainingState,
} from "@tslm/lora";
import { CommandError, explain } from "../errors.ts";
import type { Context } from "../run.ts";
import { shellWord } from "../terminal.ts";

/** How a run is gone on with. */
export function resumeCommand(out: string): string {
  return `bun run train --resume ${shellWord(out)}`;
}

/**
 * Keeps a run's checkpoints and says at any time what an interruption leaves. While steps are done that no checkpoint
 * holds, an interruption waits for the end of the running pass, to save them.
 */
export class RunCheckpoints implements StateKeeper {
  readonly #context: Context;
  readonly #out: string;
  readonly #checkpoints: Checkpoints;
  readonly #keptBefore: string;
  /** Was a checkpoint of the end asked for? */
  readonly #isKept: boolean;
  #release: (() => void) | undefined;

  constructor(context: Context, out: string, options: Omit<CheckpointsOptions, "folder">) {
    this.#context = context;
    this.#out = out;
    this.#checkpoints = new Checkpoints({ ...options, folder: join(out, CHECKPOINTS_FOLDER) });
    this.#keptBefore = context.kept;
    this.#isKept = (options.saveEvery ?? 0) > 0;
    if (options.resumed) this.#tell(options.resumed.total);
  }

  async keep(state: TrainingState, total: number, when: Parameters<StateKeeper["keep"]>[2]): Promise<void> {
    // The adapter is saved when its answers have been judged; until then the run's end must not be lost.
    if (when === "end") this.#checkpoints.request();
    try {
      await this.#checkpoints.keep(state, total, when);
    } catch (cause) {
      const sentence = `${explain(cause)}${this.#hint}`;
      if (when === "end" && !this.#isKept) {
        this.#context.terminal.warn(sentence);
        this.#letGo();
        return;
      }
      this.#context.kept = `${this.#keptBefore} The checkpoint of step ${state.step} could not be saved: ${sentence}`;
      throw new CommandError(sentence, { cause });
    }
    this.#tell(total);
    const isSaved = this.#checkpoints.last?.step === state.step;
    if (isSaved || when !== "step") this.#letGo();
    else this.#hold();
  }

  /** Saves a checkpoint after the running step. */
  request(): void {
    this.#checkpoints.request();
  }

  /** To stand behind an error: what there is to go on from. */
  get #hint(): string {
    const { last } = this.#checkpoints;
    if (last === undefined) return "";
    if (!existsSync(last.folder)) return "; its checkpoints have vanished with their folder";
    return `; the last good checkpoint, ${last.folder}, is of step ${last.step}: go on from it with  ${resumeCommand(this.#out)}`;
  }

  /** Does what writes the adapter; where that fails, the error says what there is to go on from. */
  async explaining(save: () => Promise<void>): Promise<void> {
    try {
      await save();
    } catch (cause) {
      throw new CommandError(`${explain(cause)}${this.#hint}`, { cause });
    }
  }

  /** The run is over: nothing is waited for any more. */
  end(): void {
    this.#letGo();
  }

  /** Removes the checkpoints, when the adapter is saved. */
  async remove(): Promise<void> {
    await this.#checkpoints.remove();
  }

  #tell(total: number): void {
    const { last } = this.#checkpoints;
    if (last === undefined) return;
    this.#context.kept = `${this.#keptBefore} Step ${last.step} of ${total} is saved in ${last.folder}. Go on with:  ${resumeCommand(this.#out)}`;
  }
  #hold(): void {
    if (this.#release) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#release = resolve;
    void this.#context.whole(() => promise);
  }
  #letGo(): void {
    this.#release?.();
    this.#release = undefined;
  }
}

/** Warns of an earlier run's checkpoints, which a new run in the same folder replaces. */
export async function warnOfCheckpoints({ terminal }: Context, out: string): Promise<void> {
  const step = await leftCheckpoint(out);
  if (step === undefined) return;
  terminal.warn(
    `${out} holds checkpoints of an earlier run, up to step ${step}; this run begins anew and replaces them. To go on with that one instead:  ${resumeCommand(out)}`,
  );
}
