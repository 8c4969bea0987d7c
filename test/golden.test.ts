/**
 * The model against PyTorch's numbers on real weights (f32 over the same bf16 weights). Needs the golden values beside
 * the checkout and the weights ($QWEN_REAL_MODEL, or where the script beside the values puts them); says so when absent.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { passOf, Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, memory, noGrad, scope, type Tensor } from "../packages/tensor/src/index.ts";

interface Golden {
  logits: {
    prompt: string;
    ids: number[];
    top10_ids: number[];
    top10: number[];
    logsumexp: number;
    samples: Record<string, number>;
    token_logprobs: number[];
    hidden_norms: number[];
  }[];
  greedy: { prompt: string; new_ids: number[]; text: string }[];
}

const values = join(import.meta.dir, "..", "..", "shared", "golden", "golden.json");
const places = [process.env.QWEN_REAL_MODEL, join(homedir(), ".cache", "qwen-real")].flatMap((dir) =>
  dir ? [dir, join(dir, "hf")] : [],
);
const weights = places.find((dir) => existsSync(join(dir, "config.json")));
const golden: Golden | undefined = existsSync(values) ? await Bun.file(values).json() : undefined;
const missing = [golden ? [] : ["the golden values"], weights ? [] : ["the real weights"]].flat();

if (missing.length > 0) test.skip(`golden values: ${missing.join(" and ")} are not on this machine`, () => {});
else {
  let device: Device;
  let qwen: Qwen;
  beforeAll(async () => {
    device = await createDevice("cpu");
    qwen = await Qwen.load(weights!, { device });
  });
  afterAll(async () => {
    qwen?.dispose();
    await device?.dispose();
  });

  for (const [i, want] of golden!.logits.entries()) {
    test(`golden logits ${i}: scores after the prompt within 2e-3, log-sum-exp and log-probabilities within 1e-3`, async () => {
      expect(qwen.tokenizer.encode(want.prompt)).toEqual(want.ids);
      const got = await qwen.score(want.ids);
      want.top10_ids.forEach((id, at) => {
        expect(Math.abs(got.logits[id] - want.top10[at])).toBeLessThan(2e-3);
      });
      for (const [id, value] of Object.entries(want.samples)) {
        expect(Math.abs(got.logits[Number(id)] - value)).toBeLessThan(2e-3);
      }
      expect(got.top.map(([id]) => id)).toEqual(want.top10_ids);
      expect(Math.abs(got.logsumexp - want.logsumexp)).toBeLessThan(1e-3);
      expect(got.tokenLogprobs.length).toBe(want.token_logprobs.length);
      want.token_logprobs.forEach((value, at) => {
        expect(Math.abs(got.tokenLogprobs[at] - value)).toBeLessThan(1e-3);
      });
    }, 600_000);

    test(`golden logits ${i}: norms of the hidden states after every layer within 1e-4 relative`, async () => {
      const norms: Tensor[] = [];
      const keepNorm = (x: Tensor): void => {
        norms.push(scope(() => x.slice(0, -1).square().sum().sqrt()).keep());
      };
      noGrad(() => scope(() => keepNorm(qwen.model.hidden(passOf([want.ids]), keepNorm))));
      // The last layer's is taken after the final norm.
      norms.splice(-2, 1)[0].dispose();
      expect(norms.length).toBe(want.hidden_norms.length);
      for (const [layer, norm] of norms.entries()) {
        const value = await norm.item();
        norm.dispose();
        expect([layer, Math.abs(value / want.hidden_norms[layer] - 1) < 1e-4]).toEqual([layer, true]);
      }
    }, 600_000);
  }

  for (const [i, want] of golden!.greedy.entries()) {
    test(`golden greedy ${i}: the same tokens`, async () => {
      // What earlier tests left to the collector.
      for (let round = 0; round < 5; round++) {
        await Bun.sleep(5);
        Bun.gc(true);
      }
      await Bun.sleep(5);
      const before = memory();
      const answer = await qwen.complete(qwen.tokenizer.encode(want.prompt), { maxNewTokens: 40 });
      const tokens = answer.endToken === undefined ? answer.tokens : [...answer.tokens, answer.endToken];
      expect(tokens).toEqual(want.new_ids);
      expect(qwen.tokenizer.decode(tokens)).toBe(want.text);
      expect({ ...memory(), peakBytes: 0 }).toEqual({ ...before, peakBytes: 0 });
    }, 600_000);
  }
}
