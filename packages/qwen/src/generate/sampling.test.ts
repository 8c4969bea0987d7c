import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { argmax, candidates, pick, Sampler, type SamplingOptions } from "./sampling.ts";

const tokensOf = (logits: number[], options: SamplingOptions): number[] =>
  Array.from(candidates(Float32Array.from(logits), options).tokens);
/** Logits of these probabilities. */
const logs = (...p: number[]): number[] => p.map(Math.log);

describe("by hand", () => {
  test("temperature scales differences", () => {
    const { tokens, scores } = candidates(Float32Array.of(1, 3, 2), { temperature: 0.5 });
    expect(Array.from(tokens)).toEqual([0, 1, 2]);
    expect(Array.from(scores)).toEqual([-4, 0, -2]);
  });

  test("top-k keeps the k best, and equals of the kth", () => {
    expect(tokensOf([5, 1, 4, 2, 3], { topK: 2 })).toEqual([0, 2]);
    expect(tokensOf([5, 3, 4, 3, 3], { topK: 3 })).toEqual([0, 1, 2, 3, 4]);
    expect(tokensOf([5, 3, 4], { topK: 0 })).toEqual([0, 1, 2]);
    expect(tokensOf([5, 3, 4], { topK: 9 })).toEqual([0, 1, 2]);
  });

  test("top-p keeps the fewest that reach p", () => {
    const p = logs(0.1, 0.5, 0.3, 0.1);
    expect(tokensOf(p, { topP: 0.49 })).toEqual([1]);
    expect(tokensOf(p, { topP: 0.51 })).toEqual([1, 2]);
    expect(tokensOf(p, { topP: 0.79 })).toEqual([1, 2]);
    // Of the two equal ones, one is needed: the lower id.
    expect(tokensOf(p, { topP: 0.85 })).toEqual([0, 1, 2]);
    expect(tokensOf(p, { topP: 0.95 })).toEqual([0, 1, 2, 3]);
    expect(tokensOf(p, { topP: 1e-9 })).toEqual([1]);
  });

  test("min-p keeps what is at least so many times as likely as the best", () => {
    const p = logs(0.1, 0.5, 0.3, 0.1);
    expect(tokensOf(p, { minP: 0.19 })).toEqual([0, 1, 2, 3]);
    expect(tokensOf(p, { minP: 0.21 })).toEqual([1, 2]);
    expect(tokensOf(p, { minP: 1 })).toEqual([1]);
  });

  test("the order is temperature, top-k, top-p, min-p", () => {
    // Of all, 0.5 + 0.3 reach 0.75; of the top two alone, 0.5/0.8 < 0.75 too, but 0.62 does not need the second.
    expect(tokensOf(logs(0.5, 0.3, 0.2), { topP: 0.6 })).toEqual([0, 1]);
    expect(tokensOf(logs(0.5, 0.3, 0.2), { topK: 2, topP: 0.6 })).toEqual([0]);
    // Squared (temperature 0.5): 0.25, 0.09, 0.04 of 0.38.
    expect(tokensOf(logs(0.5, 0.3, 0.2), { temperature: 0.5, topP: 0.6 })).toEqual([0]);
    expect(tokensOf(logs(0.5, 0.3, 0.2), { minP: 0.5 })).toEqual([0, 1]);
    expect(tokensOf(logs(0.5, 0.3, 0.2), { temperature: 0.5, minP: 0.5 })).toEqual([0]);
  });

  test("a draw walks the cumulated probabilities", () => {
    const three = Float32Array.from(logs(0.2, 0.5, 0.3));
    expect([0, 0.19, 0.21, 0.69, 0.71, 0.999999].map((u) => pick(three, {}, u))).toEqual([0, 0, 1, 1, 2, 2]);
    expect(pick(Float32Array.of(0, 0, Number.NEGATIVE_INFINITY), {}, 1 - 2 ** -53)).toBe(1);
    expect(pick(Float32Array.of(0, 0, -100), {}, 1 - 2 ** -53)).toBe(1);
  });

  test("scores that are no numbers are an error", () => {
    expect(() => candidates(Float32Array.of(Number.NaN, Number.NaN), {})).toThrow("the model's scores are not finite");
    const none = Float32Array.of(Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY);
    expect(() => candidates(none, {})).toThrow("no token may come next");
  });
});

