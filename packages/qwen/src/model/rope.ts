import { Tensor, type TensorOptions } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";

/**
 * Radians per position of each pair of a head, f32 [headDim / 2]: θ^(−2i/headDim), every step rounded to f32 as
 * transformers computes its `inv_freq`.
 */
export function ropeFrequencies(config: ModelConfig, options: Pick<TensorOptions, "device"> = {}): Tensor {
  const { headDim, ropeTheta } = config;
  const values = Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const exponent = Math.fround((2 * i) / headDim);
    return 1 / Math.fround(ropeTheta ** exponent);
  });
  return Tensor.from(values, [values.length], options);
}
