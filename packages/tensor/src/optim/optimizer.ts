import { zeros } from "../creation.ts";
import { GradientError, ShapeError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { sameShape, show } from "../shape.ts";
import { Tensor } from "../tensor.ts";

/** Settings of every optimiser. */
export interface OptimizerOptions {
  /** Learning rate. */
  lr?: number;
  /** Factor on the rate of each parameter, 1: PyTorch's parameter groups. */
  rateFactors?: readonly number[];
}

/** What moves parameters along their gradients: PyTorch's `torch.optim.Optimizer`. */
export abstract class Optimizer {
  readonly params: readonly Tensor[];
  readonly rateFactors: readonly number[] | undefined;
  /** Learning rate of the next step; a schedule sets it. */
  lr: number;
  /** Steps done. */
  steps = 0;

  /** @throws GradientError where a parameter is no leaf that requires a gradient */
  constructor(name: string, params: readonly Tensor[], lr: number, rateFactors: readonly number[] | undefined) {
    const frozen = params.findIndex((p) => !p.requiresGrad || p.node);
    if (frozen >= 0) throw new GradientError(name, `parameter ${frozen} is no leaf that requires a gradient`);
    this.params = params;
    this.lr = lr;
    this.rateFactors = rateFactors;
  }

  /** What is remembered from step to step, by name: a tensor for each parameter. */
  abstract get slots(): Readonly<Record<string, readonly Tensor[]>>;
  /** Moves a parameter that has a gradient. */
  protected abstract move(param: Tensor, grad: Tensor, index: number, lr: number, gradScale: Tensor | undefined): void;

  /** Moves every parameter that has a gradient. `gradScale` (a tensor of one number) multiplies the gradients first. */
  step(gradScale?: Tensor): void {
    this.steps++;
    this.params.forEach((param, i) => {
      if (param.grad) this.move(param, param.grad, i, this.lr * (this.rateFactors?.[i] ?? 1), gradScale);
    });
  }
  /** Drops all gradients. */
  zeroGrad(): void {
    for (const p of this.params) {
      p.grad?.dispose();
      p.grad = undefined;
    }
  }
  /** 0 for each parameter, kept until {@link dispose}. */
  protected remembered(): Tensor[] {
    return this.params.map((p) => zeros(p.shape, { dtype: p.dtype, device: p.device }).keep());
  }

  /** All that is remembered, to be written to a file: `momentum.0`, …, and `steps`, i32 [1]. PyTorch's `state_dict`. */
  stateDict(): Map<string, Tensor> {
    const tensors = Object.entries(this.slots).flatMap(([name, list]) =>
      list.map((t, i): [string, Tensor] => [`${name}.${i}`, t]),
    );
    return new Map([...tensors, ["steps", Tensor.from([this.steps], [1], { dtype: "i32" })]]);
  }
  /**
   * Goes on from what {@link stateDict} gave: PyTorch's `load_state_dict`.
   * @throws ShapeError where a tensor is missing or of another shape
   */
  async loadStateDict(state: ReadonlyMap<string, Tensor>): Promise<void> {
    const steps = state.get("steps");
    const pairs = Object.entries(this.slots).flatMap(([name, list]) =>
      list.map((t, i) => ({ name: `${name}.${i}`, t, given: state.get(`${name}.${i}`) })),
    );
    for (const { name, t, given } of [...pairs, { name: "steps", t: { shape: [1] }, given: steps }]) {
      if (!given) throw new ShapeError("loadStateDict", `${name} is missing`);
      if (!sameShape(given.shape, t.shape))
        throw new ShapeError("loadStateDict", `${name} is ${show(given.shape)}, not ${show(t.shape)}`);
    }
    for (const { t, given } of pairs) t.device.elementwise(IDENTITY, [], [given!], t);
    this.steps = await steps!.item();
  }
  /** Gives back what is remembered; parameters and gradients stay. */
  dispose(): void {
    for (const t of Object.values(this.slots).flat()) t.dispose();
  }
}
