import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Generator, memory, noGrad, scope, type Tensor } from "@tslm/tensor";
import { DivergenceError, OptionError } from "../errors.ts";
import { applyLora, type Lora } from "../lora.ts";
import { perturb, TinyModel, write } from "../testing.ts";
import type { TrainOptions } from "./options.ts";
import { packPasses, type TrainingPass, type TrainingSequence } from "./pass.ts";
import type { TrainResult } from "./result.ts";
import { totalSteps, train } from "./train.ts";

/** A sequence that predicts every token but the first. */
const full = (...tokens: number[]): TrainingSequence => ({ tokens, targets: [...tokens.slice(1), -1] });
const sequences: TrainingSequence[] = [
  full(1, 4, 2, 7, 3),
  full(5, 9, 10),
  { tokens: [2, 2, 6, 8, 1, 10], targets: [-1, -1, -1, 1, 10, -1] },
  full(3, 10),
  full(7, 6, 5, 4, 3, 2, 10),
];

const open: { lora: Lora; model: TinyModel }[] = [];
function make(dropout = 0, options: ConstructorParameters<typeof TinyModel>[0] = {}): { lora: Lora; model: TinyModel } {
  const model = new TinyModel(options);
  const config = { r: 2, lora_alpha: 4, lora_dropout: dropout, target_modules: ["q_proj", "v_proj"] };
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

async function weights(lora: Lora): Promise<number[]> {
  const all = await Promise.all(lora.parameters().map((t) => t.data()));
  return all.flatMap((values) => [...values]);
}

/** Trains a new adapter; B starts different from 0 so that all gradients count. */
async function run(options: TrainOptions, dropout = 0): Promise<{ result: TrainResult; weights: number[] }> {
  const { lora, model } = make(dropout);
  await perturb(lora.parameters());
  const result = await train({ model, lora, sequences, options });
  return { result, weights: await weights(lora) };
}

const closeTo = (a: readonly number[], b: readonly number[], limit: number): void => {
  expect(a.length).toBe(b.length);
  expect(Math.max(...a.map((x, i) => Math.abs(x - b[i])))).toBeLessThan(limit);
};
const losses = ({ result }: { result: TrainResult }): number[] => result.steps.map((s) => s.loss);

describe("a step", () => {
  test("token accuracy: the share of targets that the step found the likeliest token, however it is split", async () => {
    const { lora, model } = make();
    await perturb(lora.parameters());
    const [pass] = packPasses(sequences, 1000);
    const logits = model.hidden(pass).matmul(model.lm_head.weight.transpose(0, 1));
    const likeliest = [...(await logits.argmax().data())];
    const wanted = [...pass.targets.entries()].filter(([, target]) => target >= 0);
    const share = wanted.filter(([row, target]) => likeliest[row] === target).length / wanted.length;
    expect(share).toBeGreaterThan(0);
    for (const tokensPerPass of [1000, 8]) {
      const options = { epochs: 1, gradAccum: 5, lr: 1e-30, tokensPerPass };
      const { steps } = await train({ model, lora, sequences, options });
      expect(steps.map((s) => s.token_accuracy)).toEqual([share]);
    }
    const silent = { ...model, loss: ({ correct: _, ...pass }: TrainingPass) => model.loss(pass) };
    const { steps } = await train({ model: silent, lora, sequences, options: { epochs: 1 } });
    expect(steps[0].token_accuracy).toBeUndefined();
  });

  test("takes batch × gradAccum sequences, the last one of an epoch what is left", async () => {
    const { result } = await run({ epochs: 2, shuffle: false });
    expect(result.steps.map((s) => [s.step, s.epoch, s.tokens])).toEqual([
      [1, 1, 16],
      [2, 1, 7],
      [3, 2, 16],
      [4, 2, 7],
    ]);
    expect(result.tokens).toBe(46);
    expect(totalSteps(5, { epochs: 2 })).toBe(4);
    expect(totalSteps(4, { epochs: 3, batch: 2, gradAccum: 2 })).toBe(3);
  });

  test("equals the mean over all predicted tokens of separately computed sequences, in f64", async () => {
    const { lora, model } = make(0, { dtype: "f64" });
    await perturb(lora.parameters());
    const predicted = 4 + 2 + 2 + 1;
    let expected = 0;
    for (const sequence of sequences.slice(0, 4)) {
      const [alone] = packPasses([sequence], 100);
      const scale = alone.scale.map((s) => (s > 0 ? 1 / predicted : 0));
      const loss = scope(() => {
        const value = model.loss({ ...alone, scale });
        value.backward();
        return value.detach();
      });
      expected += await loss.item();
      loss.dispose();
    }
    const gradient = await Promise.all(lora.parameters().map(async (p) => [...(await p.grad!.data())]));
    const norm = Math.sqrt(gradient.flat().reduce((s, g) => s + g * g, 0));
    for (const p of lora.parameters()) {
      p.grad!.dispose();
      p.grad = undefined;
    }
    const { steps } = await train({
      model,
      lora,
      sequences: sequences.slice(0, 4),
      options: { epochs: 1, shuffle: false },
    });
    expect(Math.abs(steps[0].loss - expected)).toBeLessThan(1e-6);
    expect(Math.abs(steps[0].grad_norm / norm - 1)).toBeLessThan(1e-6);
    const norms = gradient.map((g) => Math.hypot(...g));
    closeTo(Object.values(steps[0].first_grad_norms!), norms, 1e-6);
    expect(Object.keys(steps[0].first_grad_norms!)[1]).toBe(
      "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
    );
  });

  test("accumulation equals a large batch (trl #2175), in however many passes", async () => {
    const options = { epochs: 2, lr: 1e-2, shuffle: false };
    const whole = await run({ ...options, batch: 4, gradAccum: 1 });
    const accumulated = await run({ ...options, batch: 2, gradAccum: 2 });
    expect(accumulated.weights).toEqual(whole.weights);
    for (const tokensPerPass of [1, 7, 12]) {
      const split = await run({ ...options, tokensPerPass });
      closeTo(losses(split), losses(whole), 1e-5);
      closeTo(split.weights, whole.weights, 1e-4);
    }
  });

  test("moves the adapter as AdamW on the clipped gradient does, written out in numbers", async () => {
    const clip = 0.05;
    const { lora, model } = make();
    await perturb(lora.parameters());
    const before = await weights(lora);
    const pass = packPasses(sequences.slice(0, 4), 100)[0];
    scope(() => model.loss(pass).backward());
    const gradient = (await Promise.all(lora.parameters().map((p) => p.grad!.data()))).flatMap((g) => [...g]);
    const norm = Math.hypot(...gradient);
    expect(norm).toBeGreaterThan(clip);
    const { steps } = await train({
      model,
      lora,
      sequences: sequences.slice(0, 4),
      options: { epochs: 1, lr: 1e-2, clip, weightDecay: 0.1, eps: 1e-3, shuffle: false },
    });
    expect(Math.abs(steps[0].grad_norm / norm - 1)).toBeLessThan(1e-5);
    const expected = before.map((w, i) => {
      const g = gradient[i] * (clip / (norm + 1e-6));
      return w * (1 - 1e-2 * 0.1) - (1e-2 * g) / (Math.abs(g) + 1e-3);
    });
    closeTo(await weights(lora), expected, 1e-6);
  });
});

describe("the learning rate", () => {
  const rates = async (options: TrainOptions): Promise<number[]> => {
    const { result } = await run({ epochs: 5, batch: 5, gradAccum: 1, lr: 1, clip: 1e-9, ...options });
    return result.steps.map((s) => Number(s.lr.toFixed(6)));
  };
  test("linear: step k of n has lr·(1−(k−1)/n)", async () => {
    expect(await rates({})).toEqual([1, 0.8, 0.6, 0.4, 0.2]);
  });
  test("constant, cosine, with warm-up", async () => {
    expect(await rates({ scheduler: "constant" })).toEqual([1, 1, 1, 1, 1]);
    expect(await rates({ scheduler: "cosine", epochs: 4 })).toEqual([1, 0.853553, 0.5, 0.146447]);
    expect(await rates({ warmup: 0.4 })).toEqual([0, 0.5, 1, 0.666667, 0.333333]);
  });
});

describe("the seed", () => {
  test("decides order and dropout: equal seeds give equal numbers, bit for bit", async () => {
    const options = { epochs: 2, lr: 1e-2, seed: 11 };
    const [a, b] = [await run(options, 0.5), await run(options, 0.5)];
    expect(losses(a)).toEqual(losses(b));
    expect(a.weights).toEqual(b.weights);
    const other = await run({ ...options, seed: 12 }, 0.5);
    expect(losses(other)).not.toEqual(losses(a));
  });

  test("masks do not depend on the split into passes, and differ by step", async () => {
    const options = { epochs: 3, lr: 1e-12, shuffle: false, batch: 5, gradAccum: 1 };
    const [whole, split] = [await run(options, 0.5), await run({ ...options, tokensPerPass: 6 }, 0.5)];
    closeTo(losses(split), losses(whole), 1e-5);
    expect(new Set(losses(whole).map((loss) => loss.toFixed(4))).size).toBe(3);
  });

  test("without dropout in evaluation: training leaves it off", async () => {
    const { lora, model } = make(0.5);
    await perturb(lora.parameters());
    await train({ model, lora, sequences, options: { epochs: 1 } });
    const hidden = async (): Promise<unknown> => {
      using out = scope(() => noGrad(() => model.hidden(packPasses(sequences, 100)[0])));
      return out.data();
    };
    expect(await hidden()).toEqual(await hidden());
    expect(lora.dropout.training).toBe(false);
  });
});

describe("a run ends early", () => {
  test("by a loss that is no number: the adapter is as it was before that step", async () => {
    const { lora, model } = make();
    const norm = model.model.layers[1].input_layernorm.weight;
    let before: number[] = [];
    const failing = train({
      model,
      lora,
      sequences,
      async onStep({ step }) {
        if (step !== 2) return;
        before = await weights(lora);
        write(norm, new Float32Array(8).fill(Number.NaN));
      },
    });
    const error = await failing.catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DivergenceError);
    expect((error as DivergenceError).step).toBe(3);
    expect((error as Error).message).toMatch(
      /^training diverged: loss NaN in step 3; the step before had loss \d.*\. Nothing was saved; take a lower/,
    );
    expect(await weights(lora)).toEqual(before);
    expect(before.every(Number.isFinite)).toBe(true);
  });

  test("by a gradient that is not finite although the loss is", async () => {
    const { lora, model } = make();
    const broken = {
      loss(pass: TrainingPass): Tensor {
        const loss = model.loss(pass);
        return loss.add(lora.parameters()[1].sum().abs().sqrt());
      },
    };
    await expect(train({ model: broken, lora, sequences })).rejects.toThrow(
      "training diverged: gradient norm NaN in step 1",
    );
  });

  test("by a signal, between passes", async () => {
    const { lora, model } = make();
    const controller = new AbortController();
    let passes = 0;
    const counting = {
      loss(pass: TrainingPass): Tensor {
        if (++passes === 6) controller.abort(new Error("enough"));
        return model.loss(pass);
      },
    };
    const options = { tokensPerPass: 1, shuffle: false };
    const running = train({ model: counting, lora, sequences, options, signal: controller.signal });
    await expect(running).rejects.toThrow("enough");
    expect(passes).toBe(6);
    expect(lora.dropout.training).toBe(false);
    expect(lora.parameters().some((p) => p.grad)).toBe(false);
  });

  test("with all memory given back", async () => {
    const { lora, model } = make();
    // The collector may free what earlier tests left, so the count can only be compared upwards, over many runs.
    const { storages } = memory();
    for (let i = 0; i < 50; i++) {
      const controller = new AbortController();
      const running = train({ model, lora, sequences, signal: controller.signal, onStep: () => controller.abort() });
      expect(((await running.catch((e: unknown) => e)) as Error).name).toBe("AbortError");
    }
    expect(memory().storages).toBeLessThanOrEqual(storages);
  });

  test("by a timer: the event loop turns between passes", async () => {
    const { lora, model } = make();
    const signal = AbortSignal.timeout(30);
    const options = { epochs: 1_000_000 };
    const error = await train({ model, lora, sequences, options, signal }).catch((e: unknown) => e);
    expect((error as Error).name).toBe("TimeoutError");
  });
});

