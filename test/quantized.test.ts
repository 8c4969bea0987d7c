/**
 * What quantised weights cost on real ones: the perplexity of a text (texts/lighthouse.txt, written for this test) with
 * weights as they come, rounded to 8 and to 4 bits, and in a GGUF file's own blocks; and whether decoding, which rounds
 * activations to 8 bits as well, agrees with scoring many rows at once, which does not. Needs the real weights, and says
 * so when they are absent.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KeyValueCache, type LoadModelOptions, perplexity, Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, noGrad, scope } from "../packages/tensor/src/index.ts";
import { findWeights } from "./support/golden.ts";

const weights = findWeights();
const gguf =
  weights && [weights, join(weights, "..")].map((dir) => join(dir, "model.gguf")).find((path) => existsSync(path));
const text = await Bun.file(join(import.meta.dir, "texts", "lighthouse.txt")).text();
const MINUTES = 60_000;

/** Rows that decoding's products take at most. */
const FEW_ROWS = 8;

if (weights === undefined || gguf === undefined) {
  test.skip("perplexity of quantised weights: the real weights and their GGUF file are not on this machine", () => {});
} else {
  let device: Device;
  let quantizedCache: string;
  let exact: number;
  beforeAll(async () => {
    device = await createDevice("cpu");
    quantizedCache = await mkdtemp(join(tmpdir(), "tslm-quantized-"));
    exact = (await measure(weights, {})).scored;
  }, 10 * MINUTES);
  afterAll(async () => {
    await device?.dispose();
    await rm(quantizedCache, { recursive: true });
  });

  /** Perplexity of the text, many rows at a time; with `rows`, also of its first tokens, so many rows at a time. */
  async function measure(path: string, options: LoadModelOptions, tokens = 0) {
    using qwen = await Qwen.load(path, { ...options, device, quantizedCache });
    const ids = qwen.tokenizer.encode(text);
    const score = await qwen.score(ids);
    const start = { tokenLogprobs: score.tokenLogprobs.slice(0, Math.max(0, tokens - 1)) };
    const decoded = tokens > 0 ? perplexity([{ tokenLogprobs: await decode(qwen, ids.slice(0, tokens)) }]) : 0;
    return { scored: perplexity([score]), start: perplexity([start]), decoded };
  }

  /** Log-probabilities of the tokens after the first, computed as decoding computes them. */
  async function decode({ model }: Qwen, ids: readonly number[]): Promise<number[]> {
    using cache = new KeyValueCache(model.config, { capacity: ids.length, device });
    const found: number[] = [];
    for (let at = 0; at < ids.length; at += FEW_ROWS) {
      const targets = Int32Array.from(ids.slice(at, at + FEW_ROWS), (_, i) => ids[at + i + 1] ?? -1);
      const rows = ids.slice(at, at + FEW_ROWS);
      const losses = noGrad(() => scope(() => model.tokenLosses(model.hidden(cache.extend(rows)), targets)));
      const values = await losses.data();
      losses.dispose();
      for (const [i, target] of targets.entries()) if (target >= 0) found.push(-values[i]);
    }
    return found;
  }

  const cases: [string, () => Promise<Awaited<ReturnType<typeof measure>>>, number][] = [
    ["8 bits", () => measure(weights, { quantize: "q8" }, 320), 0.005],
    ["4 bits", () => measure(weights, { quantize: "q4" }, 320), 0.04],
    ["a GGUF file's own blocks", () => measure(gguf, {}, 320), 0.005],
  ];
  test.each(cases)(
    "%s: perplexity within its share of the weights as they come",
    async (name, run, share) => {
      const { scored, start, decoded } = await run();
      console.log(
        `perplexity ${name}: ${scored.toFixed(3)}, as they come ${exact.toFixed(3)}; decoded ${decoded.toFixed(3)}, scored ${start.toFixed(3)}`,
      );
      expect(Math.abs(scored / exact - 1)).toBeLessThan(share);
      expect(Math.abs(decoded / start - 1)).toBeLessThan(0.01);
    },
    10 * MINUTES,
  );
}
