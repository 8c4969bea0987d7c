import { afterAll, expect, test } from "bun:test";
import { createDevice, Generator, memory, noGrad, scope, type Tensor } from "@tslm/tensor";
import { KeyValueCache } from "./cache.ts";
import { Decoding } from "./decoding.ts";
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
  expect(count).toBe(3);
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
