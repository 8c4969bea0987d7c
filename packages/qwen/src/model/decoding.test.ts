import { afterAll, expect, test } from "bun:test";
import { createDevice, Generator, memory, noGrad, randn, rowsAs, scope, Tensor } from "@tslm/tensor";
import { CacheRows, KeyValueCache } from "./cache.ts";
import { Decoding } from "./decoding.ts";
import type { RowAdapter } from "./layers.ts";
import { QwenModel } from "./model.ts";
import type { Pass } from "./pass.ts";
import { tinyConfig } from "./testing.ts";

const device = await createDevice("cpu", { threads: 2 });
const model = QwenModel.init(tinyConfig(), new Generator(1), { device, std: 0.2 });
const head = (hidden: Tensor): Tensor => model.logits(hidden);
afterAll(async () => {
  model.dispose();
  await device.dispose();
});

/** How often calls are recorded while `body` runs. */
async function recordings(body: () => Promise<void>): Promise<number> {
  const { record } = device;
  let count = 0;
  Object.assign(device, {
    record: (inner: () => unknown) => {
      count++;
      return record!(inner);
    },
  });
  try {
    await body();
  } finally {
    Object.assign(device, { record });
  }
  return count;
}

const tokens = Array.from({ length: 23 }, (_, i) => (i * 7 + 3) % 50);

async function plain(pass: Pass): Promise<number[]> {
  const logits = noGrad(() => scope(() => head(model.hidden(pass)))).keep();
  const values = [...(await logits.data())];
  logits.dispose();
  return values;
}

test.each(["f32", "q8_0"] as const)(
  "token after token, cache %s: the bits of passes of their own, also when the cache grows",
  async (type) => {
    const wide = QwenModel.init(
      tinyConfig({ hidden_size: 128, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 32 }),
      new Generator(2),
      { device, std: 0.2 },
    );
    const logitsOf = async (t: Tensor): Promise<number[]> => [...(await t.data())];
    using decoding = new Decoding(wide, (hidden) => wide.logits(hidden));
    const options = { capacity: 4, device, type, keyBiases: wide.keyBiases };
    const before = memory();
    const [cache, other] = [new KeyValueCache(wide.config, options), new KeyValueCache(wide.config, options)];
    const got: number[][] = [];
    const expected: number[][] = [];
    const count = await recordings(async () => {
      for (const token of tokens) {
        got.push(await logitsOf(decoding.run(cache.extend([token]))));
        const scores = noGrad(() => scope(() => wide.logits(wide.hidden(other.extend([token]))))).keep();
        expected.push(await logitsOf(scores));
        scores.dispose();
      }
    });
    expect(got).toEqual(expected);
    // Room for 4, 8, 16 and 32 tokens, and once more where memory that kernels share grew in the first one.
    expect(count).toBeLessThanOrEqual(5);
    expect(count).toBeGreaterThanOrEqual(4);
    decoding.dispose();
    cache.dispose();
    other.dispose();
    expect(memory().storages).toBe(before.storages);
    wide.dispose();
  },
);

test("passes of other forms in between are computed as they are", async () => {
  using decoding = new Decoding(model, head);
  using cache = new KeyValueCache(model.config, { capacity: 32, device });
  using other = new KeyValueCache(model.config, { capacity: 32, device });
  for (const length of [1, 1, 1, 3, 1, 2, 2, 1, 1]) {
    const next = tokens.slice(cache.length, cache.length + length);
    const got = [...(await decoding.run(cache.extend(next)).data())];
    expect(got).toEqual(await plain(other.extend(next)));
  }
});

test("does not record what never repeats", async () => {
  using decoding = new Decoding(model, head);
  const count = await recordings(async () => {
    for (let i = 0; i < 8; i++) {
      using cache = new KeyValueCache(model.config, { capacity: 8, device });
      expect([...(await decoding.run(cache.extend([3])).data())].length).toBe(50);
    }
  });
  expect(count).toBe(1);
});

