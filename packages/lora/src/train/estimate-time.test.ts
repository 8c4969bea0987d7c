/** The estimate of time against the training itself, both on a clock that only passes and steps move. */
import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { AdamW, Generator, noGrad, type Tensor } from "@tslm/tensor";
import { applyLora } from "../lora.ts";
import { TinyModel } from "../testing.ts";
import { type PlannedRun, plannedSteps } from "./estimate.ts";
import { estimateSeconds, passesToMeasure, secondsOfPass } from "./estimate-time.ts";
import type { TrainOptions } from "./options.ts";
import type { PassSize, TrainingPass, TrainingSequence } from "./pass.ts";
import { train } from "./train.ts";

/** Milliseconds. */
let clock = 0;
let passes = 0;
/** What a pass and a step take, in milliseconds. */
let cost = { pass: (_rows: number): number => 0, step: 0 };

/** Takes as long as it is told. */
class TimedModel extends TinyModel {
  /** Forward a third of both. */
  passFlops({ rows }: PassSize, backward: boolean): number {
    return rows * (backward ? 3 : 1);
  }
  override loss(pass: TrainingPass): Tensor {
    passes++;
    const loss = super.loss(pass);
    clock += cost.pass(pass.tokens.length) * (loss.requiresGrad ? 1 : 1 / 3);
    return loss;
  }
}

const now = spyOn(performance, "now").mockImplementation(() => clock);
const { step: realStep } = AdamW.prototype;
const step = spyOn(AdamW.prototype, "step").mockImplementation(function (this: AdamW, gradScale?: Tensor) {
  clock += cost.step;
  realStep.call(this, gradScale);
});
afterAll(() => {
  now.mockRestore();
  step.mockRestore();
});

const sequence = (length: number): TrainingSequence => {
  const tokens = Array.from({ length: length + 1 }, (_, i) => (3 * i + length) % 11);
  return { tokens, targets: [...tokens.slice(1), -1] };
};

/** Seconds that are said and that it then takes. */
async function sayAndDo(lengths: readonly number[], options: TrainOptions, heldOut: readonly number[] = []) {
  const model = new TimedModel();
  const config = { r: 2, lora_alpha: 4, lora_dropout: 0, target_modules: ["q_proj", "v_proj"] };
  const lora = applyLora(model, config, new Generator(7));
  const validation = heldOut.length > 0 ? heldOut.map(sequence) : undefined;
  const run = { model, lora, sequences: lengths.map(sequence), validation, options };
  try {
    const planned: PlannedRun = { ...run, steps: await plannedSteps(run), availableMemory: 1e9 };
    const before = await Promise.all(lora.parameters().map((p) => p.data()));
    const said = await estimateSeconds(planned, false);
    expect(await Promise.all(lora.parameters().map((p) => p.data()))).toEqual(before);
    const { seconds } = await train(run);
    return { said, seconds };
  } finally {
    lora.remove();
    model.dispose();
  }
}

const isNear = ({ said, seconds }: { said: number; seconds: number }, within: number): void => {
  expect(said).toBeGreaterThan((1 - within) * seconds);
  expect(said).toBeLessThan((1 + within) * seconds);
};

