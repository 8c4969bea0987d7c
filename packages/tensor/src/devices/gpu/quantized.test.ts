import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { BLOCKS, type BlockType, type Device, embedding, linearCrossEntropy, reference } from "../../index.ts";
import { Tensor } from "../../tensor.ts";
import { numbers } from "../conformance/harness.ts";
import { gpuHere } from "./testing.ts";

const types = Object.keys(BLOCKS) as BlockType[];
const { missing, open } = await gpuHere();
if (missing) test.skip(`quantised weights on gpu (${missing})`, () => {});

/** Bytes of blocks whose scales are small halves, the rest random bits. */
function blocks(type: BlockType, count: number): Uint8Array {
  const random = numbers(count);
  const { bytes, elements } = BLOCKS[type];
  const content = Uint8Array.from({ length: (count / elements) * bytes }, () => 256 * random());
  const halves = type === "q6_k" ? [208] : type.endsWith("_0") ? [0] : [0, 2];
  for (let at = 0; at < content.length; at += bytes) {
    for (const half of halves) content[at + half + 1] = 0x20 | (content[at + half + 1] & 0x83);
  }
  return content;
}

function normal(shape: readonly number[], seed: number, device: Device): Tensor {
  const random = numbers(seed);
  const n = shape.reduce((a, b) => a * b, 1);
  return Tensor.from(
    Float32Array.from({ length: n }, () => 2 * random() - 1),
    shape,
    { device },
  );
}

const list = async (t: Tensor): Promise<number[]> => [...(await t.data())];

describe.skipIf(missing !== undefined)("quantised weights on gpu", () => {
  let gpu: Device;
  beforeAll(async () => {
    gpu = await open();
  });
  afterAll(() => gpu?.dispose());

  test.each(types)("%s is unpacked, and rows are chosen, as on the reference", async (type) => {
    const shape = [40, 768];
    const content = blocks(type, 40 * 768);
    const [here, there] = [gpu, reference].map((device) => {
      const w = Tensor.map(content, shape, type, device);
      const index = Tensor.from([2, 39, 2, 0], [4], { dtype: "i32", device });
      return {
        numbers: w.to("f32"),
        part: w.slice(0, 3, 9).to("f32"),
        rows: embedding(w, index),
      };
    });
    // A fused multiply-add rounds once where the reference rounds twice.
    const near = async (got: Tensor, want: Tensor, share: number): Promise<void> => {
      const [a, b] = [await list(got), await list(want)];
      const most = Math.max(...b.map(Math.abs));
      expect(Math.max(...b.map((x, i) => Math.abs(x - a[i])))).toBeLessThanOrEqual(share * most);
    };
    await near(here.numbers, there.numbers, 2e-7);
    await near(here.part, there.part, 2e-7);
    await near(here.rows, there.rows, 2e-7);
  });

  test("the loss over a quantised head, and its gradient", async () => {
    const content = blocks("q8_0", 300 * 64);
    const [got, want] = await Promise.all(
      [gpu, reference].map(async (device) => {
        const head = Tensor.map(content, [300, 64], "q8_0", device);
        const hidden = normal([5, 64], 2, device);
        hidden.requiresGrad = true;
        const targets = Tensor.from([0, 299, 5, -1, 8], [5], { dtype: "i32", device });
        const loss = linearCrossEntropy(hidden, head, targets, normal([5], 4, device));
        loss.backward();
        return [...(await list(loss)), ...(await list(hidden.grad!))];
      }),
    );
    want.forEach((x, i) => void expect(Math.abs(got[i] - x)).toBeLessThan(1e-5 * (1 + Math.abs(x))));
  });

  test.each(["q8_0", "q4_1"] as const)("quantising to %s gives the reference's blocks", async (type) => {
    // Blocks of ordinary numbers, of zeros, of tiny and of huge ones, of one number, and of exact ties.
    const random = numbers(8);
    const kinds = [1, 0, 1e-7, 1e-9, 3e38, 1e5].map((size) => () => size * (2 * random() - 1));
    const makers = [...kinds, () => -2.5, () => Math.floor(16 * random()) / 2];
    const values = Array.from({ length: 5 * 23 }, (_, i) => Array.from({ length: 32 }, makers[i % makers.length]));
    const bytes = async (device: Device, dtype: "f32" | "bf16"): Promise<Uint8Array> => {
      const x = Tensor.from(Float32Array.from(values.flat()), [5, 23 * 32], { device });
      return x.to(dtype).to(type).bytes();
    };
    expect(Buffer.compare(await bytes(gpu, "f32"), await bytes(reference, "f32"))).toBe(0);
    expect(Buffer.compare(await bytes(gpu, "bf16"), await bytes(reference, "bf16"))).toBe(0);
  });
});
