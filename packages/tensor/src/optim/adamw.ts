import { zeros } from "../creation.ts";
import { GradientError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/** Settings of {@link AdamW}; the defaults are those of PyTorch but for the decay. */
export interface AdamWOptions {
  /** Learning rate, 1e-3. */
  lr?: number;
  /** Shares kept of the first and second moments at each step, 0.9 and 0.999. */
  betas?: readonly [number, number];
  /** Added to the root of the second moment, 1e-8. */
  eps?: number;
  /** Share of each parameter, times the rate, taken off at each step, 0. */
  weightDecay?: number;
  /** Factor on the rate of each parameter, 1: PyTorch's parameter groups. */
  rateFactors?: readonly number[];
}

/** Adam with decoupled weight decay (Loshchilov & Hutter, 2019), with PyTorch's defaults but for the decay, 0 here. */
export class AdamW {
  readonly params: readonly Tensor[];
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  readonly rateFactors: readonly number[] | undefined;
  /** Learning rate of the next step; a schedule sets it. */
  lr: number;
  /** First and second moments, by parameter. */
  readonly m: readonly Tensor[];
  readonly v: readonly Tensor[];
  /** Steps done. */
  steps = 0;

  constructor(
    params: readonly Tensor[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, rateFactors }: AdamWOptions = {},
  ) {
    const frozen = params.findIndex((p) => !p.requiresGrad || p.node);
    if (frozen >= 0) throw new GradientError("AdamW", `parameter ${frozen} is no leaf that requires a gradient`);
    this.params = params;
    this.lr = lr;
    this.betas = betas;
    this.eps = eps;
    this.weightDecay = weightDecay;
    this.rateFactors = rateFactors;
    const moments = (): Tensor[] => params.map((p) => zeros(p.shape, { dtype: p.dtype, device: p.device }).keep());
    this.m = moments();
    this.v = moments();
  }

  /** Moves every parameter that has a gradient. `gradScale` (a tensor of one number) multiplies the gradients first. */
  step(gradScale?: Tensor): void {
    this.steps++;
    this.params.forEach((param, i) => {
      if (!param.grad) return;
      param.device.adamW({
        param,
        grad: param.grad,
        m: this.m[i],
        v: this.v[i],
        lr: this.lr * (this.rateFactors?.[i] ?? 1),
        beta1: this.betas[0],
        beta2: this.betas[1],
        eps: this.eps,
        weightDecay: this.weightDecay,
        step: this.steps,
        gradScale,
      });
    });
  }
  /** Drops all gradients. */
  zeroGrad(): void {
    for (const p of this.params) {
      p.grad?.dispose();
      p.grad = undefined;
    }
  }
  dispose(): void {
    for (const t of [...this.m, ...this.v]) t.dispose();
  }
}
