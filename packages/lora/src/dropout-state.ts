import type { RandomKey, Tensor } from "@tslm/tensor";

/**
 * What the trainer tells all adapted layers about the pass that runs: whether dropout is on, and which numbers decide
 * it. They are keyed by step, layer, sequence, token and feature, so a mask does not depend on how sequences are
 * batched, on threads or on the device.
 */
export class DropoutState {
  /** Dropout happens only while this is on. */
  training = false;
  /** The optimiser step, counted from 1. */
  step = 0;
  /** Philox key. */
  seed: RandomKey["seed"] = [0, 0];
  /** i32 [rows, 2]: the (sequence, token) that each row of the pass is; (0, row number) unless given. */
  rows: Tensor | undefined;
  /** How many layers share the state. */
  readonly layers: number;

  constructor(layers: number) {
    this.layers = layers;
  }

  /** The key of one layer in this step. */
  key(layer: number): RandomKey {
    return { seed: this.seed, stream: (this.step * this.layers + layer) >>> 0 };
  }
}
