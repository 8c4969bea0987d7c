import { afterAll, describe, expect, test } from "bun:test";
import { noGrad } from "../../autograd.ts";
import { Generator, rand, randn, zeros } from "../../creation.ts";
import { scope } from "../../memory.ts";
import { attention, embedding, linear, loraLinear, rmsNorm, rope, rowsAs, softmax, swiglu } from "../../ops/index.ts";
import { Tensor } from "../../tensor.ts";
import { CpuDevice } from "./device.ts";
import type { NativeHost } from "./runtime/index.ts";
import { NativeMemory } from "./runtime/native-memory.ts";

const best = new CpuDevice({ threads: 2 });
const devices = [best, ...(best.info.isa === "wasm" ? [] : [new CpuDevice({ threads: 2, isa: "wasm" })])];
afterAll(async () => {
  for (const device of devices) await device.dispose();
});

const [VOCABULARY, HIDDEN, HEADS, SIZE, CAPACITY] = [50, 128, 2, 64, 16];

/** A layer of a language model in small, with everything that decoding a token calls. */
function layer(device: CpuDevice) {
  const random = new Generator(3);
  const own = { device };
  const weight = (rows: number, columns: number) => randn([rows, columns], random.next(), own).mul(0.1).keep();
  const [q, up] = [weight(HEADS * SIZE, HIDDEN), weight(4 * HIDDEN, HIDDEN)];
  const table = scope(() => weight(VOCABULARY, HIDDEN).to("bf16")).keep();
  const [gate, down] = ["q8_0", "q4_1"].map((type, i) => {
    const dense = i === 0 ? weight(4 * HIDDEN, HIDDEN) : weight(HIDDEN, 4 * HIDDEN);
    return scope(() => dense.to(type as "q8_0")).keep();
  });
  const [loraA, loraB] = [weight(4, HIDDEN), weight(HIDDEN, 4)];
  const ones = zeros([HIDDEN], own).add(1).keep();
  const frequencies = Tensor.from(
    Float32Array.from({ length: SIZE / 2 }, (_, i) => 1 / (i + 1)),
    [SIZE / 2],
    own,
  ).keep();
  const [keys, values] = [0, 1].map(() => zeros([CAPACITY, HEADS * SIZE], own).keep());
  const index = (value: number) => Tensor.from([value], [1], { dtype: "i32", device }).keep();
  const inputs = { token: index(0), position: index(0) };
  const segment = { query: 0, queries: 1, key: 0, keys: 1 };

  const forward = (): { scores: Tensor; best: Tensor } =>
    noGrad(() =>
      rowsAs("few", () =>
        scope(() => {
          const x = embedding(table!, inputs.token).to("f32");
          const normed = rmsNorm(x, ones, 1e-6);
          const heads = (t: Tensor) => rope(t.reshape(1, HEADS, SIZE), inputs.position, frequencies);
          const query = heads(linear(normed, q!));
          for (const cache of [keys!, values!]) {
            device.scatterRows(
              heads(loraLinear(normed, { weight: q!, loraA, loraB, scaling: 2 })).reshape(1, HEADS * SIZE),
              inputs.position,
              cache,
              "set",
            );
          }
          const stored = [keys!, values!].map((t) => t.reshape(CAPACITY, HEADS, SIZE));
          const seen = attention(query, stored[0]!, stored[1]!, [segment]).reshape(1, HIDDEN);
          const inner = swiglu(linear(seen, gate!), linear(seen, up));
          const scores = softmax(linear(linear(inner, down!, undefined, seen), table!));
          return { scores, best: scores.argmax() };
        }),
      ),
    );

  const set = (token: number, position: number) => {
    const words = (value: number) => new Uint8Array(Int32Array.of(value).buffer);
    device.write(inputs.token.storage, 0, words(token));
    device.write(inputs.position.storage, 0, words(position));
    segment.keys = position + 1;
  };
  return { forward, set, weight: up, table: table!, inputs };
}

const numbers = async ({ scores, best }: { scores: Tensor; best: Tensor }) => [
  ...(await scores.data()),
  ...(await best.data()),
];

