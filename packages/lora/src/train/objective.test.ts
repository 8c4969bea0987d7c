import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { full, Generator, linearCrossEntropy, noGrad, reference, scope, Tensor } from "@tslm/tensor";
import { OptionError } from "../errors.ts";
import { applyLora, type Lora } from "../lora.ts";
import { perturb, TinyModel } from "../testing.ts";
import { neftune } from "./neftune.ts";
import type { TrainOptions } from "./options.ts";
import { packPasses, type TrainingPass, type TrainingSequence } from "./pass.ts";
import { train } from "./train.ts";

const predicting = (...tokens: number[]): TrainingSequence => ({ tokens, targets: [...tokens.slice(1), -1] });
const sequences: TrainingSequence[] = [
  predicting(1, 4, 2, 7, 3),
  { tokens: [2, 2, 6, 8, 1, 10], targets: [-1, -1, -1, 1, 10, -1] },
  predicting(7, 6, 5, 4, 3, 2, 10),
  predicting(3, 10),
];

const open: { lora: Lora; model: TinyModel }[] = [];
async function make(): Promise<{ lora: Lora; model: TinyModel }> {
  const model = new TinyModel();
  const lora = applyLora(model, { r: 2, lora_alpha: 4, target_modules: ["q_proj", "v_proj"] }, new Generator(7));
  open.push({ lora, model });
  await perturb(lora.parameters());
  return { lora, model };
}
afterEach(() => {
  for (const { lora, model } of open.splice(0)) {
    lora.remove();
    model.dispose();
  }
});

interface Ran {
  losses: number[];
  rates: number[];
  weights: number[];
  /** What the model was asked for in training and in evaluation. */
  passes: TrainingPass[];
}
async function run(
  options: TrainOptions,
  items: readonly TrainingSequence[] = sequences,
  validation?: readonly TrainingSequence[],
): Promise<Ran> {
  const { lora, model } = await make();
  const passes: TrainingPass[] = [];
  const watched = {
    loss(pass: TrainingPass): Tensor {
      passes.push(pass);
      return model.loss(pass);
    },
  };
  const { steps } = await train({ model: watched, lora, sequences: items, validation, options });
  const weights = (await Promise.all(lora.parameters().map((p) => p.data()))).flatMap((values) => [...values]);
  return { losses: steps.map(({ loss }) => loss), rates: steps.map(({ lr }) => lr), weights, passes };
}

const furthest = (a: readonly number[], b: readonly number[]): number => {
  expect(a.length).toBe(b.length);
  return Math.max(...a.map((x, i) => Math.abs(x - b[i])));
};
const together = { epochs: 4, lr: 1e-2, batch: 8, gradAccum: 1, shuffle: false };

describe("rows that count more", () => {
  test("a weight of 3 is the row three times in the batch; the weights' size alone changes nothing", async () => {
    const [first, second, ...rest] = sequences;
    const weighted = await run(together, [{ ...first, weight: 3 }, second, ...rest]);
    const repeated = await run(together, [first, first, first, second, ...rest]);
    expect(furthest(weighted.losses, repeated.losses)).toBeLessThan(1e-5);
    expect(furthest(weighted.weights, repeated.weights)).toBeLessThan(1e-4);
    const doubled = await run(together, [
      { ...first, weight: 6 },
      ...[second, ...rest].map((s) => ({ ...s, weight: 2 })),
    ]);
    expect(furthest(doubled.losses, weighted.losses)).toBeLessThan(1e-5);
    const plain = await run(together);
    expect(Math.abs(plain.losses[0] - weighted.losses[0])).toBeGreaterThan(1e-3);
  });

  test("also over accumulated batches and passes", async () => {
    const items = sequences.map((s, i) => ({ ...s, weight: 1 + i }));
    const whole = await run({ ...together, batch: 4 }, items);
    const split = await run({ ...together, batch: 1, gradAccum: 4, tokensPerPass: 1 }, items);
    expect(furthest(split.losses, whole.losses)).toBeLessThan(1e-5);
    expect(furthest(split.weights, whole.weights)).toBeLessThan(1e-4);
  });

  test.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("a weight of %p is refused", async (weight) => {
    const running = run(together, [sequences[0], { ...sequences[1], weight }]);
    await expect(running).rejects.toThrow(`the weight of sequence 2 must be a number above 0, not ${weight}`);
  });
});

