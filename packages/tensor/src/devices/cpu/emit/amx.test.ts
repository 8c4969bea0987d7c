/** Products on AMX tiles, on an emulated processor, against plain loops. */
import { expect, test } from "bun:test";
import { fitsTiles, gemmTiles, packTilesA, planTiles, TILES_WORKSPACE_BYTES } from "../kernels/gemm-tiles.ts";
import { fill, fromBf16, toBf16 } from "../kernels/testing.ts";
import { AMX } from "../lang/target.ts";
import { haveTiles } from "./bochs.ts";
import { EmulatedMachine } from "./emulated-machine.ts";

if (!haveTiles) console.warn("SKIPPED: no Bochs with AMX (version 3) is here, so products on tiles are not run");

interface Case {
  form: "nn" | "nt";
  m: number;
  n: number;
  k: number;
  alpha?: number;
  add?: "c" | "bias";
  slack?: number;
  chunk?: number;
  poison?: (a: Float32Array) => void;
}

/** Enqueues one product; gives what reads and checks it after the machine ran. */
function prepare(machine: EmulatedMachine, options: Case) {
  const { form, m, n, k, alpha = 1, add, slack = 0 } = options;
  const [bRows, bColumns] = form === "nt" ? [n, k] : [k, n];
  const [lda, ldb, ldc] = [k + slack, bColumns + slack, n + slack];
  const a = machine.allocate(4 * ((m - 1) * lda + k));
  fill(a.f32, 1);
  options.poison?.(a.f32);
  const b = machine.allocate(2 * ((bRows - 1) * ldb + bColumns) + 2);
  b.u16.set(toBf16(fill(new Float32Array(b.u16.length), 2)));
  const bValues = fromBf16(b.u16);
  const c = machine.allocate(4 * ((m - 1) * ldc + n));
  fill(c.f32, 3);
  const before = c.f32.slice();
  const bias = machine.allocate(4 * n);
  fill(bias.f32, 4);
  const [zeros, slots] = [machine.allocate(256), machine.allocate(4)];
  const plan = planTiles(m, n, k, 1);
  const packed = machine.allocate(plan.packedBytes);
  const workspace = machine.allocate(TILES_WORKSPACE_BYTES);
  const pack = { a: a.address, packed: packed.address, m, k, lda, groups: plan.groups };
  machine.compile(packTilesA)(pack, 0, plan.groups);
  const source = add === "c" ? c : add === "bias" ? bias : zeros;
  const run = machine.compile(gemmTiles[form]);
  const chunk = options.chunk ?? plan.chunk;
  for (let begin = 0; begin < plan.items; begin += chunk) {
    run(
      {
        ...{ packed: packed.address, b: b.address, c: c.address, source: source.address, alpha, m, n, k },
        ...{ sourceRow: add === "c" ? 4 * ldc : 0, sourceColumn: add ? 1 : 0, groups: plan.groups, ldb, ldc },
        ...{ byRows: plan.byRows ? 1 : 0, slots: slots.address, workspace: workspace.address },
      },
      begin,
      Math.min(begin + chunk, plan.items),
    );
  }
  const check = (): void => {
    expect(slots.i32[0]).toBe(0);
    for (let at = 0; at < c.f32.length; at++) {
      const [i, j] = [Math.floor(at / ldc), at % ldc];
      if (j >= n) {
        expect(c.f32[at]).toBe(before[at]);
        continue;
      }
      let sum = 0;
      let size = 0;
      for (let p = 0; p < k; p++) {
        const term = a.f32[i * lda + p] * bValues[form === "nt" ? j * ldb + p : p * ldb + j];
        sum += term;
        size += Math.abs(term);
      }
      const start = add === "c" ? before[at] : add === "bias" ? bias.f32[j] : 0;
      const wanted = start + alpha * sum;
      // Two parts leave 2^-17 of each factor of A.
      const bound = Math.abs(alpha) * size * 2 ** -17 + 2 ** -20;
      if (!(Math.abs(c.f32[at] - wanted) <= bound)) {
        throw new Error(`${JSON.stringify(options)}: [${i}, ${j}] is ${c.f32[at]}, expected ${wanted} within ${bound}`);
      }
    }
  };
  return { c, check };
}

test.skipIf(!haveTiles)("sizes around the tile edges", () => {
  const machine = new EmulatedMachine(AMX);
  const cases: Case[] = [];
  for (const form of ["nt", "nn"] as const) {
    cases.push(
      { form, m: 1, n: 1, k: 8 },
      { form, m: 16, n: 32, k: 32 },
      { form, m: 33, n: 70, k: 40, add: "c", alpha: -0.5, slack: 3 },
      { form, m: 31, n: 33, k: 1064, add: "bias" },
      { form, m: 70, n: 20, k: 64, chunk: 1 },
    );
  }
  cases.push({ form: "nn", m: 5, n: 17, k: 33 });
  const prepared = cases.map((options) => prepare(machine, options));
  machine.flush();
  for (const { check } of prepared) check();
});

test.skipIf(!haveTiles)("a row depends on itself alone, and NaN and infinity stay in theirs", () => {
  const machine = new EmulatedMachine(AMX);
  const whole = prepare(machine, { form: "nt", m: 40, n: 70, k: 96 });
  const few = prepare(machine, { form: "nt", m: 3, n: 70, k: 96, chunk: 1 });
  const poisoned = prepare(machine, {
    ...{ form: "nt", m: 40, n: 70, k: 96 },
    poison: (a) => {
      a[2 * 96 + 7] = Number.NaN;
      a[5 * 96 + 95] = Number.POSITIVE_INFINITY;
    },
  });
  machine.flush();
  expect(few.c.f32).toEqual(whole.c.f32.subarray(0, 3 * 70));
  poisoned.c.f32.forEach((value, at) => {
    const row = Math.floor(at / 70);
    if (row === 2) expect(value).toBeNaN();
    else if (row === 5) expect(Number.isFinite(value)).toBe(false);
    else expect(value).toBe(whole.c.f32[at]);
  });
});

test("pairs of neighbours in a row of B need whole 16 bytes", () => {
  expect([fitsTiles("nt", 40), fitsTiles("nt", 41), fitsTiles("nn", 41)]).toEqual([true, false, true]);
});
