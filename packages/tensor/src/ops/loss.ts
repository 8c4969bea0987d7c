import { DTypeError, ShapeError } from "../errors.ts";
import { show } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { embedding } from "./embedding.ts";
import { logSoftmax, mean } from "./reduce.ts";

/**
 * Mean of −log softmax(logits)[target]: PyTorch's `cross_entropy`. Shapes: logits [rows, classes], targets i32 [rows].
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
  return mean(embedding(logSoftmax(logits).reshape(rows * classes), targets.add(first))).neg();
}

/** Mean squared difference: PyTorch's `mse_loss`. */
export function mseLoss(input: Tensor, target: Tensor): Tensor {
  return mean(input.sub(target).square());
}
