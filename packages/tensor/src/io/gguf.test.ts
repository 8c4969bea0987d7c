import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { FormatError, openGguf, parseGguf, serializeGguf, TensorError, tensor, writeGguf } from "../index.ts";
import type { GgufEntry } from "./gguf.ts";

const folder = mkdtempSync(join(tmpdir(), "gguf-"));
afterAll(() => rmSync(folder, { recursive: true }));

const wave = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i));
const matrix = tensor(wave(3 * 64), { shape: [3, 64] });
const tensors = new Map([
  ["a.weight", matrix.to("q8_0")],
  ["b.weight", matrix.to("q4_1")],
  ["中.weight", matrix.to("bf16")],
  ["norm", tensor([1, 2, 3])],
  ["none", tensor(new Float32Array(0), { shape: [0, 5] })],
]);
const metadata = new Map<string, GgufEntry>([
  ["general.architecture", "qwen2"],
  ["text", "你好 \u0000 €"],
  ["count", 7],
  ["negative", -7],
  ["real", 0.5],
  ["base", { float32: 1e6 }],
  ["yes", true],
  ["words", ["a", "", "中"]],
  ["numbers", [1, -2, 3]],
]);

/** Bytes of a file by hand. */
class Bytes {
  readonly list: number[] = [];
  u32(...values: number[]): this {
    for (const value of values) this.list.push(...new Uint8Array(Uint32Array.of(value).buffer));
    return this;
  }
  u64(...values: (number | bigint)[]): this {
    for (const value of values) this.list.push(...new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
    return this;
  }
  text(value: string): this {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.list.push(...bytes);
    return this;
  }
  head(tensors: number | bigint, keys: number | bigint, version = 3): this {
    this.list.push(...new TextEncoder().encode("GGUF"));
    return this.u32(version).u64(tensors, keys);
  }
  /** Pads to 32 and adds `n` bytes. */
  data(n: number): Uint8Array {
    while (this.list.length % 32) this.list.push(0);
    return Uint8Array.from([...this.list, ...new Array(n).fill(1)]);
  }
}
/** A file with one tensor. */
const one = (dims: (number | bigint)[], type: number, offset: number | bigint, data = 64, name = "t"): Uint8Array =>
  new Bytes()
    .head(1, 0)
    .text(name)
    .u32(dims.length)
    .u64(...dims)
    .u32(type)
    .u64(offset)
    .data(data);
const key = (type: number, value: (bytes: Bytes) => Bytes, name = "k"): Uint8Array =>
  value(new Bytes().head(0, 1).text(name).u32(type)).data(0);

test("what is written comes back: names, shapes, numbers, blocks and metadata", async () => {
  const path = join(folder, "model.gguf");
  await writeGguf(path, tensors, metadata);
  expect(readdirSync(folder)).toEqual(["model.gguf"]);
  const file = await openGguf(path);
  expect(file.names()).toEqual([...tensors.keys()]);
  expect(Object.fromEntries(file.metadata)).toEqual({ ...Object.fromEntries(metadata), base: 1e6 });
  for (const [name, want] of tensors) {
    expect(file.has(name)).toBe(true);
    const got = file.tensor(name);
    expect([got.dtype, got.shape]).toEqual([want.dtype, want.shape]);
    expect(await got.bytes()).toEqual(await want.bytes());
  }
  expect(file.has("c")).toBe(false);
  expect(() => file.tensor("c")).toThrow(`[gguf] ${path}: there is no tensor c`);
  const kept = file.tensor("norm");
  file.close();
  expect(await kept.tolist()).toEqual([1, 2, 3]);
});

test("tells how far it is", async () => {
  const told: string[] = [];
  await serializeGguf(tensors, metadata, { progress: (done, total) => told.push(`${done}/${total}`) });
  expect(told).toEqual(Array.from({ length: tensors.size + 1 }, (_, i) => `${i}/${tensors.size}`));
});

test("half precision is widened", async () => {
  const file = parseGguf(one([4], 1, 0));
  file.tensor("t");
  const value = (2 ** -14 * 0x101) / 0x400;
  expect(await file.tensor("t").tolist()).toEqual(new Array(4).fill(value));
});

test("every metadata type is read; 64-bit integers beyond 2^53 as BigInt", () => {
  const read = (bytes: Uint8Array) => parseGguf(bytes).metadata.get("k");
  const raw =
    (...list: number[]) =>
    (bytes: Bytes) => {
      bytes.list.push(...list);
      return bytes;
    };
  expect(read(key(0, raw(200)))).toBe(200);
  expect(read(key(1, raw(200)))).toBe(-56);
  expect(read(key(2, raw(0, 200)))).toBe(51200);
  expect(read(key(3, raw(0, 200)))).toBe(-14336);
  expect(read(key(5, raw(255, 255, 255, 255)))).toBe(-1);
  expect(read(key(7, raw(1)))).toBe(true);
  expect(read(key(10, (b) => b.u64(5)))).toBe(5);
  expect(read(key(10, (b) => b.u64(2n ** 63n)))).toBe(2n ** 63n);
  expect(read(key(11, (b) => b.u64(2n ** 64n - 2n)))).toBe(-2);
  expect(read(key(12, raw(...new Uint8Array(Float64Array.of(0.1).buffer))))).toBe(0.1);
  expect(read(key(9, (b) => b.u32(9).u64(1).u32(4).u64(2).u32(8, 9)))).toEqual([[8, 9]]);
});

describe("what is wrong with a file is told", () => {
  const good = one([64], 0, 0, 256);
  const deep = (depth: number) => (bytes: Bytes) => {
    for (let i = 0; i < depth; i++) bytes.u32(9).u64(1);
    return bytes.u32(4).u64(0);
  };
  const two = (second: string, offset: number) =>
    new Bytes().head(2, 0).text("t").u32(1).u64(8).u32(0).u64(0).text(second).u32(1).u64(8).u32(0).u64(offset).data(96);
  const align = (value: number) => new Bytes().head(0, 1).text("general.alignment").u32(4).u32(value).data(0);
  const cases: [string, Uint8Array, string][] = [
    ["empty", new Uint8Array(0), "does not begin with GGUF"],
    ["another magic", Uint8Array.from(good, (b, i) => (i === 0 ? 0 : b)), "does not begin with GGUF"],
    ["version 1", new Bytes().head(0, 0, 1).data(0), "is GGUF version 1; 2 and 3 are read"],
    ["big-endian", new Bytes().head(0, 0, 0x03000000).data(0), "is big-endian GGUF"],
    ["cut header", good.slice(0, 40), "was it cut off?"],
    ["cut data", good.slice(0, good.length - 1), `tensor "t" ends at byte ${good.length} but the file at`],
    ["too many tensors", new Bytes().head(2n ** 60n, 0).data(0), "the number of tensors is 1152921504606846976"],
    ["too many keys", new Bytes().head(0, 1 << 20).data(0), "the number of metadata entries is 1048576"],
    [
      "a long name",
      new Bytes()
        .head(0, 1)
        .u64(1 << 20)
        .data(99),
      "the length of the name of metadata entry 0 is 1048576",
    ],
    ["a text that is longer than the file", key(8, (b) => b.u64(2n ** 40n)), 'ends inside metadata "k"'],
    ["a text that is not UTF-8", key(8, (b) => b.u64(1).u32(0xff)), 'metadata "k" is not text in UTF-8'],
    ["an unknown type", key(13, (b) => b), 'metadata "k" is of type 13'],
    ["an array of an unknown type", key(9, (b) => b.u32(77).u64(1)), "is an array of type 77"],
    ["an array that is longer than the file", key(9, (b) => b.u32(4).u64(1 << 20)), "was it cut off?"],
    ["an array of very many", key(9, (b) => b.u32(0).u64(2n ** 50n)), "at most 16777216 is accepted"],
    ["arrays in arrays", key(9, deep(6)), "more than 4 deep"],
    ["a truth value of 2", key(7, (b) => b.u32(2)), 'metadata "k" is a truth value of 2'],
    ["a key twice", new Bytes().head(0, 2).text("k").u32(4, 1).text("k").u32(4, 1).data(0), '"k" stands there twice'],
    ["a tensor twice", two("t", 32), 'tensor "t" stands there twice'],
    ["tensors over one another", two("u", 0), 'tensors "t" and "u" overlap'],
    ["an odd place", two("u", 8), 'tensor "u" begins at 8, not at a multiple of 32'],
    ["an odd alignment", align(12), "general.alignment is 12"],
    ["no alignment", align(0), "general.alignment is 0"],
    ["many dimensions", one([1, 1, 1, 1, 1], 0, 0), "has 5 dimensions"],
    ["a huge size", one([2n ** 63n], 0, 0), "is 9223372036854775808"],
    ["sizes whose product is no exact number", one([2 ** 30, 2 ** 30], 0, 0), "cannot be F32"],
    ["rows that are no blocks", one([48], 8, 0), "of shape [48] cannot be Q8_0"],
    ["a place beyond the file", one([4], 0, 2n ** 52n), "ends at byte"],
    ["a place that is no exact number", one([4], 0, 2n ** 60n), "the place of tensor"],
  ];
  test.each(cases)("%s", (_name, bytes, problem) => {
    expect(() => parseGguf(bytes, "x.gguf")).toThrow(FormatError);
    expect(() => parseGguf(bytes, "x.gguf")).toThrow(problem);
    expect(() => parseGguf(bytes, "x.gguf")).toThrow("[gguf] x.gguf: ");
  });

  test("a tensor of a type that cannot be computed with is refused when it is asked for", () => {
    for (const [type, name] of [
      [10, "Q2_K"],
      [99, "type 99"],
    ] as const) {
      const file = parseGguf(one([256], type, 0, 84), "x.gguf");
      expect(file.info("t").type).toBe(name);
      expect(() => file.tensor("t")).toThrow(`tensor t is ${name}; only`);
    }
  });

  test("a file that is not there", async () => {
    expect(openGguf(join(folder, "no.gguf"))).rejects.toThrow(TensorError);
    writeFileSync(join(folder, "empty.gguf"), "");
    expect(openGguf(join(folder, "empty.gguf"))).rejects.toThrow("does not begin with GGUF");
  });
});

test("whatever bytes are changed or missing, the answer is a file or a FormatError", async () => {
  const good = await serializeGguf(tensors, metadata);
  const header = good.indexOf(1, 900);
  const read = (bytes: Uint8Array): void => {
    try {
      const file = parseGguf(bytes);
      for (const name of file.names()) {
        const { byteLength, offset } = file.info(name);
        expect(offset + (byteLength ?? 0)).toBeLessThanOrEqual(bytes.length);
      }
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
    }
  };
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(Math.max(header, 900)), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      fc.option(fc.nat(good.length)),
      (changes, length) => {
        const bytes = good.slice(0, length ?? good.length);
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
        read(bytes);
      },
    ),
    { numRuns: 2000 },
  );
});
