import { full, scope, Tensor } from "@tslm/tensor";
import type { Lora } from "../lora.ts";
import type { PlacedPass, TrainableModel } from "./pass.ts";

/** Loss of a pass, its gradients added to the adapter's, and how many of its tokens were predicted. */
export function runPass(model: TrainableModel, lora: Lora, pass: PlacedPass): { loss: Tensor; correct: Tensor } {
  const [{ device }] = lora.parameters();
  return scope(() => {
    const { rows, ...rest } = pass;
    lora.dropout.rows = Tensor.from(rows, [rows.length / 2, 2], { dtype: "i32", device });
    try {
      const correct = full([predictions(pass.targets)], -1, { device });
      const loss = model.loss({ ...rest, correct });
      loss.backward();
      return { loss: loss.detach(), correct: correct.sum() };
    } finally {
      lora.dropout.rows = undefined;
    }
  });
}

/** Rows that predict a token. */
export function predictions(targets: Int32Array): number {
  return targets.reduce((n, target) => n + (target >= 0 ? 1 : 0), 0);
}
