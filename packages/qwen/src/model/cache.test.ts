import { afterEach, expect, test } from "bun:test";
import { Generator, noGrad, scope } from "@tslm/tensor";
import { KeyValueCache } from "./cache.ts";
import { QwenModel } from "./model.ts";
import { ContextLengthError, type Pass, passOf } from "./pass.ts";
import { livingMemory, settledMemory, tinyConfig, tinyModel } from "./testing.ts";

const open: { dispose(): void }[] = [];
function own<T extends { dispose(): void }>(made: T): T {
  open.push(made);
  return made;
}
afterEach(() => {
  for (const made of open.splice(0)) made.dispose();
});

async function logits(model: QwenModel, pass: Pass): Promise<number[]> {
  const out = noGrad(() => scope(() => model.logits(model.hidden(pass))));
  const values = Array.from(await out.data());
  out.dispose();
  return values;
}

const ids = Array.from({ length: 23 }, (_, i) => (i * 7 + 3) % 50);

for (const chunks of [[23], [1, 22], [10, 1, 1, 1, 8, 2], new Array(23).fill(1)]) {
  test(`with a cache, in steps of ${[...new Set(chunks)].join(" ")}: exactly what one pass gives`, async () => {
    const model = own(tinyModel());
    const whole = await logits(model, passOf([ids]));
    const cache = own(new KeyValueCache(model.config, { capacity: 4 }));
    const steps: number[] = [];
    let at = 0;
    for (const n of chunks) steps.push(...(await logits(model, cache.extend(ids.slice(at, (at += n))))));
    expect(steps).toEqual(whole);
    expect(cache.length).toBe(23);
    expect(cache.capacity).toBeGreaterThanOrEqual(23);
    expect(cache.capacity).toBeLessThanOrEqual(64);
  });
}

test("goes back to an earlier length", async () => {
  const model = own(tinyModel());
  const cache = own(new KeyValueCache(model.config));
  await logits(model, cache.extend([1, 2, 3, 4, 5]));
  cache.truncate(2);
  const got = await logits(model, cache.extend([9]));
  expect(got).toEqual((await logits(model, passOf([[1, 2, 9]]))).slice(-50));
  expect(() => cache.truncate(4)).toThrow("a cache of 3 tokens cannot be cut to 4");
});

test("several sequences can share it: slots and segments say which rows are whose", async () => {
  const model = own(tinyModel());
  const store = own(new KeyValueCache(model.config, { capacity: 32, fixed: true }));
  const [a, b] = [ids.slice(0, 5), ids.slice(5, 12)];
  const firsts = passOf([a.slice(0, 4), b.slice(0, 6)]);
  const slots = Int32Array.of(20, 21, 22, 23, 3, 4, 5, 6, 7, 8);
  const segments = [
    { query: 0, queries: 4, key: 20, keys: 4 },
    { query: 4, queries: 6, key: 3, keys: 6 },
  ];
  await logits(model, { ...firsts, segments, cache: { store, slots } });
  const last = await logits(model, {
    tokens: Int32Array.of(a[4], b[6]),
    positions: Int32Array.of(4, 6),
    segments: [
      { query: 0, queries: 1, key: 20, keys: 5 },
      { query: 1, queries: 1, key: 3, keys: 7 },
    ],
    cache: { store, slots: Int32Array.of(24, 9) },
  });
  expect(last.slice(0, 50)).toEqual((await logits(model, passOf([a]))).slice(-50));
  expect(last.slice(50)).toEqual((await logits(model, passOf([b]))).slice(-50));
});

test("ends at the model's positions, or at its own capacity when that is fixed", () => {
  const config = tinyConfig();
  const grows = own(new KeyValueCache(config, { capacity: 2 }));
  grows.extend(new Array(64).fill(1));
  expect(() => grows.extend([1])).toThrow(ContextLengthError);
  expect(() => grows.extend([1])).toThrow(
    "65 tokens do not fit into the 64 of the model (max_position_embeddings); shorten the text",
  );
  expect(grows.length).toBe(64);
  const fixed = own(new KeyValueCache(config, { capacity: 8, fixed: true }));
  expect(() => fixed.extend(new Array(9).fill(1))).toThrow("9 tokens do not fit into the 8 of the key/value cache");
  expect(() => new KeyValueCache(config, { capacity: 65 })).toThrow(ContextLengthError);
  expect(() => new KeyValueCache(config, { capacity: 0 })).toThrow("whole number of tokens from 1, not 0");
});

test("refuses to lose a gradient", () => {
  const model = own(tinyModel());
  const cache = own(new KeyValueCache(model.config));
  expect(() => model.hidden(cache.extend([1, 2]))).toThrow("no gradient flows through a key/value cache");
});

test("a decoded token leaves nothing behind, and the cache gives all back", async () => {
  const config = tinyConfig({ hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, head_dim: 4, num_attention_heads: 2, num_key_value_heads: 1 }); // biome-ignore format: one line
  const model = own(QwenModel.init(config, new Generator(1)));
  const start = await settledMemory();
  const cache = new KeyValueCache(config, { capacity: 64, fixed: true });
  await logits(model, cache.extend([1]));
  const before = await settledMemory();
  for (let i = 1; i < 64; i++) await logits(model, cache.extend([i % 50]));
  expect(livingMemory()).toEqual(before);
  cache.dispose();
  expect(livingMemory()).toEqual(start);
});
