import { isBlocks, loraLinear, type Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";
import { LoraVariant } from "./variant.ts";

/** LoRA as published: W·x + s·B·(A·x). */
export class PlainLora extends LoraVariant {
  forward({ baseLayer, loraA, loraB, scaling, inputDropout }: LoraLinear, x: Tensor, addend?: Tensor): Tensor {
    const { weight, bias } = baseLayer;
    return loraLinear(x, { weight, bias, loraA, loraB, scaling, dropout: inputDropout, addend });
  }
  mergedWeight({ baseLayer, loraA, loraB, scaling }: LoraLinear): Tensor {
    const { weight } = baseLayer;
    // A quantised weight becomes numbers: rounded again, the small difference would be lost.
    const base = isBlocks(weight.dtype) ? weight.to("f32") : weight;
    return loraB.matmul(loraA).mul(scaling).add(base);
  }
}
