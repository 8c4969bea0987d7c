import type { Tensor } from "../tensor.ts";
import { Optimizer, type OptimizerOptions } from "./optimizer.ts";

/** Settings of {@link AdamW}; the defaults are those of PyTorch but for the decay. */
export interface AdamWOptions extends OptimizerOptions {
  /** Learning rate, 1e-3. */
  lr?: number;
  /** Shares kept of the first and second moments at each step, 0.9 and 0.999. */
  betas?: readonly [number, number];
  /** Added to the root of the second moment, 1e-8. */
  eps?: number;
  /** Share of each parameter, times the rate, taken off at each step, 0. */
  weightDecay?: number;
}

/** What {@link Adam} and {@link AdamW} have in common: a mean of each gradient, and one of its square. */
export abstract class AdaptiveMoments extends Optimizer {
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  /** First and second moments, by parameter. */
  readonly m: readonly Tensor[];
  readonly v: readonly Tensor[];

  constructor(
    name: string,
    params: readonly Tensor[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, rateFactors }: AdamWOptions,
  ) {
    super(name, params, lr, rateFactors);
    this.betas = betas;
    this.eps = eps;
    this.weightDecay = weightDecay;
    this.m = this.remembered();
    this.v = this.remembered();
  }
  get slots(): Readonly<Record<string, readonly Tensor[]>> {
    return { m: this.m, v: this.v };
  }
  /** One step of one parameter, `weightDecay` of it taken off apart from the gradient. */
  protected update(
    param: Tensor,
    grad: Tensor,
    index: number,
    lr: number,
    gradScale: Tensor | undefined,
    weightDecay: number,
  ): void {
    param.device.adamW({
      ...{ param, grad, m: this.m[index], v: this.v[index], lr, gradScale },
      ...{ beta1: this.betas[0], beta2: this.betas[1], eps: this.eps },
      ...{ weightDecay, step: this.steps },
    });
  }
}

/** Adam with decoupled weight decay (Loshchilov & Hutter, 2019), with PyTorch's defaults but for the decay, 0 here. */
export class AdamW extends AdaptiveMoments {
  constructor(params: readonly Tensor[], options: AdamWOptions = {}) {
    super("AdamW", params, options);
  }
  protected move(param: Tensor, grad: Tensor, index: number, lr: number, gradScale: Tensor | undefined): void {
    this.update(param, grad, index, lr, gradScale, this.weightDecay);
  }
}
