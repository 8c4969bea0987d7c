import { describe, expect, spyOn, test } from "bun:test";
import { IDENTITY } from "../../expr/program.ts";
import { numbers, operand, result, values } from "../conformance/harness.ts";
import { neighbours } from "./adapter.ts";
import { GpuContext } from "./context.ts";
import type { GpuDevice } from "./device.ts";
import { gpuHere } from "./testing.ts";
import { matmul } from "./wgsl/matmul.ts";
import { SOFTWARE_TILING } from "./wgsl/tuning.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`subgroups (${missing})`, () => {});
const there = missing === undefined ? await open() : undefined;
const has = there?.adapter.features.includes("subgroups") ?? false;
/** Neighbours that exchange values here. */
const most = there?.context.subgroup ?? 1;
await there?.dispose();
if (there && !has) test.skip("subgroups (the adapter has none)", () => {});

/** Everything that invocations join: sums, maxima, norms, products of few rows, the vocabulary's loss. */
async function everything(device: GpuDevice): Promise<Record<string, number[]>> {
  const random = numbers(3);
  const draw = (): number => 2 * random() - 1;
  const [rows, n] = [3, 999];
  const found: Record<string, number[]> = {};
  const x = operand("f32", [rows, n], draw);
  const weight = operand("f32", [n], draw);
  for (const kind of ["sum", "max"] as const) {
    const out = result("f32", [rows]);
    const { out: y } = await values(device, { x }, { out }, (d, v) =>
      d.reduce(kind, IDENTITY, [], [v.x], { ...v.out, shape: [rows, n], strides: [1, 0] }),
    );
    found[kind] = y;
  }
  const places = { out: result("i32", [rows]) };
  found.argmax = (await values(device, { x }, places, (d, v) => d.argmax(v.x, v.out))).out;
  const normed = { out: result("f32", [rows, n]), rstd: result("f32", [rows]) };
  const norm = await values(device, { x, weight }, normed, (d, v) => d.rmsNorm(v.x, v.weight, 1e-6, v.out, v.rstd));
  const rstd = operand("f32", [rows], norm.rstd);
  const grad = operand("f32", [rows, n], draw);
  const back = await values(device, { grad, x, weight, rstd }, { gradX: result("f32", [rows, n]) }, (d, v) =>
    d.rmsNormBackward(v.grad, v.x, v.weight, v.rstd, v.gradX, undefined),
  );
  Object.assign(found, { norm: norm.out, rstd: norm.rstd, gradX: back.gradX });
  const loss = await values(
    device,
    {
      hidden: operand("f32", [rows, 40], draw),
      weight: operand("bf16", [700, 40], draw),
      targets: operand("i32", [rows], [3, -1, 690]),
      scale: operand("f32", [rows], () => 1),
    },
    { loss: result("f32", [rows]), gradHidden: result("f32", [rows, 40]) },
    (d, v) => d.linearCrossEntropy(v),
  );
  Object.assign(found, loss);
  const [m, k, columns] = [2, 203, 37];
  const w = operand("f32", [columns, k], draw);
  const a = operand("f32", [m, k], draw);
  const grad2 = operand("f32", [m, columns], draw);
  for (const lanes of [8, 16]) {
    const tiling = { ...SOFTWARE_TILING, columns: { invocations: 32, lanes, columns: 1 } };
    const { out } = await values(device, { a, w }, { out: result("f32", [m, columns]) }, (_, v) =>
      matmul(device.context, tiling, v.a, { ...v.w, shape: [k, columns], strides: [1, k] }, v.out, { rows: "few" }),
    );
    found[`columns, ${lanes} sharing one`] = out;
  }
  const tiling = { ...SOFTWARE_TILING, rows: { invocations: 32, lanes: 4, columns: 4 } };
  const { out } = await values(device, { grad2, w }, { out: result("f32", [m, k]) }, (_, v) =>
    matmul(device.context, tiling, v.grad2, v.w, v.out, { rows: "few" }),
  );
  found["rows, 8 sharing one"] = out;
  return found;
}

describe.skipIf(!has)("subgroups", () => {
  test("are used", () => expect(most).toBeGreaterThan(1));

  test("whatever number of neighbours exchange directly, all sums and maxima have the same bits", async () => {
    const plain = await open({ subgroups: false });
    expect(plain.context.subgroup).toBe(1);
    const sources: string[] = [];
    const making = spyOn(GPUDevice.prototype, "createShaderModule");
    let want: Record<string, number[]>;
    try {
      want = await everything(plain);
      sources.push(...making.mock.calls.map(([{ code }]) => code));
      expect(sources.filter((code) => /subgroup/.test(code))).toEqual([]);
    } finally {
      making.mockRestore();
      await plain.dispose();
    }
    for (const neighbours of new Set([Math.min(2, most), most])) {
      const device = await open();
      expect(device.context.subgroup).toBe(most);
      device.context.subgroup = neighbours;
      expect([neighbours, await everything(device)]).toEqual([neighbours, want]);
      await device.dispose();
    }
  });

  test("an adapter whose subgroups are not of neighbours is used without them, as far as they go", async () => {
    const device = await open();
    const { context } = device;
    const found = new Uint32Array([1, 2, 4].flatMap((mask) => Array.from({ length: 64 }, (_, l) => l ^ mask)));
    // The exchange over 4 brings another invocation's value.
    found[2 * 64 + 5]++;
    const reading = spyOn(GpuContext.prototype, "read").mockResolvedValue(new Uint8Array(found.buffer));
    try {
      expect(await neighbours(context, 8)).toBe(4);
      found[3] = 0;
      expect(await neighbours(context, 8)).toBe(1);
      expect(await neighbours(context, 1)).toBe(1);
    } finally {
      reading.mockRestore();
    }
    expect(await neighbours(context, most)).toBe(most);
    await device.dispose();
  });

  test("the environment leaves them out", async () => {
    process.env.TENSOR_GPU_SUBGROUPS = "0";
    try {
      const device = await open();
      expect(device.context.subgroup).toBe(1);
      await device.dispose();
    } finally {
      delete process.env.TENSOR_GPU_SUBGROUPS;
    }
  });
});
