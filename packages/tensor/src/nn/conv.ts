import type { Generator } from "../creation.ts";
import * as ops from "../ops/index.ts";
import { sizeOf } from "../shape.ts";
import type { Tensor, TensorOptions } from "../tensor.ts";
import { uniform } from "./init.ts";
import { parameter } from "./layers.ts";
import { Module } from "./module.ts";

/** Settings of a convolution made by `init`. */
export interface ConvInitOptions extends TensorOptions, ops.ConvOptions {
  /** Whether a bias is added, true. */
  readonly bias?: boolean;
}

/** Weight and bias as PyTorch initialises them: Kaiming-uniform with a = √5, the bias in the same bounds. */
function make(
  channels: number,
  out: number,
  kernel: readonly number[],
  random: Generator,
  { bias = true, groups = 1, dtype, device }: ConvInitOptions,
): { weight: Tensor; bias: Tensor | undefined } {
  const shape = [out, channels / groups, ...kernel];
  const bound = 1 / Math.sqrt(sizeOf(shape.slice(1)));
  return {
    weight: parameter(() => uniform(shape, bound, random.next(), { dtype, device })),
    bias: bias ? parameter(() => uniform([out], bound, random.next(), { dtype, device })) : undefined,
  };
}

/**
 * Convolution over sequences. Shapes: x [batch, in, length], weight [out, in/groups, size], bias [out], result [batch, out,
 * length']. PyTorch's `nn.Conv1d`.
 */
export class Conv1d extends Module {
  weight: Tensor;
  bias: Tensor | undefined;
  readonly options: ops.ConvOptions;

  constructor(weight: Tensor, bias?: Tensor, options: ops.ConvOptions = {}) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.options = options;
  }
  /** @param size elements of the kernel */
  static init(channels: number, out: number, size: number, random: Generator, options: ConvInitOptions = {}): Conv1d {
    const { weight, bias } = make(channels, out, [size], random, options);
    return new Conv1d(weight, bias, options);
  }
  forward(x: Tensor): Tensor {
    return ops.conv1d(x, this.weight, this.bias, this.options);
  }
}

/**
 * Convolution over pictures. Shapes: x [batch, in, height, width], weight [out, in/groups, kernel height, kernel width],
 * bias [out], result [batch, out, height', width']. PyTorch's `nn.Conv2d`.
 */
export class Conv2d extends Module {
  weight: Tensor;
  bias: Tensor | undefined;
  readonly options: ops.ConvOptions;

  constructor(weight: Tensor, bias?: Tensor, options: ops.ConvOptions = {}) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.options = options;
  }
  /** @param size height and width of the kernel; one number stands for both */
  static init(
    channels: number,
    out: number,
    size: number | readonly [number, number],
    random: Generator,
    options: ConvInitOptions = {},
  ): Conv2d {
    const { weight, bias } = make(channels, out, typeof size === "number" ? [size, size] : size, random, options);
    return new Conv2d(weight, bias, options);
  }
  forward(x: Tensor): Tensor {
    return ops.conv2d(x, this.weight, this.bias, this.options);
  }
}

/** The largest of each window. PyTorch's `nn.MaxPool2d`. */
export class MaxPool2d extends Module {
  readonly size: number | readonly number[];
  readonly options: ops.MaxPoolOptions;
  constructor(size: number | readonly number[], options: ops.MaxPoolOptions = {}) {
    super();
    this.size = size;
    this.options = options;
  }
  forward(x: Tensor): Tensor {
    return ops.maxPool2d(x, this.size, this.options);
  }
}

/** The mean of each window. PyTorch's `nn.AvgPool2d`. */
export class AvgPool2d extends Module {
  readonly size: number | readonly number[];
  readonly options: ops.AvgPoolOptions;
  constructor(size: number | readonly number[], options: ops.AvgPoolOptions = {}) {
    super();
    this.size = size;
    this.options = options;
  }
  forward(x: Tensor): Tensor {
    return ops.avgPool2d(x, this.size, this.options);
  }
}
