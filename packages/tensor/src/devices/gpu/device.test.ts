import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { IDENTITY, Program } from "../../expr/program.ts";
import {
  AdamW,
  createDevice,
  type Device,
  DeviceError,
  DeviceLostError,
  Generator,
  Linear,
  linearCrossEntropy,
  memory,
  mseLoss,
  reference,
  scope,
  Tensor,
} from "../../index.ts";
import { closeGpu, openGpu, verify } from "./adapter.ts";
import { fasterGpu, secondsOfWork } from "./auto.ts";
import { GpuContext } from "./context.ts";
import type { GpuDevice } from "./device.ts";
import { kernelFunction } from "./fused.ts";
import { gpuHere } from "./testing.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`the gpu device (${missing})`, () => {});

test("a program as a kernel function of gpu.js: the index stands where it is used, for in a variable it is wrong above 2^24", () => {
  const { source, functions } = kernelFunction(Program.of(2, 1, ([x, y], [s]) => x.exp().mul(y).add(s)));
  expect(source).toBe(`function (x0, x1, p0) {
const t0 = x0[this.thread.x];
const t1 = expOf(t0);
const t2 = x1[this.thread.x];
const t3 = t1 * t2;
const t4 = t3 + p0;
return t4;
}`);
  expect(functions.map(({ name }) => name)).toEqual(["expOf"]);
});

