import { type AdamW, noGrad, scope, type Tensor } from "@tslm/tensor";
import { z } from "zod";
import { CheckpointError } from "../errors.ts";
import type { Lora } from "../lora.ts";
import { type BestStep, STOP_REASONS, type StepResult, type StopReason } from "./result.ts";

/** What of a run's state is not a tensor. The random state is the seed and the number of steps: dropout and order are keyed by them. */
export const trainingProgressSchema = z.object({
  /** Every step so far; more fields may stand in it. */
  steps: z
    .array(
      z.looseObject({
        step: z.int().min(1),
        epoch: z.int().min(1),
        loss: z.number(),
        grad_norm: z.number(),
        lr: z.number(),
        tokens: z.int().min(0),
        seconds: z.number().min(0),
      }),
    )
    .min(1),
  /** Spent on them. */
  seconds: z.number().min(0),
  /** What follows the last step is still to do: its evaluation and its `onStep`. */
  pending: z.boolean(),
  stopped: z.enum(STOP_REASONS).optional(),
  best: z.object({ step: z.int().min(1), validation_loss: z.number() }).optional(),
});
export type TrainingProgress = z.output<typeof trainingProgressSchema>;

/** A state to go on from: its numbers, and the bytes of its tensors as {@link TrainingState.tensors} names them. */
export interface SavedState {
  progress: TrainingProgress;
  /** Little-endian, row-major; undefined where there is no such tensor. */
  bytes(name: string): Uint8Array | undefined;
}

/** Where a run stands: all that is needed to go on as though it had never stopped. */
export class TrainingState {
  readonly lora: Lora;
  readonly steps: StepResult[] = [];
  /** Of runs before this one. */
  secondsBefore = 0;
  pending = false;
  stopped: StopReason | undefined;
  best: BestStep | undefined;
  readonly #optimizer: AdamW;
  readonly #begun = performance.now();
  /** Copies of the best step's weights. */
  #bestWeights: Tensor[] = [];

  constructor(lora: Lora, optimizer: AdamW) {
    this.lora = lora;
    this.#optimizer = optimizer;
  }

  get step(): number {
    return this.steps.length;
  }
  get seconds(): number {
    return this.secondsBefore + (performance.now() - this.#begun) / 1000;
  }
  get progress(): TrainingProgress {
    const { steps, seconds, pending, stopped, best } = this;
    return { steps: steps.map((step) => ({ ...step })), seconds, pending, stopped, best };
  }

  /** Weights, moments and the best weights, by the adapter's keys with what they are in front. They change with the next step. */
  tensors(): Map<string, Tensor> {
    const keys = [...this.lora.namedParameters()].map(([key]) => key);
    const { m, v } = this.#optimizer;
    const all = new Map<string, Tensor>();
    const add = (what: string, tensors: readonly Tensor[]): void => {
      for (const [i, tensor] of tensors.entries()) all.set(`${what}.${keys[i]}`, tensor);
    };
    add("weight", this.lora.parameters());
    add("first_moment", m);
    add("second_moment", v);
    add("best", this.#bestWeights);
    return all;
  }

  /** Takes over a saved state. @throws CheckpointError when its tensors are not those of this run */
  restore({ progress, bytes }: SavedState): void {
    const { steps, seconds, pending, stopped, best } = progress;
    this.steps.push(...(steps as StepResult[]));
    Object.assign(this, { secondsBefore: seconds, pending, best });
    // Who goes on with a run that was stopped on request wants the rest of it.
    if (stopped !== "asked") this.stopped = stopped;
    this.#optimizer.steps = steps.length;
    if (best) this.#copyWeights();
    for (const [name, tensor] of this.tensors()) {
      const values = bytes(name);
      const want = tensor.size * (tensor.dtype === "f64" ? 8 : 4);
      if (values?.byteLength !== want) {
        const found = values === undefined ? "has no tensor" : `has ${values.byteLength} bytes, not ${want}, of`;
        throw new CheckpointError(`the checkpoint ${found} ${name}; it belongs to another run`);
      }
      tensor.device.write(tensor.storage, tensor.offset * (want / tensor.size), values);
    }
  }

  /** Remembers the weights as they are now. */
  keepBest(best: BestStep): void {
    this.best = best;
    this.#copyWeights();
  }
  #copyWeights(): void {
    for (const t of this.#bestWeights) t.dispose();
    this.#bestWeights = scope(() => noGrad(() => this.lora.parameters().map((p) => p.clone())));
  }
  /** Gives the adapter the best step's weights. */
  async takeBest(): Promise<void> {
    for (const [i, parameter] of this.lora.parameters().entries()) {
      const bytes = await this.#bestWeights[i].bytes();
      parameter.device.write(parameter.storage, parameter.offset * (bytes.byteLength / parameter.size), bytes);
    }
  }

  dispose(): void {
    for (const t of this.#bestWeights) t.dispose();
    this.#bestWeights = [];
  }
}

/** Takes a run's state where it outlives the process. */
export interface StateKeeper {
  /**
   * Called when the state is whole: after each step (`step`), after the last one (`end`), and when a signal or
   * `onStep` ended the run after at least one (`interrupted`). The run goes on when this has settled; an error ends it.
   */
  keep(state: TrainingState, total: number, when: "step" | "end" | "interrupted"): Promise<void>;
}