describe.each(devices.map((device) => [device.info.isa, device] as const))("recorded calls, %s", (_isa, device) => {
  test("give the same bits as the calls themselves, for other tokens, places and lengths", async () => {
    const [plain, recorded] = [layer(device), layer(device)];
    const tokens = [7, 3, 49, 0, 7, 21];
    const expected: number[][] = [];
    for (const [position, token] of tokens.entries()) {
      plain.set(token, position);
      const result = plain.forward();
      expected.push(await numbers(result));
      result.scores.dispose();
      result.best.dispose();
    }
    expect(new Set(expected.map((row) => row.at(-1))).size).toBeGreaterThan(1);

    recorded.set(tokens[0]!, 0);
    const { result, recording } = device.record!(recorded.forward);
    const got = [await numbers(result)];
    for (const [position, token] of tokens.entries()) {
      if (position === 0) continue;
      recorded.set(token, position);
      // What others allocate in between must not lie where the calls write.
      const other = zeros([64, 512], { device }).keep();
      expect(recording.replay()).toBe(true);
      expect(Math.max(...(await other.data()))).toBe(0);
      got.push(await numbers(result));
      other.dispose();
    }
    expect(got).toEqual(expected);
    recording.dispose();
  });

  test("are not made again once memory they use is gone", async () => {
    const { forward, set, weight } = layer(device);
    set(1, 0);
    const { result, recording } = device.record!(forward);
    expect(recording.repeatable).toBe(true);
    const before = await numbers(result);
    weight.dispose();
    expect(recording.repeatable).toBe(false);
    set(2, 1);
    expect(recording.replay()).toBe(false);
    expect(await numbers(result)).toEqual(before);
    recording.dispose();
  });

  test("cannot be made again where the host did something in between", () => {
    const x = zeros([2, 8], { device }).keep();
    const random = new Generator(1);
    const spoilt = [
      () => Tensor.from([1, 2], [2], { device }),
      () => rand([8], random.next(), { device }),
      () => device.write(x.storage, 0, new Uint8Array(4)),
    ];
    for (const body of spoilt) {
      const { recording } = device.record!(() => void body());
      expect(recording.repeatable).toBe(false);
      expect(recording.replay()).toBe(false);
      recording.dispose();
    }
    const { recording } = device.record!(() => void scope(() => noGrad(() => x.mul(2))));
    expect(recording.replay()).toBe(true);
    recording.dispose();
    x.dispose();
  });

  test("results are of no use once the recording is disposed of", async () => {
    const { forward, set } = layer(device);
    set(1, 0);
    const { result, recording } = device.record!(forward);
    recording.dispose();
    expect(recording.replay()).toBe(false);
    expect(result.scores.data()).rejects.toThrow("freed");
    result.scores.dispose();
  });

  test("a body that throws leaves the device as it was", async () => {
    const x = zeros([2, 8], { device }).keep();
    const record = () =>
      device.record!(() =>
        scope(() => {
          noGrad(() => x.mul(2));
          throw new Error("in the middle");
        }),
      );
    expect(record).toThrow("in the middle");
    const made = noGrad(() => scope(() => x.add(1))).keep();
    expect([...(await made.data())]).toEqual(Array(16).fill(1));
    for (const t of [x, made]) t.dispose();
  });
});

test.skipIf(best.info.isa === "wasm")("a recording gives all its memory back", () => {
  let memory: NativeMemory | undefined;
  const device = new CpuDevice({ threads: 1, memory: (host: NativeHost) => (memory = new NativeMemory(host)) });
  const { forward, set } = layer(device);
  const round = () => {
    set(1, 0);
    const { result, recording } = device.record!(forward);
    recording.replay();
    result.scores.dispose();
    result.best.dispose();
    recording.dispose();
    return memory!.stats().used;
  };
  const first = round();
  for (let i = 0; i < 5; i++) expect(round()).toBe(first);
});

test("a recording is not made again once the memory that its kernels share has moved", async () => {
  const device = new CpuDevice({ threads: 1 });
  const { forward, set } = layer(device);
  set(1, 0);
  for (const t of Object.values(forward())) t.dispose();
  const { result, recording } = device.record!(forward);
  const known = recording.repeatable;
  const [x, weight] = [zeros([64, 8192], { device }).keep(), zeros([8, 8192], { device }).keep()];
  // A wide low-rank product needs more of it than anything before.
  noGrad(() => scope(() => loraLinear(x, { weight, loraA: weight, loraB: zeros([8, 8], { device }), scaling: 1 })));
  expect([known, recording.repeatable, recording.replay()]).toEqual([true, false, false]);
  for (const t of [result.scores, result.best, x, weight]) t.dispose();
  recording.dispose();
  await device.dispose();
});
