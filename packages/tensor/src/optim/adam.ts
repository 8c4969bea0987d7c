import { noGrad } from "../autograd.ts";
import { scope } from "../memory.ts";
import type { Tensor } from "../tensor.ts";
import { type AdamWOptions, AdaptiveMoments } from "./adamw.ts";

/**
 * Adam (Kingma & Ba, 2015) with PyTorch's defaults: PyTorch's `torch.optim.Adam`, whose weight decay is a part of the
 * gradient. See {@link AdamW} for one that is not.
 */
export class Adam extends AdaptiveMoments {
  constructor(params: readonly Tensor[], options: AdamWOptions = {}) {
    super("Adam", params, options);
  }
  protected move(param: Tensor, grad: Tensor, index: number, lr: number, gradScale: Tensor | undefined): void {
    if (this.weightDecay === 0) {
      this.update(param, grad, index, lr, gradScale, 0);
      return;
    }
    scope(() =>
      noGrad(() => {
        const scaled = gradScale ? grad.mul(gradScale) : grad;
        const decayed = scaled.add(param.detach().mul(this.weightDecay));
        this.update(param, decayed, index, lr, undefined, 0);
      }),
    );
  }
}
