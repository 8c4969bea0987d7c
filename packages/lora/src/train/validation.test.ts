import { afterEach, describe, expect, test } from "bun:test";
import { Generator, noGrad, scope } from "@tslm/tensor";
import fc from "fast-check";
import { DivergenceError, OptionError, UnchangedError } from "../errors.ts";
import { applyLora, type Lora } from "../lora.ts";
import { perturb, TinyModel, write } from "../testing.ts";
import { checkOutcome } from "./outcome.ts";
import { packPasses, predictedTokens, type TrainingPass, type TrainingSequence } from "./pass.ts";
import { splitRows } from "./split.ts";
import { type TrainRun, train } from "./train.ts";

const full = (...tokens: number[]): TrainingSequence => ({ tokens, targets: [...tokens.slice(1), -1] });
const sequences = [full(1, 4, 2, 7, 3), full(5, 9, 10), full(2, 2, 6, 8), full(3, 10)];
const validation = [full(1, 4, 2, 9, 3), full(5, 9), full(3, 1, 1)];

const open: { lora: Lora; model: TinyModel }[] = [];
function make(): { lora: Lora; model: TinyModel } {
  const model = new TinyModel();
  const config = { r: 2, lora_alpha: 4, lora_dropout: 0.5, target_modules: ["q_proj", "v_proj"] };
  const lora = applyLora(model, config, new Generator(7));
  open.push({ lora, model });
  return { lora, model };
}
afterEach(() => {
  for (const { lora, model } of open.splice(0)) {
    lora.remove();
    model.dispose();
  }
});

async function run(given: Partial<TrainRun>) {
  const { lora, model } = make();
  await perturb(lora.parameters());
  const result = await train({ model, lora, sequences, validation, ...given });
  return { lora, model, result };
}

/** The mean over all predicted tokens, one sequence at a time. */
async function lossOf(model: TinyModel): Promise<number> {
  let sum = 0;
  for (const sequence of validation) {
    const [{ rows: _, ...pass }] = packPasses([sequence], 100);
    using loss = noGrad(() => scope(() => model.loss(pass)));
    sum += (await loss.item()) * predictedTokens([sequence]);
  }
  return sum / predictedTokens(validation);
}

describe("validation", () => {
  test("its loss is the mean over all its predicted tokens, without dropout, every N steps and at each epoch's end", async () => {
    const losses: number[] = [];
    const { lora, model } = make();
    const seen: (number | undefined)[] = [];
    const result = await train({
      model,
      lora,
      sequences,
      validation,
      options: { epochs: 2, gradAccum: 1, evalEvery: 3, lr: 1e-2 },
      async onStep({ validation_loss }) {
        expect(lora.dropout.training).toBe(false);
        seen.push(validation_loss);
        losses.push(await lossOf(model));
      },
    });
    expect(result.steps.flatMap((s) => (s.validation_loss === undefined ? [] : [s.step]))).toEqual([3, 4, 6, 8]);
    expect(result.steps.map((s) => s.validation_loss)).toEqual(seen);
    for (const [i, { validation_loss }] of result.steps.entries()) {
      if (validation_loss !== undefined) expect(Math.abs(validation_loss - losses[i])).toBeLessThan(1e-5);
    }
  });

  test("changes nothing of the training, in however many passes", async () => {
    const options = { epochs: 3, lr: 1e-2 };
    const losses = async (given: Partial<TrainRun>) =>
      (await run({ options: { ...options, evalEvery: 1, tokensPerPass: 12 }, ...given })).result.steps.map(
        (s) => s.loss,
      );
    expect(await losses({})).toEqual(await losses({ validation: undefined }));
  });

  test("the best step's weights are the result, and it is told which", async () => {
    const options = { epochs: 12, lr: 0.3, scheduler: "constant" as const };
    const { result, model } = await run({ options });
    const losses = result.steps.map((s) => s.validation_loss!);
    const best = Math.min(...losses);
    expect(result.best).toEqual({ step: losses.indexOf(best) + 1, validation_loss: best });
    expect(result.step).toBe(result.best!.step);
    expect(result.step).toBeLessThan(12);
    expect(Math.abs((await lossOf(model)) - best)).toBeLessThan(1e-5);
    expect(result.stopped).toBeUndefined();
  });

  test("early stop: after so many evaluations in a row that are no better", async () => {
    const options = { epochs: 40, lr: 0.3, scheduler: "constant" as const, earlyStop: 3 };
    const { result } = await run({ options });
    expect(result.stopped).toBe("early-stop");
    expect(result.steps.length).toBe(result.best!.step + 3);
  });

  test("a loss that is no number ends the run", async () => {
    const { lora, model } = make();
    const breaking = {
      loss: (pass: TrainingPass) => (lora.dropout.training ? model.loss(pass) : model.loss(pass).mul(Number.NaN)),
    };
    const failed = await train({ model: breaking, lora, sequences, validation }).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(DivergenceError);
    expect((failed as Error).message).toStartWith("training diverged: validation loss NaN after step 1.");
  });

  test("sequences that cannot be evaluated are refused", async () => {
    await expect(run({ validation: [{ tokens: [1, 2], targets: [-1, -1] }] })).rejects.toThrow("has no token to learn");
  });
});

