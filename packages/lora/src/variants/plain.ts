import { linear, type Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";
import { LoraVariant } from "./variant.ts";

/** LoRA as published: W·x + s·B·(A·x). */
export class PlainLora extends LoraVariant {
  forward(layer: LoraLinear, x: Tensor): Tensor {
    // The factor goes where the rows are shortest.
    const low = linear(layer.dropped(x), layer.loraA).mul(layer.scaling);
    return layer.baseLayer.forward(x).add(linear(low, layer.loraB));
  }
  mergedWeight({ baseLayer, loraA, loraB, scaling }: LoraLinear): Tensor {
    return loraB.matmul(loraA).mul(scaling).add(baseLayer.weight);
  }
}