test("gives up where what is made of the states cannot be made again", async () => {
  const halved = (hidden: Tensor): Tensor => head(hidden).mul(Tensor.from([0.5], [1], { device }));
  using decoding = new Decoding(model, halved);
  using cache = new KeyValueCache(model.config, { capacity: 32, device });
  using other = new KeyValueCache(model.config, { capacity: 32, device });
  const count = await recordings(async () => {
    for (const token of tokens.slice(0, 8)) {
      const got = [...(await decoding.run(cache.extend([token])).data())];
      expect(got).toEqual((await plain(other.extend([token]))).map((score) => score / 2));
    }
  });
  expect(count).toBe(3);
});

test("sequences in pages, each row through its adapter: also when they leave and come", async () => {
  const config = tinyConfig({ hidden_size: 128, head_dim: 32, max_position_embeddings: 400 });
  const wide = QwenModel.init(config, new Generator(2), { device, std: 0.2 });
  const [a, b] = [
    [4, 128],
    [40, 4],
  ].map((shape, i) => randn(shape, new Generator(5 + i).next(), { device }).keep());
  const adapterOf = (scaling: number): RowAdapter => ({
    addTo(layer, x, y) {
      if (layer !== wide.model.layers[0]!.mlp.up_proj) return;
      device.lowRank({ x, a: a!, b: b!, low: Tensor.empty([x.shape[0]!, 4], { device }), scaling }, y);
    },
  });
  const [first, second] = [adapterOf(0.5), adapterOf(2)];
  const stores = [0, 1].map(() => new CacheRows(config, 400, device));
  using decoding = new Decoding(wide, (hidden) => wide.logits(hidden));
  /** Sequence s has its tokens in every third row from s on. */
  const passOf = (store: CacheRows, sequences: readonly number[], length: number): Pass => {
    const rows = (s: number): number[] => Array.from({ length }, (_, i) => s + 3 * i);
    return {
      tokens: Int32Array.from(sequences, (s) => (s * 5 + length) % 50),
      positions: Int32Array.from(sequences, () => length - 1),
      segments: sequences.map((_, i) => ({ query: i, queries: 1, key: i * length, keys: length })),
      cache: {
        store,
        slots: Int32Array.from(sequences, (s) => rows(s).at(-1)!),
        keyRows: Int32Array.from(sequences.flatMap(rows)),
      },
      adapters: sequences.includes(1)
        ? [{ adapter: length < 80 ? first : second, first: sequences.indexOf(1), count: 1 }]
        : [],
    };
  };
  const count = await recordings(async () => {
    for (let length = 1; length <= 100; length++) {
      const sequences = length < 40 ? [0, 1, 2] : length < 60 ? [1, 2] : length < 90 ? [2, 0, 1] : [1, 0, 2];
      const got = [...(await rowsAs("few", () => decoding.run(passOf(stores[0]!, sequences, length))).data())];
      const logits = noGrad(() =>
        rowsAs("few", () => scope(() => wide.logits(wide.hidden(passOf(stores[1]!, sequences, length))))),
      ).keep();
      expect(got).toEqual([...(await logits.data())]);
      logits.dispose();
    }
  });
  // Each of the five forms once, and where there are more keys than there was room for.
  expect(count).toBeGreaterThanOrEqual(5);
  expect(count).toBeLessThanOrEqual(9);
  decoding.dispose();
  for (const t of [...stores, wide, a!, b!]) t.dispose();
});

test("an impossible token is refused, recorded or not", async () => {
  using decoding = new Decoding(model, head);
  using cache = new KeyValueCache(model.config, { capacity: 8, device });
  await decoding.run(cache.extend([1])).data();
  await decoding.run(cache.extend([2])).data();
  expect(() => decoding.run(cache.extend([50]))).toThrow("token 50 of row 0 lies outside");
});

test("weights that are freed in the middle are an error, not a crash", async () => {
  const gone = QwenModel.init(tinyConfig(), new Generator(1), { device });
  using decoding = new Decoding(gone, (hidden) => gone.logits(hidden));
  using cache = new KeyValueCache(gone.config, { capacity: 8, device });
  for (const token of [1, 2, 3]) await decoding.run(cache.extend([token])).data();
  gone.dispose();
  expect(() => decoding.run(cache.extend([4]))).toThrow("was freed");
});
