import { noGrad } from "../autograd.ts";
import { full, ones, zeros } from "../creation.ts";
import { ShapeError } from "../errors.ts";
import { Program } from "../expr/program.ts";
import { scope } from "../memory.ts";
import { batchNorm, channelAffine, channelMean, groupNorm, layerNorm, neg, square } from "../ops/index.ts";
import { type Shape, show } from "../shape.ts";
import type { Tensor, TensorOptions } from "../tensor.ts";
import { parameter } from "./layers.ts";
import { Module } from "./module.ts";

/** Settings of a normalisation made by `init`. */
export interface NormInitOptions extends TensorOptions {
  /** Added to the variance, 1e-5. */
  readonly eps?: number;
  /** Whether there are weight and bias, true: PyTorch's `affine` or `elementwise_affine`. */
  readonly affine?: boolean;
}

/** Weight 1 and bias 0. */
function affineOf(shape: Shape, { affine = true, dtype, device }: NormInitOptions) {
  if (!affine) return { weight: undefined, bias: undefined };
  return {
    weight: parameter(() => ones(shape, { dtype, device })),
    bias: parameter(() => zeros(shape, { dtype, device })),
  };
}

/**
 * (x − mean)/√(var + eps)·weight + bias over the last dimensions. Shapes: x [..., ...shape], weight and bias [...shape].
 * PyTorch's `nn.LayerNorm`.
 */
export class LayerNorm extends Module {
  readonly shape: Shape;
  weight: Tensor | undefined;
  bias: Tensor | undefined;
  readonly eps: number;
  constructor(shape: Shape, weight?: Tensor, bias?: Tensor, eps = 1e-5) {
    super();
    this.shape = shape;
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
  }
  static init(shape: number | Shape, options: NormInitOptions = {}): LayerNorm {
    const sizes = typeof shape === "number" ? [shape] : shape;
    const { weight, bias } = affineOf(sizes, options);
    return new LayerNorm(sizes, weight, bias, options.eps);
  }
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.shape, this.weight, this.bias, this.eps);
  }
}

/** Layer normalisation over groups of channels. Shapes: x [batch, channels, ...]. PyTorch's `nn.GroupNorm`. */
export class GroupNorm extends Module {
  readonly groups: number;
  weight: Tensor | undefined;
  bias: Tensor | undefined;
  readonly eps: number;
  constructor(groups: number, weight?: Tensor, bias?: Tensor, eps = 1e-5) {
    super();
    this.groups = groups;
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
  }
  static init(groups: number, channels: number, options: NormInitOptions = {}): GroupNorm {
    const { weight, bias } = affineOf([channels], options);
    return new GroupNorm(groups, weight, bias, options.eps);
  }
  forward(x: Tensor): Tensor {
    return groupNorm(x, this.groups, this.weight, this.bias, this.eps);
  }
}

const TOWARDS = Program.of(2, 1, ([old, now], [share]) => old.add(now.sub(old).mul(share)));

/**
 * Normalisation by the mean and variance of each channel: those of the batch in training, running means of them in
 * evaluation. Shapes: x [batch, channels, ...]. PyTorch's `nn.BatchNorm1d` and `nn.BatchNorm2d`.
 */
export class BatchNorm extends Module {
  weight: Tensor | undefined;
  bias: Tensor | undefined;
  running_mean: Tensor;
  running_var: Tensor;
  readonly eps: number;
  /** Share of the batch in the running statistics at each step. */
  readonly momentum: number;

  /** @param momentum share of the batch in the running statistics at each step */
  constructor(runningMean: Tensor, runningVar: Tensor, weight?: Tensor, bias?: Tensor, eps = 1e-5, momentum = 0.1) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.running_mean = runningMean;
    this.running_var = runningVar;
    this.eps = eps;
    this.momentum = momentum;
  }
  static init(channels: number, options: NormInitOptions & { readonly momentum?: number } = {}): BatchNorm {
    const { weight, bias } = affineOf([channels], options);
    const { dtype, device, eps, momentum } = options;
    const statistic = (value: number): Tensor => parameter(() => full([channels], value, { dtype, device }), false);
    return new BatchNorm(statistic(0), statistic(1), weight, bias, eps, momentum);
  }
  override get bufferNames(): readonly string[] {
    return ["running_mean", "running_var"];
  }
  forward(x: Tensor): Tensor {
    if (!this.training) return batchNorm(x, this.running_mean, this.running_var, this.weight, this.bias, this.eps);
    const channels = this.running_mean.size;
    if (x.rank < 2 || x.shape[1] !== channels)
      throw new ShapeError("BatchNorm", `needs [batch, ${channels}, ...], not ${show(x.shape)}`);
    const count = x.size / Math.max(1, channels);
    const batchMean = channelMean(x);
    const spread = channelMean(square(channelAffine(x, undefined, neg(batchMean))));
    noGrad(() =>
      scope(() => {
        this.#move(this.running_mean, batchMean.detach());
        this.#move(this.running_var, spread.detach().mul(count / Math.max(1, count - 1)));
      }),
    );
    return batchNorm(x, batchMean, spread, this.weight, this.bias, this.eps);
  }
  #move(running: Tensor, now: Tensor): void {
    running.device.elementwise(TOWARDS, [this.momentum], [running, now], running);
  }
}
