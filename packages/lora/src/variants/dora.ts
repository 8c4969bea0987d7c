import { dropout, type Linear, linear, loraLinear, noGrad, parameter, scope, type Tensor } from "@tslm/tensor";
import type { LoraLinear } from "../lora-linear.ts";
import type { LoraPair } from "./init.ts";
import { type HeldPerRow, LoraVariant, numbersOf, plainMerged } from "./variant.ts";

/** PEFT's key of the magnitude vector. */
export const MAGNITUDE = "lora_magnitude_vector";

/**
 * DoRA (Liu et al., 2024): every row of W + s·B·A is brought to length 1 and multiplied by a magnitude that is trained. As
 * in the paper's section 4.3 and in PEFT, the lengths count as constants: no gradient flows through them.
 */
export class DoraLora extends LoraVariant {
  /** [out], trainable. */
  readonly magnitude: Tensor;
  /** ‖w‖² of every row of the frozen weight, [out]. It is no field, so that it does not count as the model's parameter. */
  readonly #squares: Tensor;

  /** @param magnitude [out], trainable; see {@link DoraLora.start} */
  constructor(magnitude: Tensor, base: Linear) {
    super();
    this.magnitude = magnitude;
    this.#squares = parameter(() => squaresOf(base), false);
  }
  /** With the magnitudes that leave the layer as it is. */
  static start(base: Linear, pair: LoraPair, scaling: number): DoraLora {
    return new DoraLora(
      parameter(() => lengths(base, squaresOf(base), pair, scaling)),
      base,
    );
  }

  forward(layer: LoraLinear, x: Tensor, addend?: Tensor): Tensor {
    const { baseLayer, loraA, loraB, scaling, inputDropout } = layer;
    const { weight, bias } = baseLayer;
    const factor = this.#factor(layer);
    if (!inputDropout) {
      let y = loraLinear(x, { weight, loraA, loraB, scaling }).mul(factor);
      if (bias) y = y.add(bias);
      return addend ? y.add(addend) : y;
    }
    // What dropout leaves of x goes through the change alone: the base keeps all of it.
    const { p, key, rows } = inputDropout;
    const flat = x.reshape(-1, layer.inFeatures);
    const left = dropout(flat, p, key, rows).reshape(...x.shape);
    const directed = linear(left, weight).mul(factor.sub(1));
    const change = linear(linear(left, loraA), loraB).mul(factor.mul(scaling));
    return linear(x, weight, bias, addend).add(directed).add(change);
  }

  mergedWeight(layer: LoraLinear): Tensor {
    return plainMerged(layer.baseLayer, layer, layer.scaling).mul(this.#factor(layer).unsqueeze(1));
  }

  /** Kept is what the magnitudes' gradient is of; with dropout both parts, and what dropout left of x instead of x. */
  override heldPerRow(layer: LoraLinear, hasAddend: boolean): HeldPerRow {
    const { rank, dropout, inFeatures, outFeatures, baseLayer } = layer;
    if (dropout === 0) {
      // Before it is scaled, and before a bias and an addend are added.
      const before = 1 + Number(baseLayer.bias !== undefined) + Number(hasAddend);
      return { made: rank + before * outFeatures, kept: rank + outFeatures, input: true };
    }
    return {
      made: rank + inFeatures + 6 * outFeatures,
      kept: rank + inFeatures + 2 * outFeatures,
      input: false,
    };
  }
  override *adapterTensors(): Generator<[string, Tensor]> {
    yield [MAGNITUDE, this.magnitude];
  }

  /** Magnitude over length, [out]. */
  #factor({ baseLayer, scaling, ...layer }: LoraLinear): Tensor {
    return this.magnitude.div(scope(() => noGrad(() => lengths(baseLayer, this.#squares, layer, scaling))));
  }

  override dispose(): void {
    this.magnitude.dispose();
    this.#squares.dispose();
  }
}

function squaresOf({ weight }: Linear): Tensor {
  return numbersOf(weight).square().sum(1);
}

/**
 * The length of every row of W + s·B·A, [out], by ‖w‖² + 2s·b·(A·w) + s²·b·A·Aᵀ·b: nothing of the weight's size is made,
 * unless it is quantised.
 */
function lengths({ weight }: Linear, squares: Tensor, { loraA, loraB }: LoraPair, scaling: number): Tensor {
  const cross = linear(loraA, numbersOf(weight)).transpose(0, 1).mul(loraB).sum(1);
  const change = loraB
    .matmul(loraA.matmul(loraA.transpose(0, 1)))
    .mul(loraB)
    .sum(1);
  return squares
    .add(cross.mul(2 * scaling))
    .add(change.mul(scaling ** 2))
    .sqrt();
}
