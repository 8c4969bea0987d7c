import { Module, type Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";

/**
 * How an adapted layer computes from its base layer, A and B. A kind of LoRA is a class in a file of its own; tensors
 * that it adds to A and B are its fields, found as any module's are.
 */
export abstract class LoraVariant extends Module {
  /** y [..., out] of x [..., in], adapter included, plus `addend` [..., out] where one is given. */
  abstract forward(layer: LoraLinear, x: Tensor, addend?: Tensor): Tensor;
  /** The weight [out, in], f32, that gives the same y without an adapter. */
  abstract mergedWeight(layer: LoraLinear): Tensor;
  /** Tensors beside A and B, by the endings of PEFT's keys. */
  adapterTensors(): Iterable<[string, Tensor]> {
    return [];
  }
}