test("Ctrl-C arrives while a run computes", async () => {
  const script = `
    import { Generator } from "@tslm/tensor";
    import { applyLora, train } from "./src/index.ts";
    import { TinyModel } from "./src/testing.ts";
    const stop = new AbortController();
    process.on("SIGINT", () => stop.abort());
    const model = new TinyModel();
    const lora = applyLora(model, { target_modules: ["q_proj"] }, new Generator(1));
    const sequences = [{ tokens: [1, 2, 3], targets: [2, 3, -1] }];
    const onStep = ({ step }) => step === 5 && console.log("running");
    await train({ model, lora, sequences, options: { epochs: 1e9 }, signal: stop.signal, onStep }).catch((e) => {
      console.log(e.name);
      process.exit(130);
    });`;
  const child = Bun.spawn([process.execPath, "-e", script], {
    cwd: join(import.meta.dir, "..", ".."),
    stdout: "pipe",
    stderr: "inherit",
  });
  const output = child.stdout.getReader();
  const read = async (): Promise<string> => new TextDecoder().decode((await output.read()).value);
  expect(await read()).toBe("running\n");
  child.kill("SIGINT");
  expect(await read()).toBe("AbortError\n");
  expect(await child.exited).toBe(130);
});

test("memory is flat over 1,000 steps", async () => {
  const { lora, model } = make(0.1, { layers: 1 });
  const counts: [number, number][] = [];
  const options = { epochs: 500, lr: 1e-3, tokensPerPass: 12, shuffle: false };
  await train({
    model,
    lora,
    sequences,
    options,
    onStep: () => void counts.push([memory().storages, memory().bytes]),
  });
  expect(counts.length).toBe(1000);
  // Never upwards; downwards when the collector frees what earlier tests left.
  for (const at of [0, 1]) expect(Math.max(...counts.map((c) => c[at]))).toBe(counts[0][at]);
});

