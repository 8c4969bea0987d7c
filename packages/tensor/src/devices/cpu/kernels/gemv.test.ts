import { describe, expect, test } from "bun:test";
import { gemm, gemmWorkspaceBytes, packA, planGemm } from "./gemm.ts";
import { fitsGemv, gemv, gemvColumns, gemvWorkspaceBytes } from "./gemv.ts";
import { fill, type Machine, type Memory, machines, toBf16 } from "./testing.ts";

interface Case {
  element: "f32" | "bf16";
  rows: number;
  items: number;
  k: number;
  slack?: number;
  alpha?: number;
  add?: "c" | "bias";
  early?: boolean;
  poison?: (a: Float32Array, w: Float32Array) => void;
}

/** C by `gemv` and by `gemm`. */
function both(machine: Machine, options: Case): [gemv: Float32Array, gemm: Float32Array] {
  const { element, rows, items, k, slack = 0, alpha = 1, add, early } = options;
  const { target } = machine;
  machine.reset();
  const n = items * gemvColumns(target, rows);
  const ld = k + slack;
  const ldc = n + slack;
  expect(fitsGemv(target, element, rows, n, k)).toBe(true);
  const a = machine.allocate(((rows - 1) * ld + k) * 4, early);
  const values = fill(new Float32Array((n - 1) * ld + k), 2);
  fill(a.f32, 1);
  options.poison?.(a.f32, values);
  const w = machine.allocate(values.length * (element === "bf16" ? 2 : 4), early);
  if (element === "bf16") w.u16.set(toBf16(values));
  else w.f32.set(values);
  const bias = machine.allocate(n * 4, early);
  fill(bias.f32, 4);
  const zeros = machine.allocate(256);
  const slots = machine.allocate(4);
  const results = [1, 2].map(() => {
    const c = machine.allocate(((rows - 1) * ldc + n) * 4, early);
    fill(c.f32, 3);
    return c;
  });
  const common = (c: Memory) => ({
    c: c.address,
    source: add === "c" ? c.address : add === "bias" ? bias.address : zeros.address,
    sourceRow: add === "c" ? 4 * ldc : 0,
    sourceColumn: add ? 1 : 0,
    alpha,
    k,
    ldc,
    slots: slots.address,
  });

  const buffers = machine.allocate(gemvWorkspaceBytes(target), early);
  const run = machine.compile(gemv[element][rows - 1]);
  const given = { ...common(results[0]), a: a.address, w: w.address, lda: ld, ldw: ld, workspace: buffers.address };
  run(given, 0, 1);
  run(given, 1, items);
  expect(slots.i32[0]).toBe(0);

  const plan = planGemm(target, rows, n, k, 1);
  const packed = machine.allocate(plan.packedBytes);
  const workspace = machine.allocate(gemmWorkspaceBytes(target));
  machine.compile(packA)(
    { a: a.address, packed: packed.address, m: rows, k, lda: ld, tiles: plan.tiles },
    0,
    plan.tiles,
  );
  machine.compile(gemm[element].nt)(
    {
      ...common(results[1]),
      packed: packed.address,
      b: w.address,
      m: rows,
      n,
      tiles: plan.tiles,
      ldb: ld,
      byRows: plan.byRows ? 1 : 0,
      blockColumns: plan.blockColumns,
      workspace: workspace.address,
    },
    0,
    plan.items,
  );
  return [results[0].f32.slice(), results[1].f32.slice()];
}

describe.each(machines.map((machine) => [machine.target.name, machine] as const))("gemv on %s", (_, machine) => {
  test("gives the bits of gemm", () => {
    let count = 0;
    for (const element of ["bf16", "f32"] as const) {
      for (const rows of [1, 2, 3, 4]) {
        for (const k of [32, 224, 256, 288, 544]) {
          const add = ([undefined, "c", "bias"] as const)[count % 3];
          const options = { element, rows, k, add, items: 1 + (count % 3), slack: count % 2 ? 5 : 0 };
          const [mine, expected] = both(machine, { ...options, alpha: count % 4 ? 1 : -0.75, early: count % 5 === 0 });
          expect(mine).toEqual(expected);
          count++;
        }
      }
    }
  });

  test("NaN and infinity stay in their row and column", () => {
    for (const rows of [1, 4]) {
      const [c] = both(machine, {
        ...{ element: "bf16", rows, items: 2, k: 64 },
        poison: (a, w) => {
          a[(rows - 1) * 64 + 3] = Number.NaN;
          w[17 * 64 + 5] = Number.POSITIVE_INFINITY;
        },
      });
      const n = 2 * gemvColumns(machine.target, rows);
      c.forEach((value, i) => {
        if (i >= (rows - 1) * n) expect(value).toBeNaN();
        else if (i % n === 17) expect(Math.abs(value)).toBe(Number.POSITIVE_INFINITY);
        else expect(Math.abs(value)).toBeLessThan(64);
      });
    }
  });

  test("sizes that only gemm takes", () => {
    const columns = gemvColumns(machine.target, 1);
    expect(fitsGemv(machine.target, "bf16", 1, columns + 1, 64)).toBe(false);
    expect(fitsGemv(machine.target, "bf16", 1, columns, 40)).toBe(false);
    expect(fitsGemv(machine.target, "f32", 1, columns, 48)).toBe(true);
    expect(fitsGemv(machine.target, "f32", 5, columns, 64)).toBe(false);
  });
});
