import { type Linear, type LoraParts, linear, Module, noGrad, scope, type Tensor } from "@tslm/tensor";
import type { DropoutState } from "./dropout-state.ts";
import type { LoraPair } from "./variants/init.ts";
import type { HeldPerRow, LoraVariant } from "./variants/variant.ts";

/** What an adapted layer is made of. */
export interface LoraLinearParts {
  /** f32 [r, in] (f64 where the base is f64), trainable. */
  loraA: Tensor;
  /** f32 [out, r], trainable. */
  loraB: Tensor;
  /** α/r, or α/√r with rsLoRA. */
  scaling: number;
  /** Share of the input's features that training drops, 0 up to but not including 1. */
  dropout: number;
  /** Shared by all layers of the adapter. */
  state: DropoutState;
  /** Number of this layer among them: its part of the dropout key. */
  index: number;
  variant: LoraVariant;
}

/**
 * A frozen linear layer and the low-rank change beside it (Hu et al., 2021; PEFT's `lora.Linear`):
 * y = W·x + bias + (α/r)·B·A·dropout(x). Shapes: x [..., in], A [r, in], B [out, r], y [..., out].
 *
 * Merging keeps W + (α/r)·B·A beside the base weight, so unmerging restores the layer bit for bit, also where the base
 * is a mapped bf16 file.
 */
export class LoraLinear extends Module {
  readonly baseLayer: Linear;
  readonly loraA: Tensor;
  readonly loraB: Tensor;
  readonly variant: LoraVariant;
  readonly scaling: number;
  readonly dropout: number;
  /** Off: the layer is its base layer. */
  enabled = true;
  readonly #state: DropoutState;
  readonly #index: number;
  #mergedWeight: Tensor | undefined;

  constructor(baseLayer: Linear, parts: LoraLinearParts) {
    super();
    this.baseLayer = baseLayer;
    this.loraA = parts.loraA;
    this.loraB = parts.loraB;
    this.variant = parts.variant;
    this.scaling = parts.scaling;
    this.dropout = parts.dropout;
    this.#state = parts.state;
    this.#index = parts.index;
  }

  get inFeatures(): number {
    return this.baseLayer.inFeatures;
  }
  get outFeatures(): number {
    return this.baseLayer.outFeatures;
  }
  /** Numbers of a row of x that {@link forward} holds in memory, besides x and the result. */
  heldPerRow(hasAddend: boolean): HeldPerRow {
    const isAdapted = this.enabled && !this.merged;
    return isAdapted ? this.variant.heldPerRow(this, hasAddend) : { made: 0, kept: 0, input: false };
  }
  /** The rank r. */
  get rank(): number {
    return this.loraA.shape[0];
  }
  get merged(): boolean {
    return this.#mergedWeight !== undefined;
  }

  /** @param addend [..., out], added to the result: a residual */
  forward(x: Tensor, addend?: Tensor): Tensor {
    if (!this.enabled) return this.baseLayer.forward(x, addend);
    if (this.#mergedWeight) return linear(x, this.#mergedWeight, this.baseLayer.bias, addend);
    return this.variant.forward(this, x, addend);
  }

  /** How the adapter's input is dropped while the trainer says so; undefined where it is not. For variants. */
  get inputDropout(): LoraParts["dropout"] {
    const { training, rows } = this.#state;
    if (!training || this.dropout === 0) return undefined;
    return { p: this.dropout, key: this.#state.key(this.#index), rows };
  }

  /** Computes with one weight that holds the adapter, until {@link unmerge}: no cost per call, and no gradient. */
  merge(): void {
    this.#mergedWeight ??= scope(() => noGrad(() => this.variant.mergedWeight(this))).keep();
  }
  /** Back to base weight and adapter apart. */
  unmerge(): void {
    this.#mergedWeight?.dispose();
    this.#mergedWeight = undefined;
  }

  /** What a file holds of the adapter, by the endings of PEFT's keys. */
  *savedTensors(): Generator<[string, Tensor]> {
    const { loraA, loraB }: LoraPair = this.variant.savedPair(this);
    yield ["lora_A.weight", loraA];
    yield ["lora_B.weight", loraB];
    yield* this.variant.adapterTensors();
  }
  /** The tensors that training changes, by the endings of PEFT's keys. */
  *adapterTensors(): Generator<[string, Tensor]> {
    yield ["lora_A.weight", this.loraA];
    yield ["lora_B.weight", this.loraB];
    yield* this.variant.adapterTensors();
  }
  /** Frees the adapter; the base layer stays. */
  override dispose(): void {
    this.unmerge();
    for (const [, t] of this.adapterTensors()) t.dispose();
    this.variant.dispose();
  }
}
