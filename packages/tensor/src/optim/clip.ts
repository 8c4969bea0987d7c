import { noGrad } from "../autograd.ts";
import { zeros } from "../creation.ts";
import { Program } from "../expr/program.ts";
import { scope } from "../memory.ts";
import { reciprocal } from "../ops/math.ts";
import { broadcastView } from "../ops/views.ts";
import type { Tensor } from "../tensor.ts";

const SQUARE = Program.of(1, 0, ([x]) => x.mul(x));

/**
 * The Euclidean norm of all gradients together, and the factor that brings it down to `maxNorm` (1 where it is lower):
 * PyTorch's `clip_grad_norm_`, the factor handed to the optimiser instead of applied. Both tensors of shape [1] stay on
 * the device; the caller disposes of them or is in a scope.
 */
export function clipGradNorm(params: readonly Tensor[], maxNorm: number): { norm: Tensor; gradScale: Tensor } {
  return scope(() =>
    noGrad(() => {
      const grads = params.flatMap((p) => (p.grad ? [p.grad] : []));
      const total = zeros([1], { device: params[0]?.device, dtype: params[0]?.dtype });
      for (const grad of grads) {
        const flat = grad.reshape(grad.size);
        grad.device.reduce("sum", SQUARE, [], [flat], broadcastView(total, flat.shape), true);
      }
      const norm = total.sqrt();
      return { norm, gradScale: reciprocal(norm.add(1e-6)).mul(maxNorm).minimum(1) };
    }),
  );
}
