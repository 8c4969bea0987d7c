import { afterEach, describe, expect, test } from "bun:test";
import { Generator, memory, Tensor } from "@tslm/tensor";
import { QwenModel } from "../model/model.ts";
import { ContextLengthError } from "../model/pass.ts";
import { livingMemory, plainForward, settledMemory, tinyConfig, tinyModel, weightsOf } from "../model/testing.ts";
import type { TokenBytes } from "../tokenizer/index.ts";
import { entropies } from "./entropy.ts";
import { type GenerateOptions, type GenerationStep, generate, PREFILL_ROWS } from "./generate.ts";
import { perplexity, score } from "./score.ts";

const open: { dispose(): void }[] = [];
function own<T extends { dispose(): void }>(made: T): T {
  open.push(made);
  return made;
}
afterEach(() => {
  for (const made of open.splice(0)) made.dispose();
});

/** Token i is the letter i. */
const letters: TokenBytes = { tokenBytes: (id) => Uint8Array.of(65 + id), isSpecial: () => false };
const textOf = (tokens: readonly number[]): string => String.fromCharCode(...tokens.map((id) => 65 + id));

async function run(model: QwenModel, ids: number[], options: GenerateOptions, tokenizer = letters) {
  const steps: GenerationStep[] = [];
  for await (const step of generate(model, tokenizer, ids, options)) steps.push(step);
  const last = steps.at(-1)!;
  expect(steps.filter((step) => step.finishReason !== undefined)).toEqual([last]);
  return {
    tokens: steps.flatMap((step) => (step.token === undefined ? [] : [step.token])),
    text: steps.map((step) => step.text).join(""),
    finishReason: last.finishReason,
    endToken: last.endToken,
  };
}

const ids = [3, 17, 42, 8];

/** The likeliest tokens one after another, from plain loops without a cache. */
async function plainGreedy(model: QwenModel, count: number): Promise<number[]> {
  const weights = await weightsOf(model);
  const all = [...ids];
  for (let i = 0; i < count; i++) {
    const logits = plainForward(model.config, weights, all).logits.at(-1)!;
    all.push(logits.indexOf(Math.max(...logits)));
  }
  return all.slice(ids.length);
}

describe("greedy", () => {
  test("equals plain loops without a cache", async () => {
    const model = own(tinyModel());
    const expected = await plainGreedy(model, 12);
    expect(new Set(expected).size).toBeGreaterThan(3);
    const answer = await run(model, ids, { maxNewTokens: 12 });
    expect(answer).toEqual({ tokens: expected, text: textOf(expected), finishReason: "length", endToken: undefined });
  });

  test("ends at an end token, which is no part of the answer", async () => {
    const model = own(tinyModel());
    const expected = await plainGreedy(model, 12);
    const end = expected[5];
    const before = expected.slice(0, expected.indexOf(end));
    const answer = await run(model, ids, { maxNewTokens: 12, endTokens: [end] });
    expect(answer).toEqual({ tokens: before, text: textOf(before), finishReason: "stop", endToken: end });
  });

  test("ends at a stop string, before it", async () => {
    const model = own(tinyModel());
    const expected = textOf(await plainGreedy(model, 12));
    const stop = expected.slice(4, 7);
    const answer = await run(model, ids, { maxNewTokens: 12, stop: ["never", stop] });
    expect(answer.text).toBe(expected.slice(0, expected.indexOf(stop)));
    expect(answer.tokens.length).toBe(expected.indexOf(stop) + 3);
    expect(answer.finishReason).toBe("stop");
  });

  test("a stop string that was only begun comes out at the end", async () => {
    const model = own(tinyModel());
    const expected = textOf(await plainGreedy(model, 5));
    const answer = await run(model, ids, { maxNewTokens: 5, stop: [`${expected.slice(3)}~`] });
    expect(answer).toMatchObject({ text: expected, finishReason: "length" });
  });

  test("leaves control tokens out of the text, unless asked for", async () => {
    const model = own(tinyModel());
    const expected = await plainGreedy(model, 6);
    const special = { ...letters, isSpecial: (id: number) => id === expected[1] };
    const answer = await run(model, ids, { maxNewTokens: 6 }, special);
    expect(answer.tokens).toEqual(expected);
    expect(answer.text).toBe(textOf(expected.filter((id) => id !== expected[1])));
    const whole = await run(model, ids, { maxNewTokens: 6, skipSpecialTokens: false }, special);
    expect(whole.text).toBe(textOf(expected));
  });

  test("gives whole characters", async () => {
    const model = own(tinyModel());
    const bytes = new TextEncoder().encode("中文字");
    let at = 0;
    const chinese: TokenBytes = { tokenBytes: () => bytes.subarray(at % 9, (at++ % 9) + 1), isSpecial: () => false };
    const pieces: string[] = [];
    for await (const { text } of generate(model, chinese, ids, { maxNewTokens: 9 })) pieces.push(text);
    expect(pieces).toEqual(["", "", "中", "", "", "文", "", "", "字", ""]);
  });

  test("ends where the model's positions end", async () => {
    const model = own(tinyModel());
    const answer = await run(model, ids, {});
    expect(answer.tokens.length).toBe(64 - ids.length + 1);
    expect(answer.finishReason).toBe("length");
    const full = await run(model, new Array(64).fill(1), {});
    expect(full.tokens.length).toBe(1);
    await expect(run(model, new Array(65).fill(1), {})).rejects.toThrow(ContextLengthError);
  });

  test("of no token at all", async () => {
    const model = own(tinyModel());
    expect(await run(model, ids, { maxNewTokens: 0 })).toMatchObject({ tokens: [], finishReason: "length" });
    await expect(run(model, [], {})).rejects.toThrow("the prompt is empty");
    await expect(run(model, ids, { maxNewTokens: -1 })).rejects.toThrow(
      "maxNewTokens must be a whole number of at least 0, but is -1",
    );
    await expect(run(model, ids, { topP: 3 })).rejects.toThrow("topP must be");
    await expect(run(model, [77], {})).rejects.toThrow("token 77 of row 0 lies outside");
  });
});

