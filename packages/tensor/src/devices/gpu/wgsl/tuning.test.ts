import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GpuContext } from "../context.ts";
import type { GpuDevice } from "../device.ts";
import { gpuHere } from "../testing.ts";
import { matmul, type Tiling } from "./matmul.ts";
import { DEFAULT_TILING, type Part, SOFTWARE_TILING, TRIALS, tilingFor, tune } from "./tuning.ts";
import { temporary } from "./views.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`tuning (${missing})`, () => {});

/** All candidates (minutes on a software driver), or those that compile soonest. */
const ALL = process.env.TENSOR_TEST_ALL_TILES !== undefined;

describe.skipIf(missing !== undefined)("tuning", () => {
  let device: GpuDevice;
  let folder: string;
  beforeAll(async () => {
    device = await open();
    folder = mkdtempSync(join(tmpdir(), "tuning-"));
  });
  afterAll(async () => {
    await device?.dispose();
    if (folder) rmSync(folder, { recursive: true });
  });
  const kept = (): Promise<Record<string, Record<Part, string>>> => Bun.file(join(folder, "gpu-tiles.json")).json();

  /** Whole numbers: every order of summing gives the same. */
  async function product(tiling: Tiling, m: number, k: number, n: number, alongN: boolean): Promise<void> {
    const { context } = device;
    const value = (i: number): number => ((i * 7919) % 17) - 8;
    const [a, b, out] = [[m, k], alongN ? [k, n] : [n, k], [m, n]].map((shape) => temporary(context, shape));
    for (const { view } of [a, b]) {
      const values = Float32Array.from({ length: view.shape[0] * view.shape[1] }, (_, i) => value(i));
      context.write(context.blockOf(view.storage), 0, new Uint8Array(values.buffer));
    }
    matmul(context, tiling, a.view, alongN ? b.view : { ...b.view, shape: [k, n], strides: [1, k] }, out.view);
    const bytes = await context.read(context.blockOf(out.view.storage), 0, 4 * m * n);
    const want = Float32Array.from({ length: m * n }, (_, at) => {
      const [row, column] = [Math.floor(at / n), at % n];
      let sum = 0;
      for (let i = 0; i < k; i++) sum += value(row * k + i) * value(alongN ? i * n + column : column * k + i);
      return sum;
    });
    expect(new Float32Array(bytes.slice().buffer)).toEqual(want);
    for (const memory of [a, b, out]) memory.free();
  }

  const parts = (Object.keys(TRIALS) as Part[]).flatMap((part) => {
    const { candidates } = TRIALS[part];
    return (ALL ? [...candidates] : candidates.slice(-2)).map((candidate) => ({ part, candidate }));
  });
  test.each(parts)(
    "$part $candidate multiplies rightly at sizes that nothing divides",
    async ({ part, candidate }) => {
      const tiling = { ...SOFTWARE_TILING, [part]: candidate };
      if (part === "rows") await product(tiling, 3, 67, 71, true);
      else if (part === "columns") await product(tiling, 3, 67, 71, false);
      else await product({ ...tiling, large: candidate, small: candidate } as Tiling, 67, 35, 71, false);
    },
    120_000,
  );

  test("measures, takes the fastest of each part, keeps it and reads it at the next start; a broken file is written anew", async () => {
    const seen: [Part, string, number][] = [];
    let measured = 0;
    const measure = (context: GpuContext): Promise<Tiling> => {
      measured++;
      // The shaders of the other parts take a software driver long to compile.
      return tune(context, (...one) => void seen.push(one), 1 / 16, ["columns", "rows"]);
    };
    const path = join(folder, "gpu-tiles.json");
    const chosen = await tilingFor(device.context, "card A", folder, measure);
    for (const part of ["columns", "rows"] as const) {
      const times = seen.filter(([of]) => of === part);
      expect(times.length).toBe(TRIALS[part].candidates.length);
      const best = times.reduce((a, b) => (b[2] < a[2] ? b : a));
      expect((await kept())["card A"][part]).toBe(best[1]);
    }
    expect(chosen.large).toEqual(DEFAULT_TILING.large);
    // Of this process: not measured, not read.
    expect(await tilingFor(device.context, "card A", folder, measure)).toEqual(chosen);
    expect(measured).toBe(1);
    // Another process reads the file.
    const script = `
      const { tilingFor } = await import("${import.meta.dir}/tuning.ts");
      const never = () => { throw new Error("measured again"); };
      console.log(JSON.stringify(await tilingFor({}, "card A", ${JSON.stringify(folder)}, never)));`;
    const child = Bun.spawnSync([process.execPath, "-e", script]);
    expect(JSON.parse(child.stdout.toString())).toEqual(JSON.parse(JSON.stringify(chosen)));
    // Another adapter is measured, and the first one's tiles stay.
    const other = { ...DEFAULT_TILING, columns: TRIALS.columns.candidates[3] };
    expect(await tilingFor(device.context, "card B", folder, async () => other)).toEqual(other);
    expect(Object.keys(await kept())).toEqual(["card A", "card B"]);
    for (const [i, broken] of ["{ not JSON", "[1]", "null", '{"card": null}'].entries()) {
      writeFileSync(path, broken);
      expect(await tilingFor(device.context, `card ${i}`, folder, async () => other)).toEqual(other);
      expect((await kept())[`card ${i}`].columns).toBe("128-16-2");
    }
    // A folder that cannot be made: measured, and nothing is kept.
    const nowhere = join(path, "below a file");
    expect(await tilingFor(device.context, "card D", nowhere, async () => other)).toEqual(other);
    expect(existsSync(nowhere)).toBe(false);
  }, 120_000);
});
