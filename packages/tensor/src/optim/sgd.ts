import { TensorError } from "../errors.ts";
import type { Expr } from "../expr/expr.ts";
import { Program } from "../expr/program.ts";
import { broadcastView } from "../ops/views.ts";
import type { Tensor } from "../tensor.ts";
import { Optimizer, type OptimizerOptions } from "./optimizer.ts";

/** Settings of {@link SGD}, with PyTorch's defaults. */
export interface SGDOptions extends OptimizerOptions {
  /** Learning rate, 1e-3. */
  lr?: number;
  /** Share kept of the velocity at each step, 0. */
  momentum?: number;
  /** Share of the gradient that does not enter the velocity, 0. */
  dampening?: number;
  /** A look ahead along the velocity (Nesterov, 1983), false. */
  nesterov?: boolean;
  /** Factor on the parameter that is added to its gradient, 0. */
  weightDecay?: number;
}

/** The gradient with its decay, from [parameter, gradient, …, perhaps a factor on it last]. */
const gradientExpr = (x: readonly Expr[], scaled: boolean, decay: Expr): Expr =>
  (scaled ? x[1].mul(x[x.length - 1]) : x[1]).add(x[0].mul(decay));

function programs(scaled: boolean) {
  const extra = Number(scaled);
  return {
    plain: Program.of(2 + extra, 2, (x, [lr, decay]) => x[0].sub(gradientExpr(x, scaled, decay).mul(lr))),
    velocity: Program.of(3 + extra, 3, (x, [decay, momentum, share]) =>
      x[2].mul(momentum).add(gradientExpr(x, scaled, decay).mul(share)),
    ),
    along: Program.of(3 + extra, 2, (x, [lr]) => x[0].sub(x[2].mul(lr))),
    ahead: Program.of(3 + extra, 3, (x, [lr, decay, momentum]) =>
      x[0].sub(gradientExpr(x, scaled, decay).add(x[2].mul(momentum)).mul(lr)),
    ),
  };
}
const PROGRAMS = [programs(false), programs(true)] as const;

/** Gradient descent, with momentum (Polyak, 1964) if wanted: PyTorch's `torch.optim.SGD`. */
export class SGD extends Optimizer {
  readonly momentum: number;
  readonly dampening: number;
  readonly nesterov: boolean;
  readonly weightDecay: number;
  /** Velocity by parameter; none without momentum. */
  readonly velocity: readonly Tensor[];
  readonly #moved: boolean[];

  /** @throws TensorError where Nesterov's look ahead has no momentum, or some dampening */
  constructor(
    params: readonly Tensor[],
    { lr = 1e-3, momentum = 0, dampening = 0, nesterov = false, weightDecay = 0, rateFactors }: SGDOptions = {},
  ) {
    super("SGD", params, lr, rateFactors);
    if (nesterov && (momentum <= 0 || dampening !== 0))
      throw new TensorError("SGD", "nesterov needs a momentum above 0 and no dampening");
    this.momentum = momentum;
    this.dampening = dampening;
    this.nesterov = nesterov;
    this.weightDecay = weightDecay;
    this.velocity = momentum === 0 ? [] : this.remembered();
    this.#moved = params.map(() => false);
  }
  get slots(): Readonly<Record<string, readonly Tensor[]>> {
    return { velocity: this.velocity };
  }
  override async loadStateDict(state: ReadonlyMap<string, Tensor>): Promise<void> {
    await super.loadStateDict(state);
    if (this.steps > 0) this.#moved.fill(true);
  }
  protected move(param: Tensor, grad: Tensor, index: number, lr: number, gradScale: Tensor | undefined): void {
    const { device, shape } = param;
    const { momentum, weightDecay: decay } = this;
    const { plain, velocity: gain, along, ahead } = PROGRAMS[gradScale ? 1 : 0];
    const scale = gradScale ? [broadcastView(gradScale, shape)] : [];
    if (momentum === 0) {
      device.elementwise(plain, [lr, decay], [param, grad, ...scale], param);
      return;
    }
    const velocity = this.velocity[index];
    // The first velocity is the whole gradient.
    const share = this.#moved[index] ? 1 - this.dampening : 1;
    this.#moved[index] = true;
    const inputs = [param, grad, velocity, ...scale];
    device.elementwise(gain, [decay, momentum, share], inputs, velocity);
    if (this.nesterov) device.elementwise(ahead, [lr, decay, momentum], inputs, param);
    else device.elementwise(along, [lr, decay], inputs, param);
  }
}
