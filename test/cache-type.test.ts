/** What a cache of 8 bits changes on real weights: little in numbers, and nothing between an answer alone and in company. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type CacheType, type EngineRequest, KeyValueCache, Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, noGrad, scope } from "../packages/tensor/src/index.ts";
import { ROOT } from "./support/process.ts";
import { REAL_MODEL } from "./support/real-model.ts";

setDefaultTimeout(120_000);

if (REAL_MODEL === undefined) {
  test.skip("a cache of 8 bits on real weights: they are not on this machine", () => {});
} else {
  describe("a cache of 8 bits, real weights", () => {
    let device: Device;
    let qwen: Qwen;
    beforeAll(async () => {
      device = await createDevice("cpu");
      qwen = await Qwen.load(REAL_MODEL as string, { device });
    });
    afterAll(async () => {
      qwen.dispose();
      await device.dispose();
    });

    test("log-probabilities of the seed's rows are those of f32 within 0.03 on average; with the bias in the keys they are not", async () => {
      const { model, tokenizer } = qwen;
      const ids = tokenizer.encode(await readFile(join(ROOT, "data/input/lora_train_data.csv"), "utf8"));
      const targets = Int32Array.from(ids, (_, i) => ids[i + 1] ?? -1);
      const losses = async (type: CacheType, withBias = true): Promise<Float32Array> => {
        const keyBiases = withBias ? model.keyBiases : undefined;
        using cache = new KeyValueCache(model.config, { capacity: ids.length, device, type, keyBiases });
        const loss = noGrad(() => scope(() => model.tokenLosses(model.hidden(cache.extend(ids)), targets)));
        const values = (await loss.data()) as Float32Array;
        loss.dispose();
        return values;
      };
      const [exact, rounded, plain] = [await losses("f32"), await losses("q8_0"), await losses("q8_0", false)];
      const mean = (values: ArrayLike<number>): number =>
        Array.from(values).reduce((a, b) => a + b, 0) / (ids.length - 1);
      const apart = (other: Float32Array): number => mean(other.map((x, i) => Math.abs(x - exact[i]!)));
      expect(apart(rounded)).toBeGreaterThan(0);
      expect(apart(rounded)).toBeLessThan(0.03);
      expect(Math.abs(mean(rounded) - mean(exact))).toBeLessThan(0.005);
      expect(apart(plain)).toBeGreaterThan(0.1);
    });

    test("answers alone and together are the same", async () => {
      const requests: EngineRequest[] = [
        "免费空间有多大?",
        "How do I reset my password?",
        "What is 17 times 23?",
        "用一句话介绍北京。",
        "Translate 'good morning' to French.",
      ].map((content) => ({
        tokens: [...qwen.tokenizer.encode(qwen.tokenizer.renderChat([{ role: "user", content }]))],
        maxNewTokens: 6,
      }));
      const answer = async (engine: ReturnType<Qwen["createEngine"]>, request: EngineRequest): Promise<number[]> => {
        const all: number[] = [];
        for await (const { tokens, logprobs = [] } of engine.generate({ ...request, logprobs: 0 })) {
          all.push(...tokens, ...logprobs.map(({ chosen }) => chosen.logprob));
        }
        return all;
      };
      const options = { cacheBytes: 2 ** 25, cacheType: "q8_0", proposedTokens: 0 } as const;
      await using one = qwen.createEngine(options);
      const alone: number[][] = [];
      for (const request of requests) alone.push(await answer(one, request));
      await using many = qwen.createEngine({ ...options, promptRows: 70 });
      expect(await Promise.all(requests.map((request) => answer(many, request)))).toEqual(alone);
    });
  });
}
