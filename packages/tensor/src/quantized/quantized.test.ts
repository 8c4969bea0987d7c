import { expect, test } from "bun:test";
import fc from "fast-check";
import { BLOCKS, type BlockType, fromF16, toF16 } from "../dtype.ts";
import { embedding, linear, matmul, type QuantizableType, scope, Tensor, tensor } from "../index.ts";
import { decodeBlocks } from "./decode.ts";
import { encodeBlocks, QUANTIZABLE } from "./encode.ts";
import fixture from "./testdata/blocks.json" with { type: "json" };

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> => Uint8Array.from(Buffer.from(base64, "base64"));
const types = Object.keys(BLOCKS) as BlockType[];

test.each(types)("%s blocks decode to what the gguf package gives, bit for bit", (type) => {
  const bytes = bytesOf(fixture[type].blocks);
  const values = new Float32Array(bytesOf(fixture[type].values).buffer);
  expect(Float32Array.from(decodeBlocks(type, bytes, 0, values.length))).toEqual(values);
});

test.each(types)("any part of %s blocks decodes to the same numbers", (type) => {
  const bytes = bytesOf(fixture[type].blocks);
  const all = decodeBlocks(type, bytes, 0, 3 * BLOCKS[type].elements);
  fc.assert(
    fc.property(fc.nat(all.length - 1), fc.integer({ min: 1, max: 300 }), fc.nat(100), (first, step, count) => {
      const n = Math.min(count, Math.ceil((all.length - first) / step));
      const got = decodeBlocks(type, bytes, first, n, new Float64Array(n), step);
      for (let i = 0; i < n; i++) expect(got[i]).toBe(all[first + i * step]);
    }),
  );
});

test("half precision: every number survives, others go to the nearest", () => {
  for (let bits = 0; bits < 0x10000; bits++) {
    const value = fromF16(bits);
    if (Number.isNaN(value)) expect(toF16(value) & 0x7c00).toBe(0x7c00);
    else expect(toF16(value)).toBe(bits);
  }
  fc.assert(
    fc.property(fc.float({ noNaN: true, min: -65519, max: 65519 }), (x) => {
      const at = toF16(x);
      const error = Math.abs(fromF16(at) - x);
      for (const near of [at - 1, at + 1]) {
        const other = fromF16(near & 0xffff);
        if (Number.isFinite(other)) expect(error).toBeLessThanOrEqual(Math.abs(other - x));
      }
    }),
  );
  expect(fromF16(toF16(65520))).toBe(Number.POSITIVE_INFINITY);
  expect(fromF16(toF16(-1e9))).toBe(Number.NEGATIVE_INFINITY);
});

/** Largest error that a block's element may have. */
function bound(type: QuantizableType, block: Float32Array): number {
  const [least, most] = [Math.min(...block), Math.max(...block)];
  const greatest = Math.max(Math.abs(least), Math.abs(most));
  // Half a step, and the rounding of the scale (times up to 127 or 15) and of the minimum to 11 bits.
  if (type === "q8_0") return greatest * (0.5 / 127 + 2 ** -11) + 127 * 2 ** -25;
  return (most - least) * (0.5 / 15 + 2 ** -11) + greatest * 2 ** -11 + 16 * 2 ** -25;
}

test.each([...QUANTIZABLE])("%s keeps every element within its bound", (type) => {
  const value = fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 });
  const small = fc.float({ noNaN: true, min: Math.fround(-1e-6), max: Math.fround(1e-6) });
  fc.assert(
    fc.property(
      fc.oneof(fc.array(value, { minLength: 64, maxLength: 64 }), fc.array(small, { minLength: 64, maxLength: 64 })),
      (list) => {
        const values = Float32Array.from(list);
        const bytes = new Uint8Array(2 * BLOCKS[type].bytes);
        encodeBlocks(type, values, bytes);
        const back = decodeBlocks(type, bytes, 0, 64);
        for (let i = 0; i < 64; i++) {
          const block = values.subarray(i & 32, (i & 32) + 32);
          expect(Math.abs(back[i] - values[i])).toBeLessThanOrEqual(bound(type, block));
        }
      },
    ),
  );
});

test("constant blocks come back exactly where a half holds them", () => {
  for (const type of QUANTIZABLE) {
    const bytes = new Uint8Array(BLOCKS[type].bytes);
    for (const value of type === "q8_0" ? [0] : [0, 1, -0.5, 3]) {
      encodeBlocks(type, new Float32Array(32).fill(value), bytes);
      expect([...decodeBlocks(type, bytes, 0, 32)]).toEqual(new Array(32).fill(value));
    }
  }
});

const wave = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 0.37) + i / n);

test("a quantised weight is used as its decoded numbers are", async () => {
  const weight = tensor(wave(6 * 64), { shape: [6, 64] });
  const x = tensor(wave(2 * 64), { shape: [2, 64], requiresGrad: true });
  for (const type of QUANTIZABLE) {
    const blocks = weight.to(type);
    const plain = blocks.to("f32");
    expect(await blocks.data()).toEqual((await plain.data()) as Float32Array);
    expect(await linear(x, blocks).data()).toEqual((await linear(x, plain).data()) as Float32Array);
    const back = tensor(wave(2 * 6), { shape: [2, 6] });
    expect(await matmul(back, blocks).data()).toEqual((await matmul(back, plain).data()) as Float32Array);
    const index = tensor([5, 0, 5], { dtype: "i32" });
    expect(await embedding(blocks, index).data()).toEqual((await embedding(plain, index).data()) as Float32Array);
    expect(await blocks.slice(0, 2, 4).data()).toEqual((await plain.slice(0, 2, 4).data()) as Float32Array);
    // The gradient to the input goes through the blocks; none goes to them.
    const gradients = scope(() =>
      [blocks, plain].map((w) => {
        x.grad = undefined;
        linear(x, w).square().sum().backward();
        return x.grad!.clone();
      }),
    );
    expect(await gradients[0].data()).toEqual((await gradients[1].data()) as Float32Array);
    expect(() => {
      blocks.requiresGrad = true;
    }).toThrow(`gradients need f32 or f64, not ${type}`);
  }
});

test("blocks are refused where they mean nothing", () => {
  const blocks = tensor(wave(4 * 64), { shape: [4, 64] }).to("q8_0");
  expect(() => blocks.add(1)).toThrow("takes no q8_0 blocks");
  expect(() => blocks.sum()).toThrow("takes no q8_0 blocks");
  expect(() => matmul(blocks, blocks.T)).toThrow("takes no q8_0 blocks");
  expect(() => blocks.slice(1, 0, 16)).toThrow("q8_0 blocks of 32 are not cut: elements 0 to 16");
  expect(() => blocks.reshape(-1, 16)).toThrow("are not cut or moved into");
  expect(() => blocks.to("q4_1")).toThrow("use to('f32') first");
  expect(() => blocks.to("bf16")).toThrow("decode to f32");
  expect(() => tensor([[1, 2]]).to("q8_0")).toThrow("rows of q8_0 are blocks of 32 elements; [1,2] has others");
  expect(() => tensor(wave(32), { shape: [1, 32] }).to("q4_k")).toThrow("only into q8_0 and q4_1");
  expect(() => Tensor.map(new Uint8Array(33), [1, 32], "q8_0")).toThrow("33 bytes are not a q8_0 tensor");
});