describe("sampled", () => {
  test("the same seed gives the same answer", async () => {
    const model = own(tinyModel());
    const options = { maxNewTokens: 30, temperature: 1.5, topP: 0.95, seed: 5 };
    const answer = await run(model, ids, options);
    expect(await run(model, ids, options)).toEqual(answer);
    expect(await run(model, ids, { ...options, seed: 6 })).not.toEqual(answer);
  });
  test("one candidate is greedy", async () => {
    const model = own(tinyModel());
    const answer = await run(model, ids, { maxNewTokens: 12, temperature: 2, topK: 1 });
    expect(answer.tokens).toEqual(await plainGreedy(model, 12));
  });
  test("a large repetition penalty never repeats a positive score, prompt included", async () => {
    const model = own(tinyModel());
    const { tokens } = await run(model, ids, { maxNewTokens: 10, repetitionPenalty: 1e6 });
    expect(new Set([...ids, ...tokens]).size).toBe(ids.length + 10);
  });
});

describe("cancelled", () => {
  test("at the next token after the signal", async () => {
    const model = own(tinyModel());
    const stop = new AbortController();
    const steps: GenerationStep[] = [];
    for await (const step of generate(model, letters, ids, { signal: stop.signal })) {
      steps.push(step);
      if (steps.length === 3) stop.abort();
    }
    expect(steps.length).toBe(4);
    expect(steps[3]).toEqual({ token: undefined, text: "", finishReason: "cancelled", endToken: undefined });
  });
  test("by a timer, although the device never waits", async () => {
    const model = own(tinyModel(tinyConfig({ max_position_embeddings: 100_000 })));
    const answer = await run(model, ids, { signal: AbortSignal.timeout(20) });
    expect(answer.finishReason).toBe("cancelled");
  });
  test("before the first token", async () => {
    const model = own(tinyModel());
    const answer = await run(model, ids, { signal: AbortSignal.abort() });
    expect(answer).toMatchObject({ tokens: [], finishReason: "cancelled" });
  });
  test("by the reader, and nothing stays", async () => {
    const model = own(tinyModel());
    const before = await settledMemory();
    for await (const step of generate(model, letters, ids, {})) if (step.token !== undefined) break;
    expect(livingMemory()).toEqual(before);
  });
});

const narrow = {
  hidden_size: 4,
  intermediate_size: 4,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  num_key_value_heads: 1,
  head_dim: 2,
  vocab_size: 8,
  eos_token_id: 7,
};

test("ten thousand tokens leave memory as it was; only the cache grows, by doubling", async () => {
  const model = own(QwenModel.init(tinyConfig({ ...narrow, max_position_embeddings: 1001 }), new Generator(1)));
  const start = await settledMemory();
  const bytes = new Set<number>();
  const storages = new Set<number>();
  let tokens = 0;
  // Ten answers, because plain loops read the whole cache for every token.
  for (let seed = 0; seed < 10; seed++) {
    for await (const step of generate(model, letters, [1, 2], { temperature: 1, seed })) {
      if (step.token === undefined) continue;
      tokens++;
      bytes.add(memory().bytes);
      storages.add(memory().storages);
    }
    expect(livingMemory()).toEqual(start);
  }
  expect(tokens).toBe(10_000);
  expect(storages.size).toBe(1);
  // 258 rows, 516, and 1,001: the model's positions.
  expect(bytes.size).toBe(3);
}, 30_000);

