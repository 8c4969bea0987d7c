import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { createDevice, type Device, memory, Tensor } from "@tslm/tensor";
import fc from "fast-check";
import type { RowAdapter } from "../model/layers.ts";
import { Qwen } from "../qwen.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import { type EngineEvent, EngineRejection, type EngineRequest, type TokenConstraint } from "./types.ts";

const DEMO = join(import.meta.dir, "../../../../models/demo");

let device: Device;
let qwen: Qwen;
beforeAll(async () => {
  device = await createDevice("cpu");
  qwen = await Qwen.load(DEMO, { device });
});
afterAll(async () => {
  qwen.dispose();
  await device.dispose();
});

const make = (options: EngineOptions = {}): Engine =>
  new Engine(qwen.model, qwen.tokenizer, {
    endTokens: qwen.generationConfig.eosTokenIds,
    cacheBytes: 2 ** 24,
    ...options,
  });
/** Bytes of so many pages of the demo model's cache. */
const pages = (count: number): number => {
  const { numHiddenLayers, numKeyValueHeads, headDim } = qwen.config;
  return count * 16 * 8 * numHiddenLayers * numKeyValueHeads * headDim;
};

interface Got {
  tokens: number[][];
  text: string[];
  ends: EngineEvent[];
  events: EngineEvent[];
}
async function collect(events: AsyncIterable<EngineEvent>, n = 1): Promise<Got> {
  const got: Got = { tokens: Array.from({ length: n }, () => []), text: Array(n).fill(""), ends: [], events: [] };
  for await (const event of events) {
    got.events.push(event);
    got.tokens[event.index].push(...event.tokens);
    got.text[event.index] += event.text;
    if (event.finishReason) got.ends[event.index] = event;
  }
  expect(got.ends.filter(Boolean).length).toBe(n);
  return got;
}
/** The tokens, and behind them their log-probabilities where they are asked for: these show the last bit. */
const answer = async (engine: Engine, request: EngineRequest): Promise<number[]> => {
  const { tokens, events } = await collect(engine.generate(request));
  return [...tokens[0], ...events.flatMap(({ logprobs = [] }) => logprobs.map(({ chosen }) => chosen.logprob))];
};

/** Tokens that mean nothing in particular, the same for the same seed. */
function prompt(seed: number, length: number): number[] {
  let state = seed + 1;
  return Array.from({ length }, () => {
    state = (state * 48271) % 2147483647;
    return state % 1000;
  });
}
/** Nothing runs, and every page is free or kept for reuse. */
function expectNoLeak(engine: Engine): void {
  const { running, waiting, cache } = engine.stats;
  expect({ running, waiting, used: cache.used }).toEqual({ running: 0, waiting: 0, used: 0 });
}

describe("an answer does not depend on what else is answered", () => {
  const requests: EngineRequest[] = [
    ...[3, 16, 17, 40, 90].map((length, i) => ({ tokens: prompt(i, length), maxNewTokens: 20 })),
    ...[5, 50].map((length, i) => ({ tokens: prompt(i, length), maxNewTokens: 15, logprobs: 0, ignoreEnd: true })),
    { tokens: prompt(9, 33), maxNewTokens: 12, temperature: 0.9, topP: 0.95, seed: 11 },
    { tokens: prompt(4, 90).concat(prompt(5, 20)), maxNewTokens: 9 },
    { tokens: prompt(6, 30), maxNewTokens: 16, temperature: 1.3, topK: 20, seed: 5, ignoreEnd: true },
  ];
  let alone: number[][];
  beforeAll(async () => {
    alone = [];
    for (const request of requests) {
      await using engine = make({ proposedTokens: 0, promptRows: 512 });
      alone.push(await answer(engine, request));
    }
    expect(new Set(alone.map(String)).size).toBe(alone.length);
  });

  test("greedy: the tokens of `generate`, which takes one prompt through the model", async () => {
    for (const [i, { tokens, maxNewTokens, temperature, logprobs }] of requests.entries()) {
      // `generate` reads a chunk of few tokens by the means for few rows.
      if (temperature !== undefined || logprobs !== undefined || tokens.length <= 8) continue;
      expect((await qwen.complete(tokens, { maxNewTokens })).tokens).toEqual(alone[i]);
    }
  });

  test("in any mix, any order, chunks of any size, with or without proposed tokens, and when interrupted for want of room", async () => {
    const mixes = fc.record({
      order: fc.array(fc.nat(requests.length - 1), { minLength: 1, maxLength: 14 }),
      promptRows: fc.integer({ min: 1, max: 200 }),
      promptRowsBeside: fc.integer({ min: 1, max: 60 }),
      maxRunning: fc.integer({ min: 1, max: 16 }),
      proposedTokens: fc.nat(4),
      // The longest request needs 8 pages.
      room: fc.integer({ min: 8, max: 30 }),
      pause: fc.array(fc.nat(3), { minLength: 14, maxLength: 14 }),
    });
    await fc.assert(
      fc.asyncProperty(mixes, async ({ order, room, pause, ...options }) => {
        await using engine = make({ ...options, cacheBytes: pages(room) });
        const got = await Promise.all(
          order.map(async (which, i) => {
            for (let turn = 0; turn < pause[i]; turn++) await Bun.sleep(1);
            return answer(engine, requests[which]);
          }),
        );
        order.forEach((which, i) => void expect(got[i]).toEqual(alone[which]));
        expectNoLeak(engine);
      }),
      { numRuns: 40, seed: 20261125 },
    );
  });

  test("so many at once that products are of many rows", async () => {
    await using engine = make();
    const got = await Promise.all([0, 1, 2, 3].flatMap(() => requests.map((request) => answer(engine, request))));
    got.forEach((tokens, i) => void expect(tokens).toEqual(alone[i % requests.length]));
  });
});

