/**
 * Training and answers on the gpu device: the demo model with the commands, against the cpu device, and on real weights
 * against PyTorch's numbers. Software drivers are slow, so of the golden values there are as many as take a minute. Needs
 * an adapter (see .ci/run), and the golden values and weights for their part; says so when absent.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { applyLora, loadAdapter, type TrainResult, train } from "../packages/lora/src/index.ts";
import { Qwen } from "../packages/qwen/src/index.ts";
import type { GpuDevice } from "../packages/tensor/src/devices/gpu/device.ts";
import { gpuHere } from "../packages/tensor/src/devices/gpu/testing.ts";
import {
  createDevice,
  Generator,
  memory,
  openSafetensors,
  reference,
  setDefaultDevice,
} from "../packages/tensor/src/index.ts";
import { findGolden, findWeights, titleOf } from "./support/golden.ts";
import { command, OFFLINE, ROOT, temporaryFolder } from "./support/process.ts";
import { trainingSteps } from "./support/training-step.ts";

const here = await gpuHere();
const gpu = here.missing === undefined;
const TIMEOUT_MS = 600_000;

const relative = (got: number, want: number): number => Math.abs(got - want) / Math.max(Math.abs(want), 1e-12);
const furthest = (got: readonly number[], want: readonly number[]): number =>
  Math.max(...want.map((w, i) => Math.abs(got[i] - w)));

const small = titleOf("gpu", { [`adapter: ${here.missing ?? ""}`]: gpu });
describe.skipIf(small.skip)(small.title, () => {
  let device: GpuDevice;
  beforeAll(async () => {
    device = await here.open();
  });
  afterAll(async () => {
    setDefaultDevice(reference);
    await device?.dispose();
  });

  test("two training steps are the cpu device's: losses within 1e-5, weights within 1e-4", async () => {
    const cpu = await createDevice("cpu");
    const want = await trainingSteps(cpu);
    await cpu.dispose();
    const got = await trainingSteps(device);
    expect(furthest(got.losses, want.losses)).toBeLessThan(1e-5);
    expect(furthest(got.gradNorms, want.gradNorms)).toBeLessThan(1e-4);
    expect(furthest(got.weights, want.weights)).toBeLessThan(1e-4);
  });

  test("the same run again gives the same bits", async () => {
    expect(await trainingSteps(device)).toEqual(await trainingSteps(device));
  });

  test("one read-back a training step and one a token, and no memory is left", async () => {
    setDefaultDevice(device);
    const { counts, pool } = device.context;
    const qwen = await Qwen.load(join(ROOT, "models/demo"), { device });
    const lora = applyLora(qwen.model, { r: 4, lora_alpha: 8, target_modules: ["q_proj", "v_proj"] }, new Generator(0));
    const sequences = [9, 14].map((length) => {
      const tokens = Array.from({ length }, (_, t) => (31 * t * t + 7) % 300);
      return { tokens, targets: [...tokens.slice(1), -1] };
    });
    const reads: number[] = [];
    const held: number[] = [];
    const options = { epochs: 8, lr: 1e-3, batch: 2, shuffle: false };
    await train({
      ...{ model: qwen.model, lora, sequences, options },
      onStep: () => {
        reads.push(counts.reads);
        held.push(memory().bytes, pool.bytes);
      },
    });
    expect(reads.slice(1).map((n, i) => n - reads[i])).toEqual(Array(7).fill(1));
    expect(held.slice(-2)).toEqual(held.slice(4, 6));

    const ids = qwen.tokenizer.encode("免费空间有多大?");
    const bytes = memory().bytes;
    const before = counts.reads;
    const { tokens, endToken } = await qwen.complete(ids, { maxNewTokens: 12 });
    expect(counts.reads - before).toBe(tokens.length + (endToken === undefined ? 0 : 1));
    expect(memory().bytes).toBe(bytes);
    lora.remove();
    qwen.dispose();
  });

  test(
    "the demo is trained and asked by the commands",
    async () => {
      await using folder = await temporaryFolder();
      const adapter = join(folder.path, "adapter");
      const data = join(ROOT, "data/input/lora_train_data.csv");
      const trained = await command("train", ["--model", "demo", "--device", "gpu", "--data", data, "--out", adapter], {
        env: OFFLINE,
      });
      expect(trained.stderr).toContain("on gpu (");
      expect([trained.status, trained.stdout + trained.stderr]).toEqual([0, expect.stringContaining("15GB")]);
      const question = "免费空间有多大?";
      const given = ["--model", "demo", "--adapter", adapter, "--device"];
      const [onGpu, onCpu] = await Promise.all(
        ["gpu", "cpu"].map((name) => command("ask", [question, ...given, name], { env: OFFLINE })),
      );
      expect(onGpu.stdout).toContain("15GB");
      expect(onGpu.stdout).toBe(onCpu.stdout);
    },
    TIMEOUT_MS,
  );

  test(
    "a GPU lost in the middle, or out of memory: training goes on on the cpu, and the adapter is an undisturbed run's",
    async () => {
      await using folder = await temporaryFolder();
      const data = join(ROOT, "data/input/lora_train_data.csv");
      const train = async (script: string, name: string, env: Record<string, string>) => {
        const out = join(folder.path, name);
        const given = ["--model", "demo", "--device", "gpu", "--data", data, "--epochs", "6", "--save-every", "2"];
        const ended = await command(script, [...given, "--out", out], { env: { ...OFFLINE, ...env } });
        return { ended, adapter: await openSafetensors(join(out, "adapter_model.safetensors")) };
      };
      const whole = await train("train", "whole", {});
      expect([whole.ended.status, whole.ended.stderr]).toEqual([0, expect.not.stringContaining("lost")]);
      const losing = "../../../../test/support/train-losing-gpu";
      for (const [name, env, said] of [
        ["broken", { LOSE_GPU_AFTER: "450" }, "the GPU was lost"],
        ["full", { FILL_GPU_AFTER: "450" }, /the GPU, which holds \d+ MiB in \d+ buffers, is out of memory/],
      ] as const) {
        const { ended, adapter } = await train(losing, name, env);
        expect(ended.stderr).toMatch(said);
        expect(ended.stderr).toContain("goes on on the cpu, from its last checkpoint");
        expect(ended.status).toBe(0);
        for (const [key, want] of whole.adapter.tensors({ device: reference })) {
          const got = adapter.tensors({ device: reference }).get(key)!;
          // What both have learned differs in the rounding of the steps that the cpu did.
          expect(furthest([...(await got.data())], [...(await want.data())])).toBeLessThan(1e-4);
        }
      }
    },
    TIMEOUT_MS,
  );
});

interface Golden {
  logits: {
    ids: number[];
    top10_ids: number[];
    top10: number[];
    logsumexp: number;
    samples: Record<string, number>;
    token_logprobs: number[];
  }[];
  greedy: { prompt: string; new_ids: number[] }[];
  train: {
    config: { lr: number };
    sequences: number[][];
    steps: { loss: number; grad_norm: number; first_grad_norms: Record<string, number> }[];
  }[];
}

const folder = findGolden();
const weights = findWeights();
const golden: Golden | undefined = folder && (await Bun.file(join(folder, "golden.json")).json());
const { title, skip } = titleOf("golden values on gpu", {
  "golden values": golden,
  "real weights": weights,
  adapter: gpu,
});

describe.skipIf(skip)(title, () => {
  let device: GpuDevice;
  let qwen: Qwen;
  beforeAll(async () => {
    device = await here.open();
    setDefaultDevice(device);
    qwen = await Qwen.load(weights!, { device });
  }, TIMEOUT_MS);
  afterAll(async () => {
    qwen?.dispose();
    setDefaultDevice(reference);
    await device?.dispose();
  });

  test(
    "logits of every prompt within 1e-4, log-probabilities within 3e-4",
    async () => {
      for (const want of golden!.logits) {
        const got = await qwen.score(want.ids);
        expect(
          furthest(
            want.top10_ids.map((id) => got.logits[id]),
            want.top10,
          ),
        ).toBeLessThan(1e-4);
        for (const [id, value] of Object.entries(want.samples)) {
          expect(Math.abs(got.logits[Number(id)] - value)).toBeLessThan(1e-4);
        }
        expect(got.top.map(([id]) => id)).toEqual(want.top10_ids);
        expect(Math.abs(got.logsumexp - want.logsumexp)).toBeLessThan(1e-4);
        expect(furthest(got.tokenLogprobs, want.token_logprobs)).toBeLessThan(3e-4);
      }
    },
    TIMEOUT_MS,
  );

  test(
    "a greedy answer: the same tokens",
    async () => {
      const shortest = golden!.greedy.toSorted((a, b) => a.new_ids.length - b.new_ids.length).slice(0, 1);
      for (const { prompt, new_ids } of shortest) {
        const answer = await qwen.complete(qwen.tokenizer.encode(prompt), { maxNewTokens: 40 });
        expect([...answer.tokens, ...(answer.endToken === undefined ? [] : [answer.endToken])]).toEqual(new_ids);
      }
    },
    TIMEOUT_MS,
  );

  test(
    "a training step: loss within 1e-4 relative, gradient norms within 1e-3",
    async () => {
      const [{ config, sequences, steps }] = golden!.train;
      const lora = await loadAdapter(join(folder!, "r8_qv_init"), qwen.model);
      let result: TrainResult;
      try {
        result = await train({
          ...{ model: qwen.model, lora },
          sequences: sequences.map((tokens) => ({ tokens, targets: [...tokens.slice(1), -1] })),
          options: { epochs: 3, lr: config.lr, shuffle: false },
          onStep: () => "stop",
        });
      } finally {
        lora.remove();
      }
      const [want, got] = [steps[0], result.steps[0]];
      expect(relative(got.loss, want.loss)).toBeLessThan(1e-4);
      expect(relative(got.grad_norm, want.grad_norm)).toBeLessThan(1e-3);
      for (const [key, norm] of Object.entries(want.first_grad_norms)) {
        const found = got.first_grad_norms![key.replace(".default.weight", ".weight")];
        expect([key, norm === 0 ? found === 0 : relative(found, norm) < 1e-3]).toEqual([key, true]);
      }
    },
    TIMEOUT_MS,
  );
});
