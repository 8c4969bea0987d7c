import { describe, expect, test } from "bun:test";
import { gemm, gemmWorkspaceBytes, packA, packATransposed, planGemm } from "./gemm.ts";
import { fill, fromBf16, type Machine, machines, toBf16 } from "./testing.ts";

interface Case {
  m: number;
  n: number;
  k: number;
  transposedA?: boolean;
  form?: "nn" | "nt";
  element?: "f32" | "bf16";
  alpha?: number;
  add?: "c" | "bias";
  /** Elements from row to row beyond the row's own. */
  slack?: number;
  /** Items a call takes, where not the plan's. */
  chunk?: number;
  early?: boolean;
  poison?: (a: Float32Array, b: Float32Array) => void;
}

/** Runs one product on a machine; gives C, and the same from plain loops in f64. */
function multiply(machine: Machine, options: Case): { c: Float32Array; expected: Float64Array; bound: number } {
  const { m, n, k, form = "nn", element = "f32", alpha = 1, add, slack = 0, transposedA = false, early } = options;
  const { target } = machine;
  machine.reset();
  const [aRows, aColumns] = transposedA ? [k, m] : [m, k];
  const [bRows, bColumns] = form === "nt" ? [n, k] : [k, n];
  const lda = aColumns + slack;
  const ldb = bColumns + slack;
  const ldc = n + slack;
  const extent = (rows: number, columns: number, ld: number) => (rows - 1) * ld + columns;
  const a = machine.allocate(extent(aRows, aColumns, lda) * 4, early);
  const values = fill(new Float32Array(extent(bRows, bColumns, ldb)), 2);
  fill(a.f32, 1);
  options.poison?.(a.f32, values);
  const b = machine.allocate(values.length * (element === "bf16" ? 2 : 4), early);
  if (element === "bf16") b.u16.set(toBf16(values));
  else b.f32.set(values);
  const bValues = element === "bf16" ? fromBf16(b.u16) : values;
  const c = machine.allocate(extent(m, n, ldc) * 4, early);
  fill(c.f32, 3);
  const before = c.f32.slice();
  const bias = machine.allocate(n * 4, early);
  fill(bias.f32, 4);

  const plan = planGemm(target, m, n, k, 1);
  const packed = machine.allocate(plan.packedBytes, early);
  const workspace = machine.allocate(gemmWorkspaceBytes(target), early);
  const slots = machine.allocate(4);
  const zeros = machine.allocate(256);
  const pack = machine.compile(transposedA ? packATransposed : packA);
  pack({ a: a.address, packed: packed.address, m, k, lda, tiles: plan.tiles }, 0, plan.tiles);
  const run = machine.compile(gemm[element][form]);
  const source = add === "c" ? c.address : add === "bias" ? bias.address : zeros.address;
  const chunk = options.chunk ?? plan.chunk;
  for (let begin = 0; begin < plan.items; begin += chunk) {
    run(
      {
        packed: packed.address,
        b: b.address,
        c: c.address,
        source,
        sourceRow: add === "c" ? 4 * ldc : 0,
        sourceColumn: add ? 1 : 0,
        alpha,
        m,
        n,
        k,
        tiles: plan.tiles,
        ldb,
        ldc,
        byRows: plan.byRows ? 1 : 0,
        blockColumns: plan.blockColumns,
        slots: slots.address,
        workspace: workspace.address,
      },
      begin,
      Math.min(begin + chunk, plan.items),
    );
  }
  expect(slots.i32[0]).toBe(0);

  const expected = Float64Array.from(before);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) {
        sum += a.f32[transposedA ? p * lda + i : i * lda + p] * bValues[form === "nt" ? j * ldb + p : p * ldb + j];
      }
      const start = add === "c" ? before[i * ldc + j] : add === "bias" ? bias.f32[j] : 0;
      expected[i * ldc + j] = start + alpha * sum;
    }
  }
  // Pieces of 256 terms below 1 in magnitude, each rounded at 2^-24 of the running sum.
  const bound = Math.abs(alpha) * Math.min(k, 256 + k / 256) * Math.sqrt(k) * 2 ** -23 + 2 ** -22;
  return { c: c.f32.slice(), expected, bound };
}

