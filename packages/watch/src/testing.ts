import type { RunStart, StepMeasures } from "./recorder.ts";

/** A run of the tests. */
export const START: RunStart = {
  model: { name: "demo", parameters: 1000, trainable: 10 },
  data: { file: "rows.csv", examples: 5, tokens: 200 },
  options: { recipe: "default", rank: 8, lr: 2e-4, epochs: 3, targets: ["q_proj", "v_proj"] },
  device: { name: "cpu", isa: "avx2", threads: 2 },
  adapter: "model/lora_adapter",
  total_steps: 6,
};

/** A step whose numbers follow from which it is. */
export function measures(step: number): StepMeasures {
  const half = 2 ** -step;
  return {
    ...{ step, epoch: Math.ceil(step / 2), loss: half, token_accuracy: 1 - half },
    ...{ grad_norm: 2 * half, lr: 2e-4 * (1 - step / 6), tokens: 100, seconds: 0.5 },
  };
}