test("a run ends when what it is to learn is learned, with the last weights, or when its caller says so", async () => {
  let asked = 0;
  const learned = await run({ options: { epochs: 9, lr: 0.3 }, isLearned: () => ++asked === 4 });
  expect([learned.result.stopped, learned.result.steps.length, learned.result.step]).toEqual(["learned", 4, 4]);
  const stopped = await run({
    options: { epochs: 9 },
    validation: undefined,
    onStep: ({ step }) => (step === 2 ? "stop" : undefined),
  });
  expect([stopped.result.stopped, stopped.result.steps.length]).toEqual(["asked", 2]);
});

describe("an adapter that must not take the place of a good one", () => {
  test("is one that training left as it was (mlx-lm #49: saved as success)", async () => {
    const { lora } = make();
    const before = await lora.norms();
    await expect(checkOutcome(lora, before, 3)).rejects.toThrow(UnchangedError);
    await perturb([lora.parameters()[1]]);
    await checkOutcome(lora, before, 3);
  });
  test("or one with a weight that is no number", async () => {
    const { lora } = make();
    const before = await lora.norms();
    const values = await lora.parameters()[2].data();
    write(lora.parameters()[2], values.fill(Number.POSITIVE_INFINITY, 3, 4));
    await expect(checkOutcome(lora, before, 3)).rejects.toThrow(
      /^training diverged: after step 3 base_model.*layers\.0.*v_proj.lora_A.weight holds a number that is not finite/,
    );
  });
});

describe("splitRows", () => {
  test("rows of one key stay together, the pinned in training; every row is on one side", async () => {
    const rows = fc.array(fc.nat(30), { minLength: 3, maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(rows, fc.double({ min: 0.05, max: 0.9 }), fc.nat(1000), async (numbers, share, seed) => {
        const keys = numbers.map(String);
        fc.pre(new Set(keys).size > 2);
        const keep = [0];
        const { training, validation } = await splitRows(keys, { share, seed, keep });
        expect([...training, ...validation].sort((a, b) => a - b)).toEqual([...keys.keys()]);
        expect(validation.length).toBeGreaterThan(0);
        expect(training).toContain(0);
        const [seen, held] = [training, validation].map((side) => new Set(side.map((row) => keys[row])));
        expect(seen.isDisjointFrom(held)).toBe(true);
        expect([training, validation]).toEqual([training, validation].map((side) => side.toSorted((a, b) => a - b)));
        expect(await splitRows(keys, { share, seed, keep })).toEqual({ training, validation });
      }),
      { numRuns: 40 },
    );
  });
  test("the share that was asked for, by the seed", async () => {
    const keys = Array.from({ length: 200 }, (_, i) => String(i));
    const split = (seed: number) => splitRows(keys, { share: 0.1, seed });
    expect((await split(1)).validation.length).toBe(20);
    expect((await split(2)).validation).not.toEqual((await split(1)).validation);
  });
  test("what cannot be divided is refused", async () => {
    await expect(splitRows(["a", "a"], { share: 0.5, seed: 0 })).rejects.toThrow(OptionError);
    await expect(splitRows(["a", "b"], { share: 0.5, seed: 0, keep: [0, 1] })).rejects.toThrow(
      "nothing can be held out of 2 rows: too few say something of their own",
    );
  });
});
