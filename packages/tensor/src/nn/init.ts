import { rand, randn } from "../creation.ts";
import type { RandomKey } from "../devices/device.ts";
import { ShapeError, TensorError } from "../errors.ts";
import { type Shape, show, sizeOf } from "../shape.ts";
import type { Tensor, TensorOptions } from "../tensor.ts";

/** What follows a layer, for {@link gain}. */
export type Nonlinearity = "linear" | "sigmoid" | "tanh" | "relu" | "leakyRelu" | "selu";

/** Settings of the Kaiming initialisers. */
export interface KaimingOptions extends TensorOptions {
  /** Slope below 0 of the leaky ReLU that follows, 0: PyTorch's `a`. */
  readonly slope?: number;
  /** Whether values or gradients keep their size, `fanIn`. */
  readonly mode?: "fanIn" | "fanOut";
  /** `leakyRelu` unless given. */
  readonly nonlinearity?: Nonlinearity;
}
/** Settings of the Xavier initialisers. */
export interface XavierOptions extends TensorOptions {
  /** Factor on the standard deviation, 1; see {@link gain}. */
  readonly gain?: number;
}

const GAINS: { readonly [K in Nonlinearity]: (slope: number) => number } = {
  linear: () => 1,
  sigmoid: () => 1,
  tanh: () => 5 / 3,
  relu: () => Math.SQRT2,
  leakyRelu: (slope) => Math.sqrt(2 / (1 + slope * slope)),
  selu: () => 3 / 4,
};

/** The factor by which a layer's weights must be larger for what follows it: PyTorch's `calculate_gain`. */
export function gain(nonlinearity: Nonlinearity, slope = 0.01): number {
  if (!Object.hasOwn(GAINS, nonlinearity))
    throw new TensorError("gain", `"${nonlinearity}" is none of ${Object.keys(GAINS).join(", ")}`);
  return GAINS[nonlinearity](slope);
}

/** How many numbers go into an output, and out of an input, of a weight [out, in, ...kernel]. */
function fans(op: string, shape: Shape): { fanIn: number; fanOut: number } {
  if (shape.length < 2) throw new ShapeError(op, `needs a weight of two dimensions or more, not ${show(shape)}`);
  const kernel = sizeOf(shape.slice(2));
  return { fanIn: shape[1] * kernel, fanOut: shape[0] * kernel };
}

function kaimingStd(op: string, shape: Shape, options: KaimingOptions): number {
  const { slope = 0, mode = "fanIn", nonlinearity = "leakyRelu" } = options;
  return gain(nonlinearity, slope) / Math.sqrt(Math.max(1, fans(op, shape)[mode]));
}
function xavierStd(op: string, shape: Shape, { gain: factor = 1 }: XavierOptions): number {
  const { fanIn, fanOut } = fans(op, shape);
  return factor * Math.sqrt(2 / Math.max(1, fanIn + fanOut));
}

/** Uniform in [−bound, bound). */
export function uniform(shape: Shape, bound: number, key: RandomKey, options?: TensorOptions): Tensor {
  return rand(shape, key, options)
    .mul(2 * bound)
    .sub(bound);
}
/** Normal with this standard deviation around 0. */
export function normal(shape: Shape, std: number, key: RandomKey, options?: TensorOptions): Tensor {
  return randn(shape, key, options).mul(std);
}
/** PyTorch's `kaiming_uniform_` (He et al., 2015) for a weight [out, in, ...kernel]. */
export function kaimingUniform(shape: Shape, key: RandomKey, options: KaimingOptions = {}): Tensor {
  return uniform(shape, Math.sqrt(3) * kaimingStd("kaimingUniform", shape, options), key, options);
}
/** PyTorch's `kaiming_normal_` (He et al., 2015) for a weight [out, in, ...kernel]. */
export function kaimingNormal(shape: Shape, key: RandomKey, options: KaimingOptions = {}): Tensor {
  return normal(shape, kaimingStd("kaimingNormal", shape, options), key, options);
}
/** PyTorch's `xavier_uniform_` (Glorot & Bengio, 2010) for a weight [out, in, ...kernel]. */
export function xavierUniform(shape: Shape, key: RandomKey, options: XavierOptions = {}): Tensor {
  return uniform(shape, Math.sqrt(3) * xavierStd("xavierUniform", shape, options), key, options);
}
/** PyTorch's `xavier_normal_` (Glorot & Bengio, 2010) for a weight [out, in, ...kernel]. */
export function xavierNormal(shape: Shape, key: RandomKey, options: XavierOptions = {}): Tensor {
  return normal(shape, xavierStd("xavierNormal", shape, options), key, options);
}
