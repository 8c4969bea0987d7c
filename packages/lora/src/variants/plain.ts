import { loraLinear, type Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";
import { addLowRank, LoraVariant, plainMerged } from "./variant.ts";

/** LoRA as published: W·x + s·B·(A·x). */
export class PlainLora extends LoraVariant {
  forward({ baseLayer, loraA, loraB, scaling, inputDropout }: LoraLinear, x: Tensor, addend?: Tensor): Tensor {
    const { weight, bias } = baseLayer;
    return loraLinear(x, { weight, bias, loraA, loraB, scaling, dropout: inputDropout, addend });
  }
  override addTo(layer: LoraLinear, x: Tensor, y: Tensor, _: Tensor | undefined, strength: number): void {
    addLowRank(x, y, layer, strength * layer.scaling);
  }
  mergedWeight(layer: LoraLinear): Tensor {
    return plainMerged(layer.baseLayer, layer, layer.scaling);
  }
}