describe("properties", () => {
  const logits = fc.array(
    fc.integer({ min: -200, max: 200 }).map((x) => x / 16),
    { minLength: 1, maxLength: 60 },
  );
  /** transformers' warpers, written over sorted lists. */
  const naive = (values: number[], { temperature = 1, topK = 0, topP = 1, minP = 0 }: SamplingOptions): number[] => {
    const scores = Array.from(Float32Array.from(values), (x) => x / temperature);
    let kept = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
    if (topK > 0) kept = kept.filter((i) => scores[i] >= scores[kept[Math.min(topK, kept.length) - 1]]);
    const weight = (i: number): number => Math.exp(scores[i] - scores[kept[0]]);
    const total = kept.reduce((sum, i) => sum + weight(i), 0);
    if (topP < 1) {
      let tail = 0;
      let end = kept.length;
      while (end > 1 && (tail += weight(kept[end - 1]) / total) <= 1 - topP) end--;
      kept = kept.slice(0, end);
    }
    return kept.filter((i) => weight(i) >= minP).sort((a, b) => a - b);
  };

  test("equal a plain version", () => {
    const options = fc.record({
      temperature: fc.double({ min: 0.1, max: 3, noNaN: true }),
      topK: fc.nat(70),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    fc.assert(
      fc.property(logits, options, (values, o) => {
        // Sums in another order may differ in the last bit, which may decide a token that lies just at p.
        for (const topP of [o.topP, o.topP * (1 - 1e-9), Math.min(1, o.topP * (1 + 1e-9))]) {
          if (String(naive(values, { ...o, topP })) === String(tokensOf(values, o))) return;
        }
        expect(tokensOf(values, o)).toEqual(naive(values, o));
      }),
    );
  });

  test("top-k of any size finds the kth score", () => {
    fc.assert(
      fc.property(logits, fc.integer({ min: 1, max: 60 }), (values, topK) => {
        expect(tokensOf(values, { topK })).toEqual(naive(values, { topK }));
      }),
      { numRuns: 1000 },
    );
  });

  test("the best token stays, and every draw is a candidate", () => {
    fc.assert(
      fc.property(
        logits,
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1 - 1e-9, noNaN: true }),
        (values, p, u) => {
          const options = { temperature: 0.7, topK: 5, topP: p, minP: p / 2 };
          const left = tokensOf(values, options);
          expect(left).toContain(argmax(Float32Array.from(values)));
          expect(left).toContain(pick(Float32Array.from(values), options, u));
        },
      ),
    );
  });
});

describe("Sampler", () => {
  const draw = async (options: SamplingOptions, count = 40): Promise<number[]> => {
    const sampler = new Sampler(options);
    const out: number[] = [];
    for (let i = 0; i < count; i++) out.push(await sampler.choose(Float32Array.from(logs(0.1, 0.2, 0.3, 0.4)), []));
    return out;
  };
  test("the same seed gives the same tokens, another seed others", async () => {
    const first = await draw({ temperature: 1, seed: 7 });
    expect(await draw({ temperature: 1, seed: 7 })).toEqual(first);
    expect(await draw({ temperature: 1, seed: 8 })).not.toEqual(first);
    expect(await draw({ temperature: 1, seed: 7 + 2 ** 40 })).not.toEqual(first);
    expect(await draw({ temperature: 1 })).not.toEqual(await draw({ temperature: 1 }));
  });
  test("draws with the probabilities", async () => {
    const count = [0, 0, 0, 0];
    for (const token of await draw({ temperature: 1, seed: 1 }, 4000)) count[token]++;
    count.forEach((n, i) => {
      expect(Math.abs(n / 4000 - (i + 1) / 10)).toBeLessThan(0.03);
    });
  });
  test("without temperature takes the best, after the penalty", async () => {
    expect(new Sampler({}).greedy).toBe(true);
    const sampler = new Sampler({ repetitionPenalty: 1.5 });
    expect(sampler.greedy).toBe(false);
    expect(await sampler.choose(Float32Array.of(2, 1.9), [0])).toBe(1);
  });
  test("names an option out of its range", () => {
    const make = (options: object) => () => new Sampler(options);
    expect(make({ temperature: -1 })).toThrow("temperature must be a number of at least 0, but is -1");
    expect(make({ temperature: Number.NaN })).toThrow("temperature");
    expect(make({ topK: 1.5 })).toThrow("topK must be a whole number of at least 0, but is 1.5");
    expect(make({ topP: 0 })).toThrow("topP must be a number above 0 and at most 1, but is 0");
    expect(make({ minP: 2 })).toThrow("minP must be a number from 0 to 1, but is 2");
    expect(make({ repetitionPenalty: 0 })).toThrow("repetitionPenalty must be a number above 0, but is 0");
    expect(make({ seed: -1 })).toThrow("seed must be a whole number of at least 0, but is -1");
  });
});
