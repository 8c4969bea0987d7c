import { cat, linear, loraLinear, type Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";
import type { LoraPair } from "./init.ts";
import { addLowRank, type HeldPerRow, LoraVariant, plainMerged } from "./variant.ts";

/**
 * LoRA whose A and B begin as a part of the base weight (PiSSA, OLoRA): what is left of it, W − s·B₀·A₀, is frozen, and
 * B·A is trained. PEFT writes the rest over the base weight; here the base stays as it is, mapped or quantised, and the
 * rest is computed as W·x − s·B₀·(A₀·x): the same numbers to rounding, at twice the rank.
 */
export class ResidualLora extends LoraVariant {
  /** A₀ and B₀. They are not fields, so that they do not count as the model's parameters. */
  readonly #initial: LoraPair;

  /** @param initial the A and B that training begins with; the variant owns them */
  constructor(initial: LoraPair) {
    super();
    this.#initial = initial;
  }

  forward({ baseLayer, loraA, loraB, scaling, inputDropout }: LoraLinear, x: Tensor, addend?: Tensor): Tensor {
    const { weight, bias } = baseLayer;
    const { loraA: a, loraB: b } = this.#initial;
    const adapted = loraLinear(x, { weight, bias, loraA, loraB, scaling, dropout: inputDropout, addend });
    return linear(linear(x, a).mul(-scaling), b, undefined, adapted);
  }

  override addTo(layer: LoraLinear, x: Tensor, y: Tensor, _: Tensor | undefined, strength: number): void {
    addLowRank(x, y, layer, strength * layer.scaling);
    addLowRank(x, y, this.#initial, -strength * layer.scaling);
  }

  mergedWeight(layer: LoraLinear): Tensor {
    return plainMerged(layer.baseLayer, this.savedPair(layer), layer.scaling);
  }

  override heldPerRow({ rank, outFeatures }: LoraLinear): HeldPerRow {
    return { made: outFeatures + 3 * rank, kept: rank, input: true };
  }
  /** A over A₀ and B beside −B₀: PEFT's conversion, `path_initial_model_for_weight_conversion`. */
  override savedPair({ loraA, loraB }: LoraLinear): LoraPair {
    const { loraA: a, loraB: b } = this.#initial;
    return { loraA: cat([loraA, a]), loraB: cat([loraB, b.neg()], 1) };
  }

  override dispose(): void {
    this.#initial.loraA.dispose();
    this.#initial.loraB.dispose();
  }
}
