import { noGrad } from "../autograd.ts";
import { scope } from "../memory.ts";
import type { Tensor } from "../tensor.ts";
import type { AdamWOptions } from "./adamw.ts";
import { Optimizer } from "./optimizer.ts";

/**
 * Adam (Kingma & Ba, 2015) with PyTorch's defaults: PyTorch's `torch.optim.Adam`, whose weight decay is a part of the
 * gradient. See {@link AdamW} for one that is not.
 */
export class Adam extends Optimizer {
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  /** First and second moments, by parameter. */
  readonly m: readonly Tensor[];
  readonly v: readonly Tensor[];

  constructor(
    params: readonly Tensor[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, rateFactors }: AdamWOptions = {},
  ) {
    super("Adam", params, lr, rateFactors);
    this.betas = betas;
    this.eps = eps;
    this.weightDecay = weightDecay;
    this.m = this.remembered();
    this.v = this.remembered();
  }
  get slots(): Readonly<Record<string, readonly Tensor[]>> {
    return { m: this.m, v: this.v };
  }
  protected move(param: Tensor, grad: Tensor, index: number, lr: number, gradScale: Tensor | undefined): void {
    const step = (gradient: Tensor, scale: Tensor | undefined): void =>
      param.device.adamW({
        ...{ param, grad: gradient, m: this.m[index], v: this.v[index], lr, gradScale: scale },
        ...{ beta1: this.betas[0], beta2: this.betas[1], eps: this.eps },
        ...{ weightDecay: 0, step: this.steps },
      });
    if (this.weightDecay === 0) {
      step(grad, gradScale);
      return;
    }
    scope(() =>
      noGrad(() => {
        const scaled = gradScale ? grad.mul(gradScale) : grad;
        step(scaled.add(param.detach().mul(this.weightDecay)), undefined);
      }),
    );
  }
}
