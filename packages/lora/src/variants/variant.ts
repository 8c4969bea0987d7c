import { arange, isBlocks, type Linear, Module, Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";
import type { LoraPair } from "./init.ts";

/** Numbers of a row that an adapted layer holds in memory, besides its input x and its result. */
export interface HeldPerRow {
  /** Made on the way forward. */
  readonly made: number;
  /** Of those, what is kept for the gradient. */
  readonly kept: number;
  /** Is x kept as well? */
  readonly input: boolean;
}

/**
 * How an adapted layer computes from its base layer, A and B. A kind of LoRA is a class in a file of its own; tensors
 * that it adds to A and B are its fields, found as any module's are.
 */
export abstract class LoraVariant extends Module {
  /** y [..., out] of x [..., in], adapter included, plus `addend` [..., out] where one is given. */
  abstract forward(layer: LoraLinear, x: Tensor, addend?: Tensor): Tensor;
  /**
   * Adds to y [rows, out], which the base layer made of x [rows, in] plus `addend`, what the adapter changes, times
   * `strength`; in place, without dropout and without a gradient.
   */
  addTo(layer: LoraLinear, x: Tensor, y: Tensor, addend: Tensor | undefined, strength: number): void {
    const adapted = this.forward(layer, x, addend);
    const rows = arange(y.shape[0], { device: y.device });
    if (strength === 1) y.device.scatterRows(adapted, rows, y, "set");
    else y.device.scatterRows(adapted.sub(y).mul(strength), rows, y, "add");
  }
  /** The weight [out, in], f32, that gives the same y without an adapter. */
  abstract mergedWeight(layer: LoraLinear): Tensor;
  /** Tensors that training changes beside A and B, by the endings of PEFT's keys. */
  adapterTensors(): Iterable<[string, Tensor]> {
    return [];
  }
  /** What {@link forward} holds of a row of x in memory. */
  heldPerRow({ rank }: LoraLinear, _hasAddend: boolean): HeldPerRow {
    return { made: rank, kept: rank, input: true };
  }
  /** The A and B of a file that any tool can load as a plain adapter; the adapter's own tensors where that is what they are. */
  savedPair({ loraA, loraB }: LoraLinear): LoraPair {
    return { loraA, loraB };
  }
}

/** y [rows, out] += scaling·x·Aᵀ·Bᵀ, in place and without a gradient. */
export function addLowRank(x: Tensor, y: Tensor, { loraA: a, loraB: b }: LoraPair, scaling: number): void {
  const low = Tensor.empty([x.shape[0], a.shape[0]], { dtype: x.dtype, device: x.device });
  x.device.lowRank({ x, a, b, low, scaling }, y);
}

/** W + s·B·A as f32 numbers. A quantised weight becomes numbers: rounded again, the small difference would be lost. */
export function plainMerged({ weight }: Linear, { loraA, loraB }: LoraPair, scaling: number): Tensor {
  return loraB.matmul(loraA).mul(scaling).add(numbersOf(weight));
}

/** A weight as numbers that any operation takes. */
export function numbersOf(weight: Tensor): Tensor {
  return isBlocks(weight.dtype) ? weight.to("f32") : weight;
}