describe("prefixes", () => {
  test("a prompt's pages are used again, also by longer prompts, and change nothing", async () => {
    await using engine = make();
    const tokens = prompt(1, 100);
    const first = await collect(engine.generate({ tokens, maxNewTokens: 8 }));
    const again = await collect(engine.generate({ tokens, maxNewTokens: 8 }));
    expect(first.ends[0].usage?.cachedTokens).toBe(0);
    expect(again.ends[0].usage?.cachedTokens).toBe(99);
    expect(again.tokens).toEqual(first.tokens);
    // The next turn of a conversation: what was answered is read once more, as a part of the prompt.
    const longer = [...tokens, ...first.tokens[0], ...prompt(2, 30)];
    const turn = await collect(engine.generate({ tokens: longer, maxNewTokens: 8 }));
    expect(turn.ends[0].usage?.cachedTokens).toBe(99);
    await using fresh = make();
    expect(turn.tokens[0]).toEqual(await answer(fresh, { tokens: longer, maxNewTokens: 8 }));
    expect(engine.stats.cachedTokens).toBe(198);
    expectNoLeak(engine);
  });

  test("those who come at once share too: one computes, the others wait for it", async () => {
    await using engine = make();
    const shared = prompt(3, 64);
    const got = await Promise.all(
      [0, 1, 2, 3].map((i) => collect(engine.generate({ tokens: [...shared, ...prompt(i, 5)], maxNewTokens: 3 }))),
    );
    expect(got.map(({ ends }) => ends[0].usage?.cachedTokens)).toEqual([0, 64, 64, 64]);
  });

  test("what was unused the longest goes first, and nobody's room is taken", async () => {
    await using engine = make({ cacheBytes: pages(12) });
    const [a, b, c] = [1, 2, 3].map((seed) => prompt(seed, 65));
    const cached = async (tokens: number[]): Promise<number | undefined> =>
      (await collect(engine.generate({ tokens, maxNewTokens: 1 }))).ends[0].usage?.cachedTokens;
    expect([await cached(a), await cached(b)]).toEqual([0, 0]);
    expect(await cached(a)).toBe(64);
    // Room for twelve pages: a third prompt of five takes the place of the second.
    expect(await cached(c)).toBe(0);
    expect(await cached(a)).toBe(64);
    expect(await cached(b)).toBeLessThan(64);
    expectNoLeak(engine);
  });
});

describe("several answers to one prompt", () => {
  test("are those of the seeds after one another, from one reading of the prompt", async () => {
    await using engine = make();
    for (const length of [32, 37]) {
      const request: EngineRequest = {
        tokens: prompt(7, length),
        maxNewTokens: 10,
        temperature: 1,
        seed: 40,
        ignoreEnd: true,
      };
      const before = engine.stats.promptTokens;
      const got = await collect(engine.generate({ ...request, n: 4 }), 4);
      expect(engine.stats.promptTokens - before).toBe(length);
      expect(new Set(got.tokens.map(String)).size).toBe(4);
      for (let i = 0; i < 4; i++) {
        await using alone = make();
        expect(got.tokens[i]).toEqual(await answer(alone, { ...request, seed: 40 + i }));
      }
    }
    expectNoLeak(engine);
  });

  test("where there is no room for all at once, the rest come later and are the same", async () => {
    await using wide = make();
    await using narrow = make({ cacheBytes: pages(6), maxRunning: 3 });
    const request: EngineRequest = {
      tokens: prompt(8, 40),
      maxNewTokens: 40,
      temperature: 1,
      seed: 1,
      n: 6,
      ignoreEnd: true,
    };
    const [a, b] = [await collect(wide.generate(request), 6), await collect(narrow.generate(request), 6)];
    expect(b.tokens).toEqual(a.tokens);
    expectNoLeak(narrow);
  });
});

