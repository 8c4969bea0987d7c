/**
 * The engine with adapters of the lora package, and on real weights: what is answered in a batch is what is answered
 * alone. The real weights' part says that it was skipped where they are absent.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type applyLora, type Lora, startLora } from "../packages/lora/src/index.ts";
import { type Engine, type EngineOptions, type EngineRequest, Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, Generator, Tensor } from "../packages/tensor/src/index.ts";
import { REAL_MODEL } from "./support/real-model.ts";

let device: Device;
beforeAll(async () => {
  device = await createDevice("cpu");
});
afterAll(() => device.dispose());

async function answer(engine: Engine, request: EngineRequest): Promise<number[]> {
  const tokens: number[] = [];
  for await (const event of engine.generate(request)) tokens.push(...event.tokens);
  return tokens;
}

/** Gives B numbers, so that the adapter changes something. */
function perturb(lora: Lora, seed: number, size: number): void {
  for (const [i, t] of lora.parameters().entries()) {
    const values = Float32Array.from({ length: t.size }, (_, at) => size * Math.sin(seed * 31 + i * 7 + at * 1.7));
    t.device.scatterRows(
      Tensor.from(values, [t.shape[0], t.size / t.shape[0]], { device: t.device }),
      Tensor.from(
        Array.from({ length: t.shape[0] }, (_, row) => row),
        [t.shape[0]],
        { dtype: "i32", device: t.device },
      ),
      t,
      "set",
    );
  }
}

const questions = [
  "免费空间有多大?",
  "How do I reset my password?",
  "Write a short poem about the sea.",
  "What is 17 times 23?",
  "Explain what a hash table is in one sentence.",
  "用一句话介绍北京。",
  "Translate 'good morning' to French, German and Spanish.",
  "Who wrote Hamlet, and when?",
];
const asked = (qwen: Qwen, question: string): number[] => [
  ...qwen.tokenizer.encode(qwen.tokenizer.renderChat([{ role: "user", content: question }])),
];

describe("adapters of the lora package", () => {
  test("several in one batch, of every kind, each answer that of its adapter alone; an attached one answers alike", async () => {
    using qwen = await Qwen.load(join(import.meta.dir, "../models/demo"), { device });
    const base = { r: 4, lora_alpha: 8, target_modules: ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"] };
    const loras: [string, Lora][] = [];
    for (const [name, config] of Object.entries({
      plain: {},
      dora: { use_dora: true },
      pissa: { init_lora_weights: "pissa" },
    })) {
      const lora = await startLora(
        qwen.model,
        { ...base, ...config } as Parameters<typeof applyLora>[1],
        new Generator(3),
      );
      perturb(lora, loras.length + 1, name === "pissa" ? 0.2 : 0.08);
      lora.detach();
      loras.push([name, lora]);
    }
    const start = (options: EngineOptions = {}): Engine => {
      const engine = qwen.createEngine({ cacheBytes: 2 ** 24, ...options });
      for (const [name, lora] of loras) engine.setAdapter(name, lora);
      return engine;
    };
    const requests: EngineRequest[] = [null, ...loras.map(([name]) => name)].flatMap((adapter) =>
      questions
        .slice(0, 3)
        .map((question) => ({ tokens: asked(qwen, question), adapter, maxNewTokens: 12, ignoreEnd: true })),
    );
    const alone: number[][] = [];
    for (const request of requests) {
      await using engine = start();
      alone.push(await answer(engine, request));
    }
    for (let q = 0; q < 3; q++) expect(new Set([0, 3, 6, 9].map((first) => String(alone[first + q]))).size).toBe(4);
    await using engine = start({ promptRows: 50 });
    const twice = [...requests, ...requests.toReversed()];
    const mixed: number[][] = await Promise.all(twice.map((request) => answer(engine, request)));
    expect(mixed).toEqual([...alone, ...alone.toReversed()]);
    // The same adapter attached to the model, and one prompt at a time.
    for (const [i, [, lora]] of loras.entries()) {
      lora.attach();
      const { tokens } = await qwen.complete(requests[0].tokens, { maxNewTokens: 12, endTokens: [] });
      expect(tokens).toEqual(alone[3 * (i + 1)]);
      lora.detach();
    }
    for (const [, lora] of loras) lora.remove();
  }, 120_000);
});

if (REAL_MODEL === undefined) {
  test.skip("answers of real weights alone and in a batch: the real weights are not on this machine", () => {});
} else {
  describe("real weights", () => {
    for (const quantize of [undefined, "q8"] as const) {
      test(`eight prompts at once, twice, are answered as each alone; weights ${quantize ?? "bf16"}`, async () => {
        using qwen = await Qwen.load(REAL_MODEL as string, { device, quantize });
        const requests = questions.map((question) => ({
          tokens: asked(qwen, question),
          maxNewTokens: quantize ? 4 : 6,
        }));
        const alone: number[][] = [];
        await using one = qwen.createEngine({ cacheBytes: 2 ** 27, proposedTokens: 0 });
        for (const request of quantize ? requests.slice(0, 3) : requests) alone.push(await answer(one, request));
        await using many = qwen.createEngine({ cacheBytes: 2 ** 27 });
        const together: number[][] = await Promise.all(
          [...requests, ...requests].map((request) => answer(many, request)),
        );
        alone.forEach((tokens, i) => {
          expect(together[i]).toEqual(tokens);
          expect(together[i + questions.length]).toEqual(tokens);
        });
      }, 240_000);
    }
  });
}