describe("label smoothing", () => {
  test("is the loss (1−ε)·(−log p of the target) + ε·mean of −log p, in training alone", async () => {
    const { losses, passes } = await run({ ...together, labelSmoothing: 0.3, epochs: 1 }, sequences, sequences);
    expect(passes.map(({ labelSmoothing }) => labelSmoothing)).toEqual([0.3, undefined]);
    const { lora, model } = await make();
    const [pass] = packPasses(sequences, 1000);
    const logProbabilities = scope(() =>
      noGrad(() => model.hidden(pass).matmul(model.lm_head.weight.transpose(0, 1)).logSoftmax()),
    );
    const [values, classes] = [await logProbabilities.data(), logProbabilities.shape[1]];
    let expected = 0;
    pass.targets.forEach((target, row) => {
      if (target < 0) return;
      const all = [...values.slice(row * classes, (row + 1) * classes)];
      const mean = all.reduce((sum, x) => sum + x, 0) / classes;
      expected -= pass.scale[row] * (0.7 * all[target] + 0.3 * mean);
    });
    expect(Math.abs(losses[0] - expected)).toBeLessThan(1e-5);
    expect(lora.attached).toBe(true);
  });

  test("makes no logits: the largest memory it asks for is that of the weights", () => {
    const [rows, size, classes] = [500, 4, 2000];
    const filled = (...shape: number[]): Tensor => full(shape, 0.1, { device: reference });
    const allocate = spyOn(reference, "allocate");
    scope(() => {
      const targets = Tensor.from(new Int32Array(rows), [rows], { dtype: "i32", device: reference });
      const [hidden, weight] = [filled(rows, size), filled(classes, size)];
      hidden.requiresGrad = true;
      linearCrossEntropy(hidden, weight, targets, filled(rows), { labelSmoothing: 0.1 }).backward();
      hidden.grad?.dispose();
    });
    const asked = allocate.mock.calls.map(([bytes]) => bytes);
    allocate.mockRestore();
    expect(Math.max(...asked)).toBe(4 * classes * size);
  });
});

describe("NEFTune", () => {
  const noiseOf = async (items: TrainingSequence[], first: number, alpha = 5, features = 64): Promise<number[][]> => {
    const [pass] = packPasses(items, 1000);
    const key = { seed: [1, 2] as const, stream: first };
    const rows = pass.tokens.length;
    using noise = scope(() =>
      neftune(pass, alpha, key)(Tensor.from(new Float32Array(rows * features), [rows, features])),
    );
    const values = [...(await noise.data())];
    return pass.segments.map(({ query, queries }) => values.slice(query * features, (query + queries) * features));
  };

  test("is uniform within ±α/√(L·d) of each sequence", async () => {
    const long = predicting(...Array.from({ length: 201 }, (_, i) => i % 11));
    const [short, longer] = await noiseOf([predicting(1, 2, 3), long], 0);
    for (const [noise, length] of [
      [short, 2],
      [longer, 200],
    ] as const) {
      const bound = 5 / Math.sqrt(length * 64);
      const most = Math.max(...noise.map(Math.abs));
      expect(noise).toHaveLength(length * 64);
      expect(most).toBeLessThanOrEqual(bound);
      expect(most).toBeGreaterThan(0.95 * bound);
    }
    const variance = longer.reduce((sum, x) => sum + x * x, 0) / longer.length;
    expect(variance / (5 ** 2 / (200 * 64) / 3)).toBeCloseTo(1, 1);
  });

  test("depends on the sequence's number in the step, not on how sequences are batched", async () => {
    const [a, b] = [predicting(1, 2, 3), predicting(4, 5, 6)];
    const [first, second] = await noiseOf([a, b], 8);
    expect(first).not.toEqual(second);
    expect((await noiseOf([b], 9))[0]).toEqual(second);
    const options = { ...together, epochs: 1, neftuneAlpha: 5, seed: 3 };
    const [whole, split] = [await run(options), await run({ ...options, tokensPerPass: 1 })];
    expect(furthest(split.losses, whole.losses)).toBeLessThan(1e-5);
    expect(furthest(split.weights, whole.weights)).toBeLessThan(1e-4);
  });

  test("differs from step to step and by seed, is the same again, and stays out of evaluation", async () => {
    const options = { ...together, lr: 1e-12, epochs: 3, neftuneAlpha: 5 };
    const noisy = await run(options, sequences, sequences);
    expect(new Set(noisy.losses.map((loss) => loss.toFixed(5))).size).toBe(3);
    expect((await run(options)).losses).toEqual(noisy.losses);
    expect((await run({ ...options, seed: 1 })).losses).not.toEqual(noisy.losses);
    expect(noisy.passes.map(({ perturb }) => perturb !== undefined)).toEqual([true, false, true, false, true, false]);
    const plain = await run({ ...options, neftuneAlpha: 0 });
    expect(new Set(plain.losses).size).toBe(1);
  });
});

