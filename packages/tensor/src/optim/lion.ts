import { Program } from "../expr/program.ts";
import { broadcastView } from "../ops/views.ts";
import type { Tensor } from "../tensor.ts";
import { Optimizer, type OptimizerOptions } from "./optimizer.ts";

/** Settings of {@link Lion}, with its paper's defaults. */
export interface LionOptions extends OptimizerOptions {
  /** Learning rate, 1e-4; a third to a tenth of what AdamW takes. */
  lr?: number;
  /** Share kept of the momentum in the direction of a step, and from step to step: 0.9 and 0.99. */
  betas?: readonly [number, number];
  /** Share of each parameter, times the rate, taken off at each step, 0; three to ten times that of AdamW. */
  weightDecay?: number;
}

function programs(scaled: boolean) {
  const inputs = 3 + Number(scaled);
  return {
    step: Program.of(inputs, 3, ([p, grad, m, scale], [lr, beta1, decay]) => {
      const g = scaled ? grad.mul(scale) : grad;
      const direction = m
        .mul(beta1)
        .add(g.sub(g.mul(beta1)))
        .sign();
      return p.sub(p.mul(decay).add(direction).mul(lr));
    }),
    momentum: Program.of(inputs, 1, ([, grad, m, scale], [beta2]) => {
      const g = scaled ? grad.mul(scale) : grad;
      return m.mul(beta2).add(g.sub(g.mul(beta2)));
    }),
  };
}
const PROGRAMS = [programs(false), programs(true)] as const;

/** Steps of one size along the sign of a momentum (Chen et al., 2023), with decoupled decay. Half of AdamW's memory. */
export class Lion extends Optimizer {
  readonly betas: readonly [number, number];
  readonly weightDecay: number;
  /** Momentum by parameter. */
  readonly m: readonly Tensor[];

  constructor(
    params: readonly Tensor[],
    { lr = 1e-4, betas = [0.9, 0.99], weightDecay = 0, rateFactors }: LionOptions = {},
  ) {
    super("Lion", params, lr, rateFactors);
    this.betas = betas;
    this.weightDecay = weightDecay;
    this.m = this.remembered();
  }
  get slots(): Readonly<Record<string, readonly Tensor[]>> {
    return { m: this.m };
  }
  protected move(param: Tensor, grad: Tensor, index: number, lr: number, gradScale: Tensor | undefined): void {
    const m = this.m[index];
    const { step, momentum } = PROGRAMS[gradScale ? 1 : 0];
    const inputs = [param, grad, m, ...(gradScale ? [broadcastView(gradScale, param.shape)] : [])];
    param.device.elementwise(step, [lr, this.betas[0], this.weightDecay], inputs, param);
    param.device.elementwise(momentum, [this.betas[1]], inputs, m);
  }
}