describe("the time that is said is the time that it takes", () => {
  test("passes alike: one is measured, to the last millisecond", async () => {
    cost = { pass: (rows) => 40 + 5 * rows, step: 0 };
    isNear(await sayAndDo([30, 30, 30, 30], { epochs: 5, gradAccum: 2 }), 1e-9);
  });

  test("code that is not compiled yet, and what others take of the machine: the first passes are slower", async () => {
    passes = 0;
    cost = { pass: (rows) => (40 + 5 * rows) * (passes < 4 ? 1.5 : 1), step: 0 };
    isNear(await sayAndDo([30, 30, 30, 30], { epochs: 5, gradAccum: 2 }), 1e-9);
  });

  test("the change of the weights, which takes long with a high rank", async () => {
    cost = { pass: () => 50, step: 200 };
    isNear(await sayAndDo([30, 30, 30, 30], { epochs: 5, gradAccum: 1 }), 0.01);
  });

  test("small passes wait for weights, large ones compute: no straight line fits both", async () => {
    cost = { pass: (rows) => Math.max(300, 5 * rows), step: 1 };
    const lengths = [20, 20, 20, 60, 60, 60, 120, 120, 120, 240];
    isNear(await sayAndDo(lengths, { epochs: 3, gradAccum: 1 }), 0.1);
  });

  test("a rest of an epoch is a small pass of its own", async () => {
    cost = { pass: (rows) => 100 + 5 * rows, step: 1 };
    isNear(await sayAndDo([50, 50, 50, 50, 50], { epochs: 4, gradAccum: 4 }), 0.01);
  });

  test("a step of several passes", async () => {
    cost = { pass: (rows) => 100 + 5 * rows, step: 1 };
    isNear(await sayAndDo([50, 50, 50, 50, 50, 50], { epochs: 2, gradAccum: 4, tokensPerPass: 100 }), 0.05);
  });

  test("passes of more rows than are measured", async () => {
    cost = { pass: (rows) => 5 * rows, step: 1 };
    isNear(await sayAndDo([900, 900, 900], { epochs: 2, gradAccum: 1, tokensPerPass: 1024 }), 0.01);
  });

  test("validation at each epoch's end and between: forward alone", async () => {
    cost = { pass: (rows) => 100 + 5 * rows, step: 1 };
    const options = { epochs: 3, gradAccum: 1, evalEvery: 2 };
    isNear(await sayAndDo([40, 40, 40], options, [40, 40, 40, 40]), 0.05);
  });

  test("measuring takes few passes, whatever the run has", async () => {
    cost = { pass: (rows) => 400 + 5 * rows, step: 1 };
    passes = 0;
    const model = new TimedModel();
    const config = { r: 2, lora_alpha: 4, lora_dropout: 0, target_modules: ["q_proj"] };
    const lora = applyLora(model, config, new Generator(7));
    const sequences = Array.from({ length: 200 }, (_, i) => sequence(10 + (i % 40)));
    const run = { model, lora, sequences, options: { epochs: 50, gradAccum: 1 } };
    await estimateSeconds({ ...run, steps: await plannedSteps(run), availableMemory: 1e9 }, false);
    expect(passes).toBeLessThanOrEqual(15);
    lora.remove();
    noGrad(() => model.dispose());
  });
});

test("memory is touched before anything is measured: by the largest pass, whole up to 2,048 rows", async () => {
  const first: number[][] = [];
  for (const lengths of [
    [20, 900, 300],
    [20, 2500, 300],
  ]) {
    const rows: number[] = [];
    cost = {
      pass: (count) => {
        rows.push(count);
        return count;
      },
      step: 1,
    };
    await sayAndDo(lengths, { epochs: 1, gradAccum: 1, tokensPerPass: 8192 });
    first.push(rows.slice(0, 3));
  }
  expect(first).toEqual([
    [16, 16, 900],
    [16, 16, 2048],
  ]);
});

test("seconds between measured passes lie on a straight line, beyond them in proportion", () => {
  const measured = [
    { flops: 10, seconds: 4 },
    { flops: 20, seconds: 5 },
    { flops: 40, seconds: 10 },
  ];
  expect([5, 10, 15, 20, 30, 40, 80].map((flops) => secondsOfPass(flops, measured))).toEqual([
    2, 4, 4.5, 5, 7.5, 10, 20,
  ]);
  expect([5, 20].map((flops) => secondsOfPass(flops, [{ flops: 10, seconds: 4 }]))).toEqual([2, 8]);
});

test("smallest, a middle one and largest are measured, as far as they differ", () => {
  const chosen = (...all: number[]): number[] => passesToMeasure(all.map((flops) => ({ flops }))).map((p) => p.flops);
  expect(chosen(10, 11, 12)).toEqual([12]);
  expect(chosen(10, 100, 11, 99)).toEqual([10, 100]);
  expect(chosen(100, 30, 10, 50, 20)).toEqual([10, 30, 100]);
  expect(chosen(7)).toEqual([7]);
});
