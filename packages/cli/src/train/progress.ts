import { type Lora, train as runTraining, type SequenceReport, type StepResult, type TrainResult } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { Progress } from "../progress.ts";
import type { Context } from "../run.ts";
import type { settingsOf } from "./options.ts";

/** Trains, with a line that tells how it goes. */
export async function runWithProgress(
  { terminal, signal }: Context,
  { model }: Qwen,
  lora: Lora,
  { sequences }: SequenceReport,
  options: ReturnType<typeof settingsOf>,
): Promise<TrainResult> {
  const progress = new Progress(terminal, "Training");
  let [tokens, seconds] = [0, 0];
  const onStep = (step: StepResult, total: number): void => {
    tokens += step.tokens;
    seconds += step.seconds;
    const rate = `${(tokens / seconds).toFixed(0)} tokens/s`;
    const note = `epoch ${step.epoch}/${options.epochs} · loss ${step.loss.toFixed(3)} · rate ${step.lr.toExponential(1)} · ${rate}`;
    progress.update(step.step / total, note);
  };
  try {
    return await runTraining({ model, lora, sequences, options, signal, onStep });
  } finally {
    progress.stop();
  }
}