describe("rates", () => {
  const rates = async (options: TrainOptions): Promise<number[]> =>
    (await run({ ...together, epochs: 5, lr: 1, clip: 1e-9, ...options })).rates.map((rate) => Number(rate.toFixed(6)));

  test("restarts, a lowest rate, a warm-up in steps instead of a share", async () => {
    const restarts = { scheduler: "cosine_with_restarts", numCycles: 2, epochs: 4 } as const;
    expect(await rates(restarts)).toEqual([1, 0.5, 1, 0.5]);
    expect(await rates({ minLr: 0.5 })).toEqual([1, 0.9, 0.8, 0.7, 0.6]);
    expect(await rates({ warmup: 0.9, warmupSteps: 2 })).toEqual([0, 0.5, 1, 0.666667, 0.333333]);
  });

  test("LoRA+ moves B at its own rate: the first step of AdamW has the size of the rate", async () => {
    const moved = async (loraplusLrRatio: number): Promise<[a: number, b: number]> => {
      const { lora, model } = await make();
      const before = await Promise.all(lora.parameters().map((p) => p.data()));
      const options = { ...together, epochs: 1, lr: 1e-3, clip: 0, loraplusLrRatio };
      await train({ model, lora, sequences, options });
      const after = await Promise.all(lora.parameters().map((p) => p.data()));
      const [a, b] = [0, 1].map((i) => furthest([...before[i]], [...after[i]]));
      return [a, b];
    };
    const [a, b] = await moved(16);
    expect([a, b].map((x) => Number(x.toFixed(4)))).toEqual([0.001, 0.016]);
    expect((await moved(1)).map((x) => Number(x.toFixed(4)))).toEqual([0.001, 0.001]);
  });

  const refused: [TrainOptions, string][] = [
    [{ warmupSteps: 1.5 }, "warmupSteps must be a whole number of at least 0, not 1.5"],
    [{ lr: 1e-3, minLr: 2e-3 }, "minLr must be at most the learning rate, 0.001, not 0.002"],
    [{ numCycles: 0 }, "numCycles must be a number above 0, not 0"],
    [{ loraplusLrRatio: -1 }, "loraplusLrRatio must be a number above 0, not -1"],
    [{ labelSmoothing: 1.1 }, "labelSmoothing must be a share from 0 to 1, not 1.1"],
    [{ neftuneAlpha: Number.NaN }, "neftuneAlpha must be a number of at least 0, not NaN"],
  ];
  test.each(refused)("%p is refused", async (options, sentence) => {
    const error = await run(options).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OptionError);
    expect((error as Error).message).toBe(sentence);
  });
});