describe.skipIf(missing !== undefined)("the gpu device", () => {
  let gpu: GpuDevice;
  beforeAll(async () => {
    gpu = await open();
  });
  afterAll(() => gpu?.dispose());
  const list = async (t: Tensor): Promise<number[]> => [...(await t.data())];

  test("says what it runs on", () => {
    expect(gpu.info.name).toBe("gpu");
    expect(gpu.info.isa.length).toBeGreaterThan(0);
    expect(gpu.adapter.limits.maxStorageBufferBindingSize).toBeGreaterThanOrEqual(2 ** 27);
  });

  test("whole numbers are exact beyond 2^24, given, computed, filled in, compared and summed", async () => {
    const [a, b] = [16_777_217, 2_147_483_647];
    const x = Tensor.from([a, -a, b, -b - 1], [4], { dtype: "i32", device: gpu });
    expect(await list(x.add(Tensor.from([1, 1, -1, 1], [4], { dtype: "i32", device: gpu })))).toEqual([
      a + 1,
      1 - a,
      b - 1,
      -b,
    ]);
    expect(await list(x.add(2 ** 24 + 1 - a))).toEqual([a, -a, b, -b - 1]);
    const filled = Tensor.from([0, 0], [2], { dtype: "i32", device: gpu }).add(a);
    expect(await list(filled)).toEqual([a, a]);
    expect(await list(x.eq(Tensor.from([a - 1, -a, b - 1, -b - 1], [4], { dtype: "i32", device: gpu })))).toEqual([
      0, 1, 0, 1,
    ]);
    expect(await list(Tensor.from([a, a, 1], [3], { dtype: "i32", device: gpu }).sum())).toEqual([2 * a + 1]);
  });

  test("kernels of gpu.js reach elements beyond 2^24, in more workgroups than one dimension has", async () => {
    const n = 2 ** 24 + 70;
    const values = new Float32Array(n);
    for (let i = 0; i < n; i++) values[i] = i % 1021;
    const x = Tensor.from(values, [n], { device: gpu });
    const y = scope(() => x.mul(2));
    const part = await list(y.slice(0, n - 40));
    expect(part).toEqual([...values.subarray(n - 40)].map((v) => 2 * v));
    for (const t of [x, y]) t.dispose();
  });

  test("a kernel is compiled once for its shape class", async () => {
    const run = (n: number): Promise<number[]> =>
      list(Tensor.from(new Float32Array(n), [n], { device: gpu }).exp().sin());
    await run(5);
    const { compiled } = gpu.context.counts;
    await run(5);
    await run(777);
    expect(gpu.context.counts.compiled).toBe(compiled);
  });

  test("10,000 launches leave memory as it was, and read nothing back", async () => {
    const { counts, pool } = gpu.context;
    const x = Tensor.from([1, 2, 3], [3], { device: gpu });
    const work = (times: number): void => {
      for (let i = 0; i < times; i++) scope(() => void x.mul(2).add(x));
    };
    work(500);
    await gpu.synchronize();
    const before = { kernels: counts.kernels, reads: counts.reads, buffers: pool.buffers, bytes: pool.bytes };
    work(5000);
    await gpu.synchronize();
    expect(counts.kernels - before.kernels).toBe(10_000);
    expect([counts.reads, pool.buffers, pool.bytes]).toEqual([before.reads, before.buffers, before.bytes]);
  });

  test("an adapter that computes wrongly is refused", async () => {
    const { context } = await openGpu();
    const reading = spyOn(GpuContext.prototype, "read").mockResolvedValue(new Uint8Array(4 * 23 * 23));
    try {
      await expect(verify(context, "pretended")).rejects.toThrow(/the adapter "pretended" multiplies wrongly \(0 for /);
      await expect(open()).rejects.toThrow(DeviceError);
    } finally {
      reading.mockRestore();
      closeGpu(context);
    }
  });

  test("a kernel that is wrong is an error at the next read, not a wrong number", async () => {
    const other = await open();
    const x = Tensor.from([1], [1], { device: other });
    const kernel = other.context.kernel("nonsense", () => ({ code: "fn main( {", access: "r" }));
    other.context.run(kernel, [1], [other.context.bind(x, "test").binding], [1]);
    await expect(x.data()).rejects.toThrow(DeviceError);
    await other.dispose();
  });

  test("a GPU that is lost says so, and a new one can be had", async () => {
    await gpu.dispose();
    const doomed = await open();
    const x = Tensor.from([1, 2], [2], { device: doomed });
    doomed.context.device.destroy();
    await expect(x.mul(2).data()).rejects.toThrow(DeviceLostError);
    await expect(doomed.synchronize()).rejects.toThrow(/the GPU was lost/);
    x.dispose();
    await doomed.dispose();
    gpu = await open();
    expect(await list(Tensor.from([1, 2], [2], { device: gpu }).mul(2))).toEqual([2, 4]);
  });

  test("more memory than the GPU has: an error of its own, whether a buffer is too large, or no room is left for it", async () => {
    const { maxBufferSize } = gpu.context.limits;
    expect(() => gpu.allocate(maxBufferSize + 4)).toThrow(DeviceLostError);
    expect(() => gpu.allocate(maxBufferSize + 4)).toThrow(
      /no memory for \d+ bytes on gpu: its buffers hold \d+ at most/,
    );
    const making = spyOn(GPUDevice.prototype, "createBuffer").mockImplementation(() => {
      throw new RangeError("allocation failed");
    });
    try {
      expect(() => gpu.allocate(12_345_678)).toThrow(/\[allocate\] no memory for 12345678 bytes on gpu, which holds /);
    } finally {
      making.mockRestore();
    }
    // Nothing of it stays.
    expect(await list(Tensor.from([1, 2], [2], { device: gpu }).mul(2))).toEqual([2, 4]);
  });

  test("of several errors the loss is told, whichever came first", async () => {
    const other = await open();
    other.context.fail(new DeviceError("gpu", "what a missing buffer leads to"));
    other.context.fail(new DeviceLostError("gpu", "out of memory"));
    other.context.fail(new DeviceError("gpu", "and once more"));
    await expect(other.synchronize()).rejects.toThrow("out of memory");
    await expect(other.synchronize()).rejects.toThrow("out of memory");
    await other.dispose();
  });

  test("auto: a software adapter never wins, a slower one neither, and where there can be none it is not opened", async () => {
    const cpu = reference;
    let opened = 0;
    const pretended = async (software: boolean): Promise<GpuDevice> => {
      opened++;
      const device = await open();
      return Object.assign(device, { adapter: { ...device.adapter, software } });
    };
    const isPossible = () => true;
    const seconds = (ofGpu: number) => async (device: Device) => (device === cpu ? 1 : ofGpu);
    expect(await fasterGpu(cpu, { isPossible, open: () => pretended(true), seconds: seconds(0.1) })).toBeUndefined();
    expect(await fasterGpu(cpu, { isPossible, open: () => pretended(false), seconds: seconds(2) })).toBeUndefined();
    const taken = await fasterGpu(cpu, { isPossible, open: () => pretended(false), seconds: seconds(0.5) });
    expect(taken?.info.name).toBe("gpu");
    await taken?.dispose();
    const refused = () => Promise.reject(new DeviceError("gpu", "none"));
    expect(await fasterGpu(cpu, { isPossible, open: refused })).toBeUndefined();
    expect(await fasterGpu(cpu, { isPossible: () => false, open: () => pretended(false) })).toBeUndefined();
    expect(opened).toBe(3);
    const compiled = await createDevice("cpu");
    expect(await secondsOfWork(compiled)).toBeGreaterThan(0);
    await compiled.dispose();
  });

  test("1,000 training steps leave buffers and memory as they were", async () => {
    const random = new Generator(1);
    const layers = [Linear.init(2, 8, random, { device: gpu }), Linear.init(8, 1, random, { device: gpu })];
    const parameters = layers.flatMap((layer) => [...layer.parameters()]);
    const optimizer = new AdamW(parameters, { lr: 0.01 });
    const x = Tensor.from([0, 0, 0, 1, 1, 0, 1, 1], [4, 2], { device: gpu });
    const y = Tensor.from([0, 1, 1, 0], [4, 1], { device: gpu });
    const train = async (steps: number): Promise<number> => {
      let last = Number.NaN;
      for (let step = 0; step < steps; step++) {
        const loss = scope(() => mseLoss(layers[1].forward(layers[0].forward(x).tanh()), y));
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        last = await loss.item();
        loss.dispose();
      }
      return last;
    };
    await train(100);
    const { pool, counts } = gpu.context;
    const held = () => [memory().storages, memory().bytes, pool.buffers, pool.bytes];
    const [before, reads] = [held(), counts.reads];
    expect(await train(900)).toBeLessThan(0.05);
    // Tensors of tests before this one may be collected meanwhile.
    for (const [i, now] of held().entries()) expect(now).toBeLessThanOrEqual(before[i]);
    expect(counts.reads - reads).toBe(900);
  });

  test("cross-entropy over more classes than a block holds: the maximum may grow in any of them", async () => {
    const [rows, size, classes] = [3, 8, 20_000];
    const on = async (device: Device): Promise<number[]> => {
      const hidden = Tensor.from(
        Float32Array.from({ length: rows * size }, (_, i) => Math.sin(i)),
        [rows, size],
        { device },
      );
      const rising = Float32Array.from({ length: classes * size }, (_, i) => Math.sin(i * i) + i / (classes * size));
      const weight = Tensor.from(rising, [classes, size], { device });
      for (const leaf of [hidden, weight]) leaf.requiresGrad = true;
      const targets = Tensor.from([7, 19_999, 12_345], [rows], { dtype: "i32", device });
      const loss = linearCrossEntropy(hidden, weight, targets, Tensor.from([1, 0.5, 2], [rows], { device }));
      loss.backward();
      return [...(await list(loss)), ...(await list(hidden.grad!)), ...(await list(weight.grad!))];
    };
    const [got, want] = [await on(gpu), await on(reference)];
    expect(Math.max(...want.map((x, i) => Math.abs(x - got[i]) / (1 + Math.abs(x))))).toBeLessThan(1e-5);
  });

  test("in place and beside: the same buffer is read and written", async () => {
    const x = Tensor.from([1, 2, 3, 4], [4], { device: gpu });
    const { storage, dtype, offset, strides } = x;
    const view = { storage, dtype, offset, strides };
    gpu.elementwise(IDENTITY, [], [{ ...view, offset: 2, shape: [2] }], { ...view, shape: [2] }, true);
    expect(await list(x)).toEqual([4, 6, 3, 4]);
  });
});