function check(machine: Machine, options: Case): void {
  const { c, expected, bound } = multiply(machine, options);
  let worst = 0;
  let at = -1;
  for (let i = 0; i < c.length; i++) {
    const error = Object.is(c[i], expected[i]) ? 0 : Math.abs(c[i] - expected[i]);
    if (!(error <= worst)) {
      worst = error;
      at = i;
    }
  }
  if (!(worst <= bound)) {
    throw new Error(`${JSON.stringify(options)}: element ${at} is ${c[at]}, expected ${expected[at]}, bound ${bound}`);
  }
}

describe.each(machines.map((machine) => [machine.target.name, machine] as const))("gemm on %s", (_, machine) => {
  test("sizes around the tile edges, all forms", () => {
    let count = 0;
    for (const m of [1, 2, 3, 5, 6, 7, 13]) {
      for (const n of [1, 7, 8, 9, 15, 16, 17, 33]) {
        for (const k of [1, 3, 4, 7, 8, 17]) {
          for (const form of ["nn", "nt"] as const) {
            for (const element of ["f32", "bf16"] as const) {
              const transposedA = count % 3 === 0;
              const add = ([undefined, "c", "bias"] as const)[count % 4];
              const early = count % 5 === 0;
              check(machine, { m, n, k, form, element, transposedA, add, early, slack: count % 2 ? 3 : 0 });
              count++;
            }
          }
        }
      }
    }
  });

  test("sizes around the cache blocks", () => {
    check(machine, { m: 200, n: 530, k: 259 });
    check(machine, { m: 200, n: 40, k: 513, form: "nt", element: "bf16", transposedA: true, add: "c", alpha: -0.5 });
    check(machine, { m: 31, n: 1030, k: 256, form: "nt", add: "bias", alpha: 2 });
    check(machine, { m: 400, n: 8, k: 300, element: "bf16", add: "c" });
    check(machine, { m: 8, n: 300, k: 600, transposedA: true });
  });

  test("how the work is divided changes no bit, nor do other rows", () => {
    for (const form of ["nn", "nt"] as const) {
      const whole = multiply(machine, { m: 50, n: 150, k: 600, form, chunk: 1000 });
      expect(multiply(machine, { m: 50, n: 150, k: 600, form, chunk: 1 }).c).toEqual(whole.c);
      expect(multiply(machine, { m: 1, n: 150, k: 600, form }).c).toEqual(whole.c.slice(0, 150));
      expect(multiply(machine, { m: 7, n: 150, k: 600, form, chunk: 3 }).c).toEqual(whole.c.slice(0, 7 * 150));
    }
    const tall = multiply(machine, { m: 500, n: 8, k: 300, chunk: 1000 });
    expect(multiply(machine, { m: 500, n: 8, k: 300, chunk: 1 }).c).toEqual(tall.c);
  });

  test("NaN and infinity reach their row and column and nothing else", () => {
    const m = 9;
    const n = 21;
    const k = 11;
    for (const form of ["nn", "nt"] as const) {
      const poison = (a: Float32Array, b: Float32Array) => {
        a[2 * k + 3] = Number.NaN;
        b[form === "nn" ? 5 * n + 20 : 20 * k + 5] = Number.POSITIVE_INFINITY;
      };
      const { c } = multiply(machine, { m, n, k, form, poison });
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++) {
          const value = c[i * n + j];
          if (i === 2) expect(value).toBeNaN();
          else if (j === 20) expect(Math.abs(value)).toBe(Number.POSITIVE_INFINITY);
          else expect(Math.abs(value)).toBeLessThan(k);
        }
      }
    }
  });
});
