import { DTypeError, ShapeError } from "../errors.ts";
import { show } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { mul } from "./elementwise.ts";
import { embedding } from "./embedding.ts";
import { logSoftmax, mean } from "./reduce.ts";

/**
 * Mean of −log softmax(logits)[target]: PyTorch's `cross_entropy`. Shapes: logits [rows, classes], targets i32 [rows];
 * a negative target is left out of the mean.
 */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  const [rows, classes] = logits.shape;
  if (logits.rank !== 2 || targets.rank !== 1 || targets.shape[0] !== rows) {
    throw new ShapeError(
      "crossEntropy",
      `needs logits [rows, classes] and targets [rows]: ${show(logits.shape)}, ${show(targets.shape)}`,
    );
  }
  if (targets.dtype !== "i32") throw new DTypeError("crossEntropy", `targets must be i32, not ${targets.dtype}`);
  const first = Tensor.from(
    Int32Array.from({ length: rows }, (_, i) => i * classes),
    [rows],
    { dtype: "i32", device: logits.device },
  );
  const counted = targets.ge(0);
  const picked = embedding(logSoftmax(logits).reshape(rows * classes), targets.maximum(0).add(first));
  return mul(picked, counted).sum().div(counted.sum()).neg();
}

/** Mean squared difference: PyTorch's `mse_loss`. */
export function mseLoss(input: Tensor, target: Tensor): Tensor {
  return mean(input.sub(target).square());
}
