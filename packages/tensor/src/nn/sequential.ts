import { TensorError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { Module } from "./module.ts";

/** What stands in a {@link Sequential}: a module of one input, or a function such as `relu`. */
export type Layer = (Module & { forward(x: Tensor): Tensor }) | ((x: Tensor) => Tensor);

/**
 * One layer after another. Parameters are named by the layer's number, `0.weight`. PyTorch's `nn.Sequential`, which may
 * hold functions too.
 *
 * @example new Sequential(Linear.init(784, 32, random), relu, Linear.init(32, 10, random))
 */
export class Sequential extends Module {
  /** The layers stand in fields of these names, where all else looks for them. */
  [layer: number]: Layer;
  readonly length: number;

  constructor(...layers: readonly Layer[]) {
    super();
    this.length = layers.length;
    for (const [i, layer] of layers.entries()) this[i] = layer;
  }
  forward(x: Tensor): Tensor {
    let out = x;
    for (let i = 0; i < this.length; i++) {
      const layer = this[i];
      if (typeof layer === "function") out = layer(out);
      else if (typeof layer?.forward === "function") out = layer.forward(out);
      else throw new TensorError("Sequential", `layer ${i} is neither a module with forward() nor a function`);
    }
    return out;
  }
}
