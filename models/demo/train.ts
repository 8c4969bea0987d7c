import { type ModelConfig, nextTokens, parameterShapes, passOf, QwenModel } from "../../packages/qwen/src/index.ts";
import {
  AdamW,
  clipGradNorm,
  type Device,
  full,
  Generator,
  parameter,
  randn,
  schedule,
  scope,
  type Tensor,
} from "../../packages/tensor/src/index.ts";
import { spreadEvenly, type Text } from "./corpus.ts";
import { Random } from "./random.ts";

/** How the demo model is trained. */
export const RECIPE = {
  seed: 4,
  epochs: 3,
  /** Most tokens of one step. */
  rows: 640,
  lr: 3e-3,
  /** Share of the steps over which the rate rises; then it falls as a cosine. */
  warmup: 0.1,
  betas: [0.9, 0.95],
  clip: 1,
  /** Standard deviation of the matrices at the start. */
  std: 0.02,
  /**
   * The norm before attention starts at this instead of 1, and the matrices it feeds (query, key, value) start smaller
   * and learn slower by the same factor. The model and its training are the same function for any value; but a LoRA
   * update of a given size is seen through the norm, so the few small steps of the default recipe reach further. Norm
   * weights of trained models are of this order too.
   */
  attentionGain: 24,
} as const;

/** Parameters behind the norm before attention. */
const ATTENTION_INPUT = /self_attn\.[qkv]_proj\.weight$/;

function initialModel(config: ModelConfig, device: Device): QwenModel {
  const random = new Generator(RECIPE.seed);
  const shapes = parameterShapes(config);
  return new QwenModel(config, (name) => {
    const shape = shapes.get(name)!;
    return parameter(() => {
      if (shape.length === 2) {
        const std = ATTENTION_INPUT.test(name) ? RECIPE.std / RECIPE.attentionGain : RECIPE.std;
        return randn(shape, random.next(), { device }).mul(std);
      }
      const start = name.endsWith("input_layernorm.weight") ? RECIPE.attentionGain : 1;
      return full(shape, name.endsWith(".bias") ? 0 : start, { device });
    });
  });
}

/** A text of the corpus as token ids. */
export interface Sequence extends Pick<Text, "group"> {
  readonly ids: readonly number[];
}

/** Which sequences each step takes, at most `RECIPE.rows` tokens; all epochs, one after another. */
export function planSteps(sequences: readonly Sequence[]): number[][] {
  const random = new Random(RECIPE.seed);
  const steps: number[][] = [];
  for (let epoch = 0; epoch < RECIPE.epochs; epoch++) {
    let rows = Number.POSITIVE_INFINITY;
    for (const i of spreadEvenly(sequences, random)) {
      const { length } = sequences[i].ids;
      rows += length;
      if (rows > RECIPE.rows) {
        steps.push([]);
        rows = length;
      }
      steps.at(-1)!.push(i);
    }
  }
  return steps;
}

export interface TrainOptions {
  /** Stop after so many steps; the rates are those of the whole run. */
  steps?: number;
  onStep?(step: number, steps: number, loss: number): void;
}

/**
 * Trains the model from nothing.
 *
 * @returns the model, and the mean loss of each step's predicted tokens, before the step
 */
export async function trainModel(
  config: ModelConfig,
  sequences: readonly Sequence[],
  device: Device,
  { steps, onStep }: TrainOptions = {},
): Promise<{ model: QwenModel; losses: number[] }> {
  const model = initialModel(config, device);
  const named = [...model.namedParameters()];
  const group = (attention: boolean): Tensor[] =>
    named.filter(([name]) => ATTENTION_INPUT.test(name) === attention).map(([, parameter]) => parameter);
  const optimisers = [
    { optimiser: new AdamW(group(false), { betas: RECIPE.betas }), lr: RECIPE.lr },
    { optimiser: new AdamW(group(true), { betas: RECIPE.betas }), lr: RECIPE.lr / RECIPE.attentionGain },
  ];
  const rate = schedule("cosine", { warmup: RECIPE.warmup });
  const plan = planSteps(sequences);
  const losses: number[] = [];
  for (const [k, members] of plan.slice(0, steps).entries()) {
    const batch = members.map((i) => sequences[i].ids);
    const loss = scope(() => {
      const loss = model.loss(passOf(batch, batch.map(nextTokens)));
      loss.backward();
      const { gradScale } = clipGradNorm(model.parameters(), RECIPE.clip);
      for (const { optimiser, lr } of optimisers) {
        optimiser.lr = lr * rate(k + 1, plan.length);
        optimiser.step(gradScale);
        optimiser.zeroGrad();
      }
      return loss;
    });
    losses.push(await loss.item());
    loss.dispose();
    onStep?.(k + 1, plan.length, losses[k]);
  }
  for (const { optimiser } of optimisers) optimiser.dispose();
  return { model, losses };
}
