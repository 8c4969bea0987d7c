import * as ops from "../ops/index.ts";
import type { Tensor } from "../tensor.ts";
import { Module } from "./module.ts";

/** max(x, 0). PyTorch's `nn.ReLU`. */
export class ReLU extends Module {
  forward(x: Tensor): Tensor {
    return ops.relu(x);
  }
}
/** x·Φ(x), or with `approximate: "tanh"` GPT-2's form. PyTorch's `nn.GELU`. */
export class GELU extends Module {
  readonly options: ops.GeluOptions;
  constructor(options: ops.GeluOptions = {}) {
    super();
    this.options = options;
  }
  forward(x: Tensor): Tensor {
    return ops.gelu(x, this.options);
  }
}
/** x·σ(x). PyTorch's `nn.SiLU`. */
export class SiLU extends Module {
  forward(x: Tensor): Tensor {
    return ops.silu(x);
  }
}
/** Hyperbolic tangent. PyTorch's `nn.Tanh`. */
export class Tanh extends Module {
  forward(x: Tensor): Tensor {
    return ops.tanh(x);
  }
}
/** 1/(1 + e⁻ˣ). PyTorch's `nn.Sigmoid`. */
export class Sigmoid extends Module {
  forward(x: Tensor): Tensor {
    return ops.sigmoid(x);
  }
}
/** x, or slope·x below 0. PyTorch's `nn.LeakyReLU`. */
export class LeakyReLU extends Module {
  readonly slope: number;
  constructor(slope = 0.01) {
    super();
    this.slope = slope;
  }
  forward(x: Tensor): Tensor {
    return ops.leakyRelu(x, this.slope);
  }
}
/** x, or α(eˣ − 1) below 0. PyTorch's `nn.ELU`. */
export class ELU extends Module {
  readonly alpha: number;
  constructor(alpha = 1) {
    super();
    this.alpha = alpha;
  }
  forward(x: Tensor): Tensor {
    return ops.elu(x, this.alpha);
  }
}
/** eˣ/Σeˣ along a dimension. PyTorch's `nn.Softmax`. */
export class Softmax extends Module {
  readonly dim: number;
  constructor(dim = -1) {
    super();
    this.dim = dim;
  }
  forward(x: Tensor): Tensor {
    return ops.softmax(x, this.dim);
  }
}
/** Dimensions `start` to `end` joined. PyTorch's `nn.Flatten`. */
export class Flatten extends Module {
  readonly start: number;
  readonly end: number;
  constructor(start = 1, end = -1) {
    super();
    this.start = start;
    this.end = end;
  }
  forward(x: Tensor): Tensor {
    return ops.flatten(x, this.start, this.end);
  }
}
