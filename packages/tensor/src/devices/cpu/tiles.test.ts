/**
 * Which products go to matrix tiles, and with which arguments: the devices' suite on WebAssembly whose products on tiles are
 * run step by step by a model.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { DEVICE_TESTS } from "../conformance.ts";
import type { View } from "../device.ts";
import { CpuDevice, type CpuDeviceOptions } from "./device.ts";
import { KernelLibrary } from "./kernel-library.ts";
import { type ArgumentTypes, type ArgumentValues, buildKernel, type Kernel, writeArguments } from "./lang/kernel.ts";
import { AMX, type Target, WASM } from "./lang/target.ts";
import { runModel } from "./lang/testing.ts";
import type { Runtime } from "./runtime/index.ts";
import type { WasmMemory } from "./runtime/memory.ts";
import { Pair } from "./testing.ts";

/** Kernels on tiles that were run. */
let products = 0;

class TileLibrary extends KernelLibrary {
  override readonly target: Target = { ...WASM, tiles: true };
  private readonly memory: WasmMemory;
  private readonly args: DataView;

  constructor(runtime: Runtime) {
    super(runtime);
    this.memory = runtime.memory as WasmMemory;
    this.args = runtime.args;
  }

  override run<A extends ArgumentTypes>(kernel: Kernel<A>, values: ArgumentValues<A>, items: number, chunk = 1): void {
    if (!kernel.name.includes("tiles")) {
      super.run(kernel, values, items, chunk);
      return;
    }
    products++;
    const view = new DataView(this.memory.memory.buffer);
    writeArguments(kernel, this.args, 0, values);
    const code = buildKernel(kernel, AMX);
    for (let begin = 0; begin < items; begin += chunk) {
      const end = Math.min(begin + chunk, items);
      runModel({ view, check: (address) => address }, code, this.args.byteOffset, begin, end);
    }
  }
}

const make = (options: CpuDeviceOptions = {}) =>
  new CpuDevice({ ...options, isa: "wasm", kernels: (runtime) => new TileLibrary(runtime) });

describe("products on tiles", () => {
  const device = make();
  afterAll(() => device.dispose());
  for (const { name, run } of DEVICE_TESTS.filter(({ name }) => /^(matmul|linearCrossEntropy|attention)/.test(name))) {
    // Its edges are those of the smaller ones.
    if (name === "matmul: enough for every thread") continue;
    const again = async (threads: number) => make({ threads });
    test(name, () => run({ device, bounds: { product: 4e-5 }, again }), 120_000);
  }
  test("were made", () => {
    expect(products).toBeGreaterThan(100);
  });
});

/** The greatest error of a product with bf16 weights, relative to its greatest result. */
async function errorOf(options: CpuDeviceOptions, dtype: "f32" | "bf16"): Promise<number> {
  const pair = new Pair(make(options));
  try {
    const a = pair.make({ shape: [40, 64] });
    const b = pair.make({ shape: [64, 48], strides: [1, 64], dtype });
    const out = pair.make({ shape: [40, 48] });
    products = 0;
    pair.run((device, side) => device.matmul(a[side], b[side], out[side]));
    return await pair.distance(out);
  } finally {
    await pair.device.dispose();
  }
}

test("precision: one, two and three bf16 numbers for an f32", async () => {
  for (const dtype of ["f32", "bf16"] as const) {
    const one = await errorOf({ precision: "bf16" }, dtype);
    expect(one).toBeGreaterThan(1e-4);
    expect(one).toBeLessThan(1e-2);
    const two = await errorOf({}, dtype);
    expect(two).toBeGreaterThan(5e-7);
    expect(two).toBeLessThan(4e-5);
  }
  try {
    process.env.TENSOR_TERMS = "3";
    expect(await errorOf({}, "bf16")).toBeLessThan(5e-7);
    expect(products).toBe(2);
    // Both in f32: vectors keep every bit.
    expect(await errorOf({}, "f32")).toBeLessThan(5e-7);
    expect(products).toBe(0);
    process.env.TENSOR_TERMS = "4";
    expect(() => make()).toThrow("TENSOR_TERMS is 4; it must be 2 or 3");
  } finally {
    delete process.env.TENSOR_TERMS;
  }
}, 60_000);

