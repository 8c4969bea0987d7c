import { noGrad } from "../autograd.ts";
import { full, type Generator, randn } from "../creation.ts";
import { scope } from "../memory.ts";
import { dropout, embedding, linear, rmsNorm } from "../ops/index.ts";
import type { Tensor, TensorOptions } from "../tensor.ts";
import { uniform } from "./init.ts";
import { Module } from "./module.ts";

/** Makes a parameter that outlives the current scope. */
export function parameter(make: () => Tensor, requiresGrad = true): Tensor {
  const t = scope(() => noGrad(make)).keep();
  t.requiresGrad = requiresGrad;
  return t;
}

/** y = x·weightᵀ + bias. Shapes: x [..., in], weight [out, in], bias [out]. PyTorch's `nn.Linear`. */
export class Linear extends Module {
  weight: Tensor;
  bias: Tensor | undefined;

  constructor(weight: Tensor, bias?: Tensor) {
    super();
    this.weight = weight;
    this.bias = bias;
  }
  /** Kaiming-uniform with a = √5 and a bias in the same bounds, as PyTorch initialises. */
  static init(
    inFeatures: number,
    outFeatures: number,
    random: Generator,
    { bias = true, ...options }: TensorOptions & { bias?: boolean } = {},
  ): Linear {
    const bound = 1 / Math.sqrt(inFeatures);
    return new Linear(
      parameter(() => uniform([outFeatures, inFeatures], bound, random.next(), options)),
      bias ? parameter(() => uniform([outFeatures], bound, random.next(), options)) : undefined,
    );
  }
  get inFeatures(): number {
    return this.weight.shape[1];
  }
  get outFeatures(): number {
    return this.weight.shape[0];
  }
  /** @param addend [..., out], added to the result: a residual */
  forward(x: Tensor, addend?: Tensor): Tensor {
    return linear(x, this.weight, this.bias, addend);
  }
}

/** Rows of a table. Shapes: weight [size, features], index i32 [...]. PyTorch's `nn.Embedding`. */
export class Embedding extends Module {
  weight: Tensor;
  constructor(weight: Tensor) {
    super();
    this.weight = weight;
  }
  /** Normal with the given standard deviation. */
  static init(
    size: number,
    features: number,
    random: Generator,
    { std = 1, ...options }: TensorOptions & { std?: number } = {},
  ): Embedding {
    return new Embedding(parameter(() => randn([size, features], random.next(), options).mul(std)));
  }
  forward(index: Tensor): Tensor {
    return embedding(this.weight, index);
  }
}

/** x · rsqrt(mean(x²) + eps) · weight. PyTorch's `nn.RMSNorm`. */
export class RMSNorm extends Module {
  weight: Tensor;
  readonly eps: number;
  constructor(weight: Tensor, eps: number) {
    super();
    this.weight = weight;
    this.eps = eps;
  }
  static init(features: number, eps = 1e-6, options?: TensorOptions): RMSNorm {
    return new RMSNorm(
      parameter(() => full([features], 1, options)),
      eps,
    );
  }
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }
}

/** Inverted dropout in training, nothing in evaluation. Each call draws the next key of its generator. */
export class Dropout extends Module {
  readonly p: number;
  readonly #random: Generator;
  constructor(p: number, random: Generator) {
    super();
    this.p = p;
    this.#random = random;
  }
  forward(x: Tensor): Tensor {
    if (!this.training || this.p === 0) return x;
    return dropout(x, this.p, this.#random.next());
  }
}
