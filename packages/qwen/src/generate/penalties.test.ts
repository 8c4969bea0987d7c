import { describe, expect, test } from "bun:test";
import { addBias, maskScores, penalizePresence, penalizeRepetition } from "./penalties.ts";
import { candidates, Sampler, type SamplingOptions } from "./sampling.ts";
import processors from "./testdata/processors.json" with { type: "json" };

describe("as transformers' processors", () => {
  test.each(processors.cases.map((c, i) => [i, c] as const))("case %d", (_, { logits, seen, options, ...wanted }) => {
    const scores = Float32Array.from(logits);
    penalizeRepetition(scores, seen, options.repetitionPenalty);
    expect(Array.from(scores)).toEqual(wanted.penalized.map(Math.fround));
    const left = candidates(scores, options);
    expect(Array.from(left.tokens)).toEqual(wanted.tokens);
    const weights = Array.from(left.scores, Math.exp);
    const total = weights.reduce((a, b) => a + b);
    for (const [i, p] of wanted.probabilities.entries()) expect(weights[i] / total).toBeCloseTo(p, 6);
  });
});

describe("by hand", () => {
  test("repetition penalty divides positive scores, multiplies negative ones, each token once", () => {
    const scores = Float32Array.of(2, -2, 0, 1.5, -1);
    penalizeRepetition(scores, [0, 1, 2, 0, 0], 2);
    expect(Array.from(scores)).toEqual([1, -4, 0, 1.5, -1]);
  });
  test("presence counts once, frequency each time, both in the answer alone", () => {
    const scores = new Float32Array(4);
    penalizePresence(scores, [3, 0, 1, 1, 1], 1, { presence: 0.5, frequency: 0.25 });
    expect(Array.from(scores)).toEqual([-0.75, -1.25, 0, 0]);
    penalizePresence(scores, [3, 3], 0, { presence: 0, frequency: 1 });
    expect(Array.from(scores)).toEqual([-0.75, -1.25, 0, -2]);
  });
  test("bias is added; tokens beyond the vocabulary are nobody's", () => {
    const scores = new Float32Array(3);
    addBias(scores, { 1: 2.5, 2: -100, 7: 1 });
    expect(Array.from(scores)).toEqual([0, 2.5, -100]);
  });
  test("a mask leaves what it allows, also where it is shorter than the vocabulary", () => {
    const scores = Float32Array.from({ length: 100 }, (_, i) => i);
    maskScores(scores, Uint32Array.of(1 << 31, 0xffffffff, 1));
    const left = Array.from(scores.keys()).filter((i) => scores[i] === i);
    expect(left).toEqual([31, ...Array.from({ length: 32 }, (_, i) => 32 + i), 64]);
    expect(scores[0]).toBe(Number.NEGATIVE_INFINITY);
  });
  test("a sampler puts bias and penalties before the choice, and is not greedy with them", async () => {
    const choose = (options: SamplingOptions, seen: number[] = [], from = 0): Promise<number> =>
      new Sampler(options).choose(Float32Array.of(2, 1.9, 0), seen, from);
    expect(await choose({})).toBe(0);
    expect(await choose({ logitBias: { 2: 3 } })).toBe(2);
    expect(await choose({ presencePenalty: 0.2 }, [0])).toBe(1);
    expect(await choose({ presencePenalty: 0.2 }, [0], 1)).toBe(0);
    expect(await choose({ frequencyPenalty: 0.06 }, [0, 0])).toBe(1);
    expect(await choose({ frequencyPenalty: 0.06 }, [0])).toBe(0);
    for (const options of [{ logitBias: { 2: 3 } }, { presencePenalty: 1 }, { frequencyPenalty: 1 }]) {
      expect(new Sampler(options).greedy).toBe(false);
    }
  });
  test("names an option out of its range", () => {
    const make = (options: object) => () => new Sampler(options);
    expect(make({ typicalP: 0 })).toThrow("typicalP must be a number above 0 and at most 1, but is 0");
    expect(make({ presencePenalty: Number.NaN })).toThrow("presencePenalty must be a number, but is NaN");
    expect(make({ frequencyPenalty: "1" })).toThrow("frequencyPenalty must be a number, but is 1");
    expect(make({ logitBias: { a: 1 } })).toThrow("logitBias must give numbers to token ids, but has a: 1");
    expect(make({ logitBias: { 1: Number.POSITIVE_INFINITY } })).toThrow("but has 1: Infinity");
  });
});