/** The greatest errors of attention and of its gradients: a sequence of many keys and few queries, and one of two stretches. */
async function attentionErrors(options: CpuDeviceOptions): Promise<{ forward: number; backward: number }> {
  const pair = new Pair(make(options));
  try {
    const [queries, keys, heads, size] = [206, 473, 3, 32];
    const segments = [
      { query: 0, queries: 33, key: 0, keys: 300 },
      { query: 33, queries: 173, key: 300, keys: 173 },
    ];
    const call = { segments, scale: 0.2 };
    const [q, grad, out, gradQ] = Array.from({ length: 4 }, () => pair.make({ shape: [queries, heads, size] }));
    const [k, v, gradK, gradV] = Array.from({ length: 4 }, () => pair.make({ shape: [keys, 1, size] }));
    const lse = pair.make({ shape: [heads, queries] });
    products = 0;
    pair.run((device, s) => device.attention(q![s], k![s], v![s], call, out![s], lse[s]));
    expect(products).toBe(3);
    const forward = await pair.distance(out!, lse);
    pair.run((device, s) => {
      const given = [grad!, q!, k!, v!, out!, lse].map((each) => each[s]) as [View, View, View, View, View, View];
      device.attentionBackward(...given, call, gradQ![s], gradK![s], gradV![s]);
    });
    expect(products).toBe(8);
    return { forward, backward: await pair.distance(gradQ!, gradK!, gradV!) };
  } finally {
    await pair.device.dispose();
  }
}

test("attention: scores that grow from key to key", async () => {
  const pair = new Pair(make());
  try {
    const [queries, keys, size] = [33, 290, 32];
    const options = { segments: [{ query: 0, queries, key: 0, keys }], scale: 0.2 };
    const q = pair.make({ shape: [queries, 1, size], data: [0.25] });
    // Scores grow by 1.6 every 8 keys. Two bf16 numbers keep 2⁻¹⁷ of q times the factors.
    const k = pair.make({ shape: [keys, 1, size], data: Array.from({ length: keys * size }, (_, i) => i >> 8) });
    const v = pair.make({ shape: [keys, 1, size] });
    const [out, lse] = [pair.make({ shape: [queries, 1, size] }), pair.make({ shape: [1, queries] })];
    products = 0;
    pair.run((device, s) => device.attention(q[s], k[s], v[s], options, out[s], lse[s]));
    expect(products).toBe(3);
    expect(await pair.distance(lse)).toBeLessThan(2 ** -17);
    expect(await pair.distance(out)).toBeLessThan(4e-5);
  } finally {
    await pair.device.dispose();
  }
}, 60_000);

test("attention in many groups, with one and two bf16 numbers for an f32", async () => {
  const two = await attentionErrors({});
  expect(Math.max(two.forward, two.backward)).toBeLessThan(4e-5);
  const one = await attentionErrors({ precision: "bf16" });
  expect(Math.min(one.forward, one.backward)).toBeGreaterThan(1e-4);
  expect(Math.max(one.forward, one.backward)).toBeLessThan(2e-2);
}, 60_000);

test("attention: what is not finite is left to vectors", async () => {
  const pair = new Pair(make());
  try {
    const [queries, heads, size] = [40, 4, 32];
    const options = { segments: [{ query: 0, queries, key: 0, keys: queries }], scale: 0.2 };
    const poisoned = (rows: number, kvHeads: number, at: number, value: number) => {
      const view = pair.make({ shape: [rows, kvHeads, size] });
      for (const side of [view[0], view[1]]) {
        const bytes = new Uint8Array(Float32Array.of(value).buffer);
        side.storage.device.write(side.storage, 4 * at, bytes);
      }
      return view;
    };
    const plain = () => pair.make({ shape: [queries, heads, size] });
    const q = poisoned(queries, heads, 3 * heads * size + 5, Number.NaN);
    const k = pair.make({ shape: [queries, 2, size] });
    // Seen by every query; what no bf16 number is near to.
    const v = poisoned(queries, 2, 7, Number.NEGATIVE_INFINITY);
    const large = poisoned(queries, 2, 7, 3.4e38);
    const [out, lse] = [plain(), pair.make({ shape: [heads, queries] })];
    for (const values of [v, large]) {
      pair.run((device, side) => device.attention(q[side], k[side], values[side], options, out[side], lse[side]));
      expect(await pair.distance(out, lse)).toBeLessThan(1e-5);
    }
    const finite = plain();
    products = 0;
    pair.run((device, side) => device.attention(finite[side], k[side], k[side], options, out[side], lse[side]));
    expect(await pair.distance(out, lse)).toBeLessThan(4e-5);
    expect(products).toBe(3);
  } finally {
    await pair.device.dispose();
  }
}, 60_000);