describe("proposed tokens", () => {
  test("come several at once where the text repeats itself, and are those that would have come", async () => {
    const cycle = prompt(5, 7);
    const request = { tokens: [...cycle, ...cycle, ...cycle, ...cycle], maxNewTokens: 60, ignoreEnd: true };
    await using plain = make({ proposedTokens: 0 });
    await using proposing = make({ proposedTokens: 3 });
    const [a, b] = [await collect(plain.generate(request)), await collect(proposing.generate(request))];
    expect(b.tokens).toEqual(a.tokens);
    expect(b.text).toEqual(a.text);
    expect(b.events.length).toBeLessThan(a.events.length);
    const sampled = { ...request, temperature: 0.3, seed: 3, logprobs: 1 };
    const [c, d] = [await collect(plain.generate(sampled)), await collect(proposing.generate(sampled))];
    expect(d.tokens).toEqual(c.tokens);
    expect(d.events.flatMap(({ logprobs }) => logprobs ?? [])).toEqual(
      c.events.flatMap(({ logprobs }) => logprobs ?? []),
    );
  });
});

describe("ends", () => {
  const request: EngineRequest = { tokens: prompt(2, 20), maxNewTokens: 30, ignoreEnd: true };

  test("by length, end token, stop text; what is asked about the end is told", async () => {
    await using engine = make();
    const whole = await collect(engine.generate(request));
    expect(whole.ends[0]).toMatchObject({ finishReason: "length", tokens: [] });
    expect(whole.ends[0].usage).toMatchObject({ promptTokens: 20, completionTokens: 30 });
    const end = whole.tokens[0][4];
    const byToken = await collect(engine.generate({ ...request, ignoreEnd: false, endTokens: [end] }));
    expect(byToken.ends[0]).toMatchObject({ finishReason: "stop", stoppedBy: end });
    expect(byToken.tokens[0]).toEqual(whole.tokens[0].slice(0, whole.tokens[0].indexOf(end)));
    const stop = whole.text[0].slice(10, 14);
    const byText = await collect(engine.generate({ ...request, stop: [stop] }));
    expect(byText.ends[0]).toMatchObject({ finishReason: "stop", stoppedBy: stop });
    expect(byText.text[0]).toBe(whole.text[0].slice(0, whole.text[0].indexOf(stop)));
    expect((await collect(engine.generate({ ...request, maxNewTokens: 0 }))).ends[0].finishReason).toBe("length");
  });

  test("at the next token by signal, by leaving the loop, by deadline, also while waiting", async () => {
    await using engine = make({ maxRunning: 1 });
    const controller = new AbortController();
    const seen: EngineEvent[] = [];
    let made = 0;
    const waiting = new AbortController();
    const first = engine.generate({ ...request, maxNewTokens: 300, signal: controller.signal });
    const second = collect(engine.generate({ ...request, signal: waiting.signal }));
    const third = collect(engine.generate({ ...request, deadline: performance.now() + 20 }));
    for await (const event of first) {
      seen.push(event);
      if (seen.length === 3) waiting.abort();
      if (seen.length === 6) await Bun.sleep(25);
      if (seen.length !== 8) continue;
      controller.abort();
      made = engine.stats.generatedTokens;
    }
    expect(seen.at(-1)?.finishReason).toBe("cancelled");
    expect(engine.stats.generatedTokens - made).toBeLessThanOrEqual(1);
    expect((await second).ends[0].finishReason).toBe("cancelled");
    expect((await third).ends[0].finishReason).toBe("deadline");
    for await (const _ of engine.generate({ ...request, maxNewTokens: 300 })) break;
    while (engine.stats.running > 0) await Bun.sleep(1);
    expectNoLeak(engine);
  });

  test("a constraint decides what may come; one that fails fails its own request alone", async () => {
    const allowed = [5, 6, 7];
    const only = (tokens: readonly number[]): TokenConstraint => ({
      allowed() {
        const bits = new Uint32Array(Math.ceil(qwen.config.vocabSize / 32));
        for (const token of tokens) bits[token >> 5] |= 1 << (token & 31);
        return bits;
      },
      accept(token) {
        if (!tokens.includes(token)) throw new RangeError("not allowed");
      },
      clone: () => only(tokens),
    });
    await using engine = make();
    const [free, bound, broken] = await Promise.allSettled([
      answer(engine, request),
      answer(engine, { ...request, constraint: () => only(allowed) }),
      answer(engine, {
        ...request,
        constraint: () => ({
          ...only([]),
          allowed: () => {
            throw new Error("broken");
          },
        }),
      }),
    ]);
    expect(free.status === "fulfilled" && free.value.length).toBe(30);
    expect(bound.status === "fulfilled" && bound.value.every((token) => allowed.includes(token))).toBe(true);
    expect(broken).toMatchObject({ status: "rejected", reason: { message: "broken" } });
    expectNoLeak(engine);
  });

  test("log-probabilities are of all tokens, before temperature", async () => {
    await using engine = make();
    const plain = await collect(engine.generate({ ...request, maxNewTokens: 3, logprobs: 5 }));
    const warm = await collect(
      engine.generate({ ...request, maxNewTokens: 3, logprobs: 2, temperature: 0.01, seed: 1 }),
    );
    const [step] = plain.events[0].logprobs!;
    expect(step.top.length).toBe(5);
    expect(step.chosen).toEqual(step.top[0]);
    expect(warm.events[0].logprobs![0].top).toEqual(step.top.slice(0, 2));
    const { tokenLogprobs } = await qwen.score([...request.tokens, step.chosen.token]);
    expect(step.chosen.logprob).toBeCloseTo(tokenLogprobs.at(-1)!, 3);
  });
});

