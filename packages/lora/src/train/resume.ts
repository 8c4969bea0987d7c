import { CheckpointError } from "../errors.ts";
import type { Checkpoint, RunSettings } from "./checkpoint.ts";

/** The option that may differ, and those that decide whether it may. */
const EPOCHS = "epochs";

/**
 * A checkpoint can only be gone on from with the model, data and settings that it was made with. The epochs may be raised
 * where the learning rate of a step does not depend on the number of steps: with the constant schedule without warm-up.
 *
 * @param nameOf what to call an option
 * @throws CheckpointError naming what differs
 */
export function checkResumable(
  { folder, settings: saved }: Pick<Checkpoint, "folder" | "settings">,
  now: RunSettings,
  nameOf: (option: string) => string = (option) => option,
): void {
  const refuse = (problem: string): never => {
    throw new CheckpointError(`${folder} cannot be gone on from: ${problem}`);
  };
  const show = (value: unknown): string => (value === undefined ? "not set" : JSON.stringify(value));
  for (const option of new Set([...Object.keys(saved.options), ...Object.keys(now.options)])) {
    const [before, after] = [saved.options[option], now.options[option]];
    if (JSON.stringify(before) === JSON.stringify(after)) continue;
    const differs = `${nameOf(option)} is ${show(after)} now and was ${show(before)}`;
    if (option !== EPOCHS) refuse(`${differs}; leave it out, or begin anew`);
    else if (!mayRaiseEpochs(saved.options)) {
      const { scheduler, warmup } = saved.options;
      const why =
        scheduler === "constant" ? `with a warm-up of ${show(warmup)}` : `with the schedule ${show(scheduler)}`;
      refuse(`${differs}; ${why} every step's rate depends on the number of epochs, so it can only be the same`);
    } else if (Number(after) < Number(before)) refuse(`${differs}; epochs can only be raised`);
  }
  const differs = (what: string) => `${what} is not the one that the run began with; give that one, or begin anew`;
  if (saved.base_model !== now.base_model) refuse(differs("the base model"));
  if (saved.data !== now.data) refuse(differs("the training data"));
  if (saved.validation !== now.validation) refuse(differs("the validation data"));
}

function mayRaiseEpochs({ scheduler, warmup }: Readonly<Record<string, unknown>>): boolean {
  return scheduler === "constant" && !warmup;
}
