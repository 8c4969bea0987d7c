import type { Command } from "@commander-js/extra-typings";
import { DeviceLostError } from "@tslm/tensor";
import type { Context } from "../run.ts";
import type { TrainCommandOptions } from "./options.ts";
import { type ResumedRun, resumedRun } from "./resume.ts";

/**
 * Does a run, and where its device is lost in the middle (a GPU that was reset, taken out or is out of memory), goes on with it
 * on the processor: from the last checkpoint that the run saved, or from the beginning where it had none yet.
 *
 * @param run does it with these options, told where it goes on from; it calls `onSaved` for every checkpoint
 */
export async function onAnyDevice(
  context: Context,
  // biome-ignore lint/suspicious/noExplicitAny: whatever options it has.
  command: Command<any, any, any>,
  options: TrainCommandOptions,
  resumed: ResumedRun | undefined,
  run: (
    options: TrainCommandOptions,
    resumed: ResumedRun | undefined,
    onSaved: (folder: string) => void,
  ) => Promise<void>,
): Promise<void> {
  let saved: string | undefined = resumed?.checkpoint.folder;
  try {
    await run(options, resumed, (folder) => {
      saved = folder;
    });
  } catch (error) {
    const lost = lossBehind(error);
    if (lost === undefined || context.signal.aborted) throw error;
    const from = saved === undefined ? "from the beginning" : "from its last checkpoint";
    context.terminal.warn(`${lost.message}; the run goes on on the cpu, ${from}`);
    const again = saved === undefined ? undefined : await resumedRun(context, command, { ...options, resume: saved });
    await run({ ...options, device: "cpu" }, again?.resumed, () => {});
  }
}

/** The loss that an error was made of, as when a checkpoint could not be read from the device. */
function lossBehind(error: unknown): DeviceLostError | undefined {
  for (let one = error; one instanceof Error; one = one.cause) if (one instanceof DeviceLostError) return one;
  return undefined;
}