describe("score", () => {
  test("equals plain loops", async () => {
    const model = own(tinyModel());
    const { logits, logprobs } = plainForward(model.config, await weightsOf(model), ids);
    const got = await score(model, ids);
    got.tokenLogprobs.forEach((value, i) => {
      expect(value).toBeCloseTo(logprobs[i][ids[i + 1]], 4);
    });
    expect(got.tokenLogprobs.length).toBe(3);
    const last = logits[3];
    expect(got.top.map(([id]) => id)).toEqual(
      last
        .map((_, i) => i)
        .sort((a, b) => last[b] - last[a])
        .slice(0, 10),
    );
    for (const [id, value] of got.top) expect(value).toBeCloseTo(last[id], 4);
    expect(got.logsumexp).toBeCloseTo(last[0] - logprobs[3][0], 4);
    expect(got.logits.length).toBe(50);
    expect(perplexity([got])).toBeCloseTo(Math.exp(-got.tokenLogprobs.reduce((a, b) => a + b) / 3), 10);
  });

  test("a text of several chunks: as one by one, and nothing stays", async () => {
    const model = own(
      QwenModel.init(tinyConfig({ ...narrow, max_position_embeddings: 2000 }), new Generator(1), { std: 1 }),
    );
    const long = Array.from({ length: PREFILL_ROWS + 3 }, (_, i) => (i * i + 3 * i) % 8);
    const before = await settledMemory();
    const got = await score(model, long);
    expect(livingMemory()).toEqual(before);
    const { logprobs } = plainForward(model.config, await weightsOf(model), long);
    got.tokenLogprobs.forEach((value, i) => {
      expect(value).toBeCloseTo(logprobs[i][long[i + 1]], 4);
    });
    expect(got.tokenLogprobs.length).toBe(long.length - 1);
    const answer = await run(model, long, { maxNewTokens: 1 });
    expect(answer.tokens).toEqual([got.top[0][0]]);
  });

  test("needs a token; one token has no log-probability", async () => {
    const model = own(tinyModel());
    await expect(score(model, [])).rejects.toThrow("there is no text to score");
    const got = await score(model, [1]);
    expect(got.tokenLogprobs).toEqual([]);
    expect(perplexity([got])).toBeNaN();
  });

  test("stops at a signal", async () => {
    const model = own(tinyModel());
    await expect(score(model, ids, { signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
  });
});

describe("entropy", () => {
  test("of a distribution: 0 where one token has all, ln(n) where n are alike", async () => {
    const model = own(tinyModel());
    const rows = [
      { logits: [3, 3, 3, 3], entropy: Math.log(4) },
      { logits: [0, 1000, -1000, 0], entropy: 0 },
      { logits: [-1e30, -1e30, 5, 5], entropy: Math.log(2) },
      // p = 1/4 and 3/4.
      { logits: [-200, 7, 7 + Math.log(3), -200], entropy: 0.25 * Math.log(4) + 0.75 * Math.log(4 / 3) },
    ];
    const all = rows.flatMap(({ logits }) => logits);
    model.logits = () => Tensor.from(all, [rows.length, 4]);
    const got = await entropies(model, ids, 1);
    expect(got.length).toBe(rows.length);
    for (const [i, { entropy }] of rows.entries()) expect(got[i]).toBeCloseTo(entropy, 6);
  });

  test("of an answer's tokens and of what follows, as plain loops have it, and nothing stays", async () => {
    const config = tinyConfig({ ...narrow, max_position_embeddings: 2000 });
    const model = own(QwenModel.init(config, new Generator(1), { std: 1 }));
    const long = Array.from({ length: PREFILL_ROWS + 3 }, (_, i) => (i * i + 3 * i) % 8);
    const { logprobs } = plainForward(model.config, await weightsOf(model), long);
    const expected = logprobs.map((row) => -row.reduce((sum, l) => sum + Math.exp(l) * l, 0));
    const before = await settledMemory();
    for (const from of [1, 500, PREFILL_ROWS, PREFILL_ROWS + 1, long.length]) {
      const got = await entropies(model, long, from);
      expect(got.length).toBe(long.length - from + 1);
      for (const [i, value] of got.entries()) expect(value).toBeCloseTo(expected[from - 1 + i], 4);
    }
    expect(livingMemory()).toEqual(before);
  });

  test("an answer that begins nowhere is refused; a signal is heard", async () => {
    const model = own(tinyModel());
    await expect(entropies(model, ids, 0)).rejects.toThrow("one of the places 1 to 4, but is said to at 0");
    await expect(entropies(model, ids, 5)).rejects.toThrow("at 5");
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(entropies(model, ids, 1, { signal })).rejects.toThrow("enough");
  });
});