test("it learns: five sequences by heart", async () => {
  const model = new TinyModel({ size: 32, seed: 3 });
  const lora = applyLora(model, { r: 8, lora_alpha: 32, target_modules: "all-linear" }, new Generator(1));
  open.push({ lora, model });
  const unambiguous = [full(1, 4, 2, 7, 3), full(5, 9, 10), full(8, 6, 0)];
  const { steps } = await train({ model, lora, sequences: unambiguous, options: { epochs: 60, lr: 2e-2 } });
  expect(steps[0].loss).toBeGreaterThan(1.5);
  expect(steps.at(-1)!.loss).toBeLessThan(0.1);
});

describe("what cannot be run is refused by name", () => {
  const cases: [string, TrainOptions, string][] = [
    ["epochs", { epochs: 0 }, "epochs must be a whole number of at least 1, not 0"],
    ["lr", { lr: Number.NaN }, "lr must be a number above 0, not NaN"],
    ["lr", { lr: -1 }, "lr must be a number above 0, not -1"],
    ["batch", { batch: 1.5 }, "batch must be a whole number of at least 1, not 1.5"],
    ["gradAccum", { gradAccum: 0 }, "gradAccum must be a whole number of at least 1, not 0"],
    [
      "scheduler",
      { scheduler: "step" as "linear" },
      "scheduler must be one of linear, cosine, constant, cosine_with_restarts, not step",
    ],
    ["warmup", { warmup: 1.1 }, "warmup must be a share of the steps, from 0 to 1, not 1.1"],
    ["weightDecay", { weightDecay: -0.1 }, "weightDecay must be a number of at least 0, not -0.1"],
    ["clip", { clip: Number.POSITIVE_INFINITY }, "clip must be a number of at least 0, not Infinity"],
    ["seed", { seed: 2 ** 53 }, "seed must be a whole number from 0 to 2^53-1, not 9007199254740992"],
    ["betas", { betas: [0.9, 1] }, "betas must be two numbers from 0 up to, not including, 1, not 0.9,1"],
    ["learningRate", { learningRate: 1 } as TrainOptions, "there is no training option learningRate"],
  ];
  test.each(cases)("%s %#", async (option, options, sentence) => {
    const { lora, model } = make();
    const error = await train({ model, lora, sequences, options }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OptionError);
    expect((error as OptionError).message).toBe(sentence);
    expect((error as OptionError).option).toBe(option);
  });

  test("sequences", async () => {
    const { lora, model } = make();
    const refused = async (items: TrainingSequence[], sentence: string): Promise<void> => {
      await expect(train({ model, lora, sequences: items })).rejects.toThrow(sentence);
    };
    await refused([], "there is nothing to train on: no sequences");
    await refused(
      [full(1, 2), { tokens: [1, 2], targets: [-1, -1] }],
      "sequence 2 has no token to learn; leave it out",
    );
    await refused([{ tokens: [1, 2], targets: [2] }], "sequence 1 has 2 tokens and 1 targets");
    lora.merge();
    await refused([full(1, 2)], "an adapter that is merged or not enabled cannot be trained");
    lora.unmerge();
    lora.detach();
    await refused([full(1, 2)], "the adapter is not attached to its model; call attach() first");
  });
});
