/**
 * Gradient accumulation is the large batch (trl #2175: there it was not, because each batch's mean counted the same
 * however few tokens it had), on the demo model and, where they are, on real weights: losses, gradient norms and trained
 * weights of the five rows that ship with the program, of which only the answers, of unequal lengths, carry loss.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { readExamples } from "../packages/data/src/index.ts";
import { applyLora, promptFormat, type TrainOptions, train, trainingSequences } from "../packages/lora/src/index.ts";
import { Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, Generator } from "../packages/tensor/src/index.ts";
import { findWeights } from "./support/golden.ts";

const ROOT = join(import.meta.dir, "..");
const models: [name: string, dir: string | undefined][] = [
  ["demo", join(ROOT, "models/demo")],
  ["real weights", findWeights()],
];

describe.each(models)("%s", (_, dir) => {
  let device: Device;
  let qwen: Qwen;
  beforeAll(async () => {
    if (dir === undefined) return;
    device = await createDevice("cpu");
    qwen = await Qwen.load(dir, { device });
  });
  afterAll(async () => {
    qwen?.dispose();
    await device?.dispose();
  });

  test.skipIf(dir === undefined)(
    "four batches of one, one batch of four, and four passes of one sequence give the same run to rounding",
    async () => {
      const { tokenizer, model } = qwen;
      const { sequences } = trainingSequences(await readExamples(join(ROOT, "data/input/lora_train_data.csv")), {
        prompt: promptFormat("test"),
        encode: (text) => tokenizer.encode(text),
        endTokenId: tokenizer.tokenToId("<|im_end|>")!,
        loss: "completion",
      });
      const answers = sequences.map(({ targets }) => targets.filter((target) => target >= 0).length);
      expect(new Set(answers).size).toBeGreaterThan(1);
      const run = async (options: TrainOptions) => {
        const config = { r: 4, lora_alpha: 32, target_modules: ["q_proj", "v_proj"] };
        using lora = applyLora(model, config, new Generator(1));
        const { steps } = await train({ model, lora, sequences, options: { epochs: 1, lr: 1e-3, ...options } });
        const weights = await Promise.all(lora.parameters().map((p) => p.data()));
        return {
          numbers: steps.flatMap(({ loss, grad_norm }) => [loss, grad_norm]),
          weights: weights.flatMap((values) => [...values]),
        };
      };
      const large = await run({ batch: 4, gradAccum: 1 });
      const accumulated = await run({ batch: 1, gradAccum: 4 });
      expect(accumulated).toEqual(large);
      const apart = await run({ batch: 1, gradAccum: 4, tokensPerPass: 1 });
      expect(apart.numbers).toHaveLength(4);
      for (const [i, number] of apart.numbers.entries())
        expect(Math.abs(number / large.numbers[i] - 1)).toBeLessThan(1e-4);
      // The first step of AdamW moves each weight by the rate, so a gradient of the wrong sign would show as 2e-3.
      const strays = apart.weights.filter((weight, i) => Math.abs(weight - large.weights[i]) > 1e-4);
      expect(strays.length / apart.weights.length).toBeLessThan(1e-3);
    },
    300_000,
  );
});