describe("who comes first", () => {
  test("higher priorities, then clients in turns, then the oldest", async () => {
    await using engine = make({ maxRunning: 1 });
    const order: string[] = [];
    const ask = (name: string, options: Partial<EngineRequest>): Promise<void> =>
      collect(engine.generate({ tokens: prompt(1, 4), maxNewTokens: 1, ...options })).then(() => void order.push(name));
    await Promise.all([
      ...["a1", "a2", "a3"].map((name) => ask(name, { client: "a" })),
      ask("b1", { client: "b" }),
      ask("c1", { client: "c" }),
      ask("first", { client: "a", priority: 1 }),
    ]);
    expect(order).toEqual(["first", "a1", "b1", "c1", "a2", "a3"]);
  });

  test("a long prompt lets running answers go on", async () => {
    await using engine = make({ promptRowsBeside: 16 });
    const events: string[] = [];
    const watch = async (name: string, request: EngineRequest): Promise<void> => {
      for await (const { tokens } of engine.generate(request)) if (tokens.length > 0) events.push(name);
    };
    const short = watch("short", { tokens: prompt(1, 5), maxNewTokens: 40, ignoreEnd: true });
    await Bun.sleep(10);
    await Promise.all([short, watch("long", { tokens: prompt(2, 300), maxNewTokens: 2, ignoreEnd: true })]);
    expect(events.indexOf("long")).toBeGreaterThan(15);
  });

  test("what cannot be taken is refused at once, with the reason", async () => {
    const engine = make({ maxRunning: 1, maxWaiting: 1, cacheBytes: pages(4) });
    const request = { tokens: prompt(1, 10), maxNewTokens: 3 };
    const reason = (request: EngineRequest): string => {
      try {
        engine.generate(request);
      } catch (error) {
        if (error instanceof EngineRejection) return error.reason;
        throw error;
      }
      return "taken";
    };
    expect(reason({ ...request, tokens: prompt(1, 65) })).toBe("too-long");
    expect(reason({ ...request, adapter: "x" })).toBe("unknown-adapter");
    expect(() => engine.generate({ ...request, tokens: [] })).toThrow("at least one token");
    expect(() => engine.generate({ ...request, tokens: [1e6] })).toThrow("token 1000000 at place 0");
    expect(() => engine.generate({ ...request, n: 0 })).toThrow("n must be a whole number of at least 1");
    expect(() => engine.generate({ ...request, topP: 2 })).toThrow("topP");
    expect([reason(request), reason(request), reason(request)]).toEqual(["taken", "taken", "queue-full"]);
    await engine.drain(10_000);
    expectNoLeak(engine);
    expect(reason(request)).toBe("closing");
    await engine.dispose();
  });
});

