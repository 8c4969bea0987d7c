import { afterAll, describe, expect, test } from "bun:test";
import {
  BLOCKS,
  type BlockType,
  type Device,
  embedding,
  linear,
  linearCrossEntropy,
  matmul,
  reference,
  type Tensor,
} from "../../index.ts";
import { Tensor as T } from "../../tensor.ts";
import { numbers } from "../conformance/harness.ts";
import { CpuDevice } from "./index.ts";

const types = Object.keys(BLOCKS) as BlockType[];
const machineCode = process.arch === "arm64" ? "neon" : "avx2";
const devices = [machineCode, "wasm"].map((isa) => new CpuDevice({ threads: 2, isa }));
afterAll(async () => {
  for (const device of devices) await device.dispose();
});

/** Blocks of random bits whose scales are small halves. */
function weight(type: BlockType, n: number, k: number, device: Device): Tensor {
  const random = numbers(n * k);
  const { bytes, elements } = BLOCKS[type];
  const content = Uint8Array.from({ length: ((n * k) / elements) * bytes }, () => 256 * random());
  const halves = type === "q6_k" ? [208] : type.endsWith("_0") ? [0] : [0, 2];
  for (let at = 0; at < content.length; at += bytes) {
    for (const half of halves) content[at + half + 1] = 0x20 | (content[at + half + 1] & 0x83);
  }
  return T.map(content, [n, k], type, device);
}

function normal(shape: readonly number[], seed: number, device: Device): Tensor {
  const random = numbers(seed);
  const n = shape.reduce((a, b) => a * b, 1);
  return T.from(
    Float32Array.from({ length: n }, () => 2 * random() - 1),
    shape,
    { device },
  );
}

async function close(got: Tensor, want: Tensor, share: number): Promise<void> {
  const [a, b] = [await got.data(), await want.data()];
  const most = Math.max(...Array.from(b as Float32Array, Math.abs));
  expect(got.shape).toEqual(want.shape);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i] - b[i]));
  expect(worst).toBeLessThanOrEqual(share * most);
}

describe.each(devices.map((device) => [device.info.isa, device] as const))("%s", (_isa, device) => {
  test.each(types)("%s as a weight is what its decoded numbers are", async (type) => {
    const [n, k] = [300, 768];
    const w = weight(type, n, k, device);
    const plain = w.to("f32");
    expect(await plain.data()).toEqual((await w.data()) as Float32Array);
    const bias = normal([n], 5, device);
    for (const m of [1, 2, 3, 4, 5, 8, 9, 40]) {
      const x = normal([m, k], m, device);
      // Up to eight rows go through bytes: an 8-bit rounding of each activation.
      await close(linear(x, w, bias), linear(x, plain, bias), m <= 8 ? 1e-2 : 3e-6);
    }
    // The way back: blocks lie along the columns.
    const [rows, columns] = [256, 300];
    const v = weight(type, columns, rows, device);
    await close(matmul(normal([7, columns], 3, device), v), matmul(normal([7, columns], 3, device), v.to("f32")), 3e-6);
    const part = w.slice(0, 10, 20);
    await close(linear(normal([1, k], 9, device), part), linear(normal([1, k], 9, device), part.to("f32")), 1e-2);
    const index = T.from([2, 299, 2], [3], { dtype: "i32", device });
    expect(await embedding(w, index).data()).toEqual((await embedding(plain, index).data()) as Float32Array);
  });

  test("a row's result does not depend on the rows beside it", async () => {
    const w = weight("q5_0", 64, 96, device);
    const x = normal([8, 96], 1, device);
    const all = await linear(x, w).data();
    for (let r = 0; r < 8; r++) {
      expect(await linear(x.slice(0, r, r + 1), w).data()).toEqual(all.slice(r * 64, r * 64 + 64) as Float32Array);
    }
  });

  test("the loss over a quantised head, and its gradient", async () => {
    const w = weight("q8_0", 2100, 64, device);
    const plain = w.to("f32");
    const hidden = normal([12, 64], 2, device);
    const targets = T.from([0, 2099, 5, -1, 8, 1000, 1001, 3, 2050, 2047, 2048, 7], [12], { dtype: "i32", device });
    const scale = normal([12], 4, device);
    const [blocks, floats] = [w, plain].map((head) => {
      const leaf = hidden.clone();
      leaf.requiresGrad = true;
      const loss = linearCrossEntropy(leaf, head, targets, scale);
      loss.backward();
      return { loss, gradient: leaf.grad! };
    });
    await close(blocks.loss, floats.loss, 1e-5);
    await close(blocks.gradient, floats.gradient, 1e-5);
  });

  test.each(["q8_0", "q4_1"] as const)("quantising to %s gives the reference's blocks", async (type) => {
    // Blocks of ordinary numbers, of zeros, of tiny and of huge ones, of one number, and of exact ties.
    const random = numbers(8);
    const kinds = [1, 0, 1e-7, 1e-9, 3e38, 1e5].map((size) => () => size * (2 * random() - 1));
    const values = [...kinds, () => -2.5, () => Math.floor(16 * random()) / 2];
    const blocks = Array.from({ length: 5 * 24 }, (_, i) => Array.from({ length: 32 }, values[i % values.length]));
    const x = T.from(Float32Array.from(blocks.flat()), [5, 24 * 32], { device });
    const bytes = (t: Tensor): Promise<Uint8Array> => t.to(type).bytes();
    const plain = T.from(await x.data(), x.shape, { device: reference });
    expect(Buffer.compare(await bytes(x), await bytes(plain))).toBe(0);
    const half = x.to("bf16");
    expect(Buffer.compare(await bytes(half), await bytes(half.to("f32")))).toBe(0);
  });
});
