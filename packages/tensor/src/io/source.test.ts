import { expect, test } from "bun:test";
import { fromBf16, fromF16, toF16 } from "../dtype.ts";
import { memory, parseGguf, parseSafetensors, serializeGguf, serializeSafetensors, tensor, toBf16 } from "../index.ts";
import { encodeSource, STORED_TYPES, type StoredType, storedBytes, type TensorSource } from "./source.ts";

const wave = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 0.37) + i / n);
const SHAPE = [6, 64];
const source = (type: StoredType, made: { count: number } = { count: 0 }): TensorSource => ({
  type,
  shape: SHAPE,
  read: () => {
    made.count++;
    return tensor(wave(384), { shape: SHAPE }).keep();
  },
});

test("tensors are made when their turn comes, encoded, and freed", async () => {
  const made = { count: 0 };
  const before = memory().storages;
  const bytes = await serializeGguf(new Map(STORED_TYPES.map((type) => [type, source(type, made)])));
  expect(made.count).toBe(STORED_TYPES.length);
  expect(memory().storages).toBe(before);
  const file = parseGguf(bytes);
  const exact = wave(384);
  const steps: Record<StoredType, number> = {
    ...{ f32: 0, f16: 2 ** -10, bf16: 2 ** -7, q8_0: 2 / 127, q5_0: 2 / 16, q5_1: 4 / 31, q4_0: 2 / 8, q4_1: 4 / 15 },
  };
  for (const type of STORED_TYPES) {
    expect(file.info(type)).toMatchObject({ type: type.toUpperCase(), byteLength: storedBytes(type, SHAPE) });
    const back = (await file.tensor(type).data()) as Float32Array;
    expect(Math.max(...back.map((x, i) => Math.abs(x - exact[i])))).toBeLessThanOrEqual(steps[type]);
  }
});

test("halves are rounded to nearest", async () => {
  const file = parseSafetensors(
    await serializeSafetensors(
      new Map([
        ["f16", source("f16")],
        ["bf16", source("bf16")],
      ]),
    ),
  );
  expect(file.info("f16").dtype).toBe("F16");
  expect(await file.tensor("f16").data()).toEqual(wave(384).map((x) => fromF16(toF16(x))));
  expect(new Uint16Array(file.bytes("bf16").slice().buffer)).toEqual(Uint16Array.from(wave(384), toBf16));
});

test("a large matrix is encoded in pieces, with the same bytes", async () => {
  const shape = [3000, 512];
  const numbers = wave(3000 * 512);
  const pieces: Uint8Array[] = [];
  const whole = { type: "q4_0", shape, read: () => tensor(numbers, { shape }).keep() } as const;
  for await (const piece of encodeSource(whole)) pieces.push(piece);
  expect(pieces.length).toBeGreaterThan(1);
  const last = {
    type: "q4_0",
    shape: [1, 512],
    read: () => tensor(numbers.slice(-512), { shape: [1, 512] }).keep(),
  } as const;
  for await (const row of encodeSource(last)) expect([...pieces.at(-1)!.slice(-row.length)]).toEqual([...row]);
  expect(pieces.reduce((n, { length }) => n + length, 0)).toBe(storedBytes("q4_0", shape));
});

test("what does not fit is refused", async () => {
  const narrow = { type: "q4_0", shape: [2, 33], read: () => tensor(wave(66), { shape: [2, 33] }) } as const;
  expect(serializeGguf(new Map<string, TensorSource>([["narrow", narrow]]))).rejects.toThrow(
    "narrow of shape [2,33] has no rows of whole q4_0 blocks",
  );
  expect(serializeSafetensors(new Map([["blocks", source("q4_0")]]))).rejects.toThrow("blocks is q4_0");
  const other = { ...source("f16"), shape: [64, 6] };
  expect(serializeGguf(new Map([["other", other]]))).rejects.toThrow("[6,64] was given for [64,6]");
});

test("halves that bf16 holds are read as bf16, others as f32, both exactly", async () => {
  const exact = Float32Array.from(wave(384), (x) => fromBf16(toBf16(x)));
  const of = (values: Float32Array, shape: number[]): TensorSource => ({
    type: "f16",
    shape,
    read: () => tensor(values, { shape }).keep(),
  });
  const sources = new Map([
    ["exact", of(exact, SHAPE)],
    ["other", of(wave(384), SHAPE)],
    ["vector", of(exact, [384])],
  ]);
  const bytes = await serializeGguf(sources);
  // Read from an odd address as well.
  const shifted = new Uint8Array(bytes.length + 1);
  shifted.set(bytes, 1);
  for (const file of [parseGguf(bytes), parseGguf(shifted.subarray(1))]) {
    expect([...sources.keys()].map((name) => file.tensor(name).dtype)).toEqual(["bf16", "f32", "f32"]);
    expect(await file.tensor("exact").data()).toEqual(exact);
    expect(await file.tensor("other").data()).toEqual(wave(384).map((x) => fromF16(toF16(x))));
  }
  const safe = parseSafetensors(await serializeSafetensors(sources));
  expect(safe.tensor("exact").dtype).toBe("bf16");
  expect(await safe.tensor("exact").data()).toEqual(exact);
});