test("embeddings are the mean of the last hidden states, alone and in company", async () => {
  await using engine = make({ promptRows: 20 });
  const texts = [prompt(1, 5), prompt(2, 50), prompt(1, 5)];
  const company = answer(engine, { tokens: prompt(3, 40), maxNewTokens: 10 });
  const together = await engine.embed(texts);
  await company;
  await using other = make();
  for (const [i, text] of texts.entries()) expect((await other.embed([text]))[0]).toEqual(together[i]);
  expect(together[0].length).toBe(qwen.config.hiddenSize);
  expect(together[2]).toEqual(together[0]);
  await expect(engine.embed(texts, { signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
  expectNoLeak(engine);
});

test("an adapter is its requests' own, and they keep the one they began with", async () => {
  /** Adds the same to every result of the first layer's feed-forward. */
  const shift = (by: number): RowAdapter => ({
    addTo(layer, _, y) {
      if (layer !== qwen.model.model.layers[0].mlp.down_proj) return;
      const [rows, columns] = y.shape;
      const change = Float32Array.from({ length: y.size }, (_, i) => by * (((i % columns) % 7) - 3));
      device.scatterRows(
        Tensor.from(change, y.shape, { device }),
        Tensor.from(
          Array.from({ length: rows }, (_, i) => i),
          [rows],
          { dtype: "i32", device },
        ),
        y,
        "add",
      );
    },
  });
  const [one, two, three] = [shift(0.4), shift(-0.7), shift(-0.7)];
  const tokens = prompt(4, 40);
  const start = (): Engine => {
    const engine = make();
    engine.setAdapter("one", one);
    engine.setAdapter("two", two);
    return engine;
  };
  const askOf = (engine: Engine, adapter: string | null): Promise<number[]> =>
    answer(engine, { tokens, adapter, maxNewTokens: 12, ignoreEnd: true, logprobs: 0 });
  const alone: number[][] = [];
  for (const adapter of [null, "one", "two"]) {
    await using fresh = start();
    alone.push(await askOf(fresh, adapter));
  }
  await using engine = start();
  const ask = (adapter: string | null): Promise<number[]> => askOf(engine, adapter);
  expect(new Set(alone.map(String)).size).toBe(3);
  const mixed: number[][] = await Promise.all([ask("two"), ask(null), ask("one"), ask("two"), ask(null), ask("one")]);
  expect(mixed).toEqual([2, 0, 1, 2, 0, 1].map((i) => alone[i]));
  const running = ask("one");
  engine.setAdapter("one", three);
  let freed = false;
  const unused = engine.whenUnused(one).then(() => void (freed = true));
  await Bun.sleep(1);
  expect(freed).toBe(false);
  expect(await running).toEqual(alone[1]);
  await unused;
  expect(await ask("one")).toEqual(alone[2]);
  await engine.removeAdapter("one");
  expect(() => engine.generate({ tokens, adapter: "one" })).toThrow('no adapter is called "one"; there are two');
});

test("thousands of requests, many given up, leave nothing behind", async () => {
  await using engine = make({ cacheBytes: pages(60), maxRunning: 12, maxWaiting: 4000, promptRows: 64 });
  const runOne = async (i: number): Promise<void> => {
    const request: EngineRequest = {
      ...{ tokens: prompt(i % 23, 1 + ((i * 37) % 70)), maxNewTokens: 1 + (i % 4), n: i % 17 === 0 ? 3 : 1 },
      ...{ client: `${i % 5}`, priority: i % 3, ...(i % 7 === 0 ? { temperature: 1, seed: i } : {}) },
      ...(i % 11 === 0 ? { deadline: performance.now() + (i % 50) } : {}),
    };
    if (i % 5 === 0) {
      for await (const _ of engine.generate(request)) break;
    } else if (i % 6 === 0) {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), i % 40);
      await collect(engine.generate({ ...request, signal: controller.signal }), request.n);
    } else await collect(engine.generate(request), request.n);
  };
  const round = async (from: number): Promise<number> => {
    await Promise.all(Array.from({ length: 1000 }, (_, i) => runOne(from + i)));
    while (engine.stats.running + engine.stats.waiting > 0) await Bun.sleep(1);
    expectNoLeak(engine);
    Bun.gc(true);
    return memory().bytes;
  };
  const after = [await round(0), await round(1000), await round(2000)];
  expect(after[2]).toBe(after[1]);
});
