import { describe, expect, test } from "bun:test";
import { GEMV_ROWS, gemv, gemvGroups } from "./gemv.ts";
import { fill, fromBf16, type Machine, machines, toBf16 } from "./testing.ts";

interface Case {
  element: "f32" | "bf16";
  rows: number;
  n: number;
  k: number;
  slack?: number;
  alpha?: number;
  add?: "c" | "bias";
  early?: boolean;
  poison?: (a: Float32Array, w: Float32Array) => void;
}

/** What a case multiplies, and how it is run. */
function prepare(machine: Machine, options: Case) {
  const { element, rows, n, k, slack = 0, alpha = 1, add, early } = options;
  machine.reset();
  const ld = k + slack;
  const ldc = n + slack;
  const a = machine.allocate(((rows - 1) * ld + k) * 4, early);
  const drawn = fill(new Float32Array((n - 1) * ld + k), 2);
  fill(a.f32, 1);
  options.poison?.(a.f32, drawn);
  const w = machine.allocate(drawn.length * (element === "bf16" ? 2 : 4), early);
  if (element === "bf16") w.u16.set(toBf16(drawn));
  else w.f32.set(drawn);
  const weights = element === "bf16" ? fromBf16(w.u16) : drawn;
  const bias = machine.allocate(n * 4, early);
  fill(bias.f32, 4);
  const zeros = machine.allocate(4);
  const c = machine.allocate(((rows - 1) * ldc + n) * 4, early);
  const before = fill(new Float32Array(c.f32.length), 3);
  const source = add === "c" ? c : add === "bias" ? bias : zeros;
  const values = { a: a.address, lda: ld, w: w.address, ldw: ld, c: c.address, ldc, k, alpha };
  /** Runs all rows at once, `block` columns at a time. */
  const runGroups = (block: number): Float32Array => {
    c.f32.set(before);
    const sources = { source: source.address, sourceRow: 0, sourceColumn: add ? 1 : 0 };
    machine.compile(gemvGroups[element])({ ...values, ...sources, m: rows, block }, 0, n);
    return c.f32.slice();
  };
  /** Runs rows `first` to `first + count`, in calls that end at the given columns. */
  const run = (first = 0, count = rows, ends: readonly number[] = [n]): Float32Array => {
    if (first === 0) c.f32.set(before);
    let begin = 0;
    for (const end of ends) {
      machine.compile(gemv[element][count - 1])(
        {
          ...{ a: a.address + 4 * first * ld, lda: ld, w: w.address, ldw: ld, k, alpha },
          ...{ c: c.address + 4 * first * ldc, ldc, source: source.address + (add === "c" ? 4 * first * ldc : 0) },
          ...{ sourceRow: add === "c" ? 4 * ldc : 0, sourceColumn: add ? 1 : 0 },
        },
        begin,
        end,
      );
      begin = end;
    }
    return c.f32.slice();
  };
  /** The exact result of a place, and the sum of its products' sizes, by which rounding is measured. */
  const exact = (row: number, column: number): { value: number; size: number } => {
    let [sum, size] = [0, 0];
    for (let i = 0; i < k; i++) {
      const product = a.f32[row * ld + i] * weights[column * ld + i];
      sum += product;
      size += Math.abs(product);
    }
    const plus = add === "c" ? before[row * ldc + column] : add === "bias" ? bias.f32[column] : 0;
    return { value: alpha * sum + plus, size: Math.abs(alpha) * size + Math.abs(plus) };
  };
  return { run, runGroups, exact, ldc, before };
}

function* cases(): Generator<Case> {
  let count = 0;
  for (const element of ["bf16", "f32"] as const) {
    for (const rows of [1, 2, 3, 4]) {
      for (const [n, k] of [
        ...[
          [1, 1],
          [3, 8],
          [4, 16],
          [7, 33],
          [9, 47],
          [16, 64],
        ],
        ...[
          [5, 130],
          [12, 896],
          [2, 0],
        ],
      ]) {
        const add = ([undefined, "c", "bias"] as const)[count % 3];
        const slack = count % 2 ? 5 : 0;
        yield { element, rows, n, k, add, slack, alpha: count % 4 ? 1 : -0.75, early: count % 5 === 0 };
        count++;
      }
    }
  }
}

describe.each(machines.map((machine) => [machine.target.name, machine] as const))("gemv on %s", (_, machine) => {
  test("is the product, for every size", () => {
    for (const given of cases()) {
      const { run, exact, ldc, before } = prepare(machine, given);
      const { rows, n, k } = given;
      for (const [i, got] of run().entries()) {
        const [row, column] = [Math.floor(i / ldc), i % ldc];
        if (row >= rows || column >= n) {
          expect(got).toBe(before[i]);
          continue;
        }
        const { value, size } = exact(row, column);
        // A lane's sum has k / lanes roundings, those over lanes and the epilogue a few more.
        const bound = (k / machine.target.lanes + 8) * 2 ** -24 * size;
        if (!(Math.abs(got - value) <= bound)) throw new Error(`${JSON.stringify(given)} at ${row}, ${column}: ${got}`);
      }
    }
  });

  test("a result depends on its row and column alone, bit for bit", () => {
    for (const given of cases()) {
      const { rows, n, add } = given;
      const { run } = prepare(machine, given);
      const together = run();
      expect(run(0, rows, [Math.min(4, n), n])).toEqual(together);
      expect(run(0, rows, [Math.min(3, n), n])).toEqual(together);
      if (add === "c") continue;
      let alone = together;
      for (let row = 0; row < rows; row++) alone = run(row, 1);
      expect(alone).toEqual(together);
    }
  });

  test("many rows in one pass over the weights give the bits of single ones, and write nothing else", () => {
    let count = 0;
    for (const element of ["bf16", "f32"] as const) {
      for (const rows of [GEMV_ROWS, 5, 7, 8, 13]) {
        for (const [n, k] of [
          [1, 8],
          [7, 33],
          [21, 130],
        ]) {
          const [add, slack] = [count % 2 ? "bias" : undefined, count % 3 ? 5 : 0] as const;
          const given: Case = { element, rows, n, k, add, slack, alpha: count % 4 ? 1 : -0.75, early: count % 5 === 0 };
          count++;
          const { run, runGroups } = prepare(machine, given);
          let alone = run(0, 1);
          for (let row = 1; row < rows; row++) alone = run(row, 1);
          for (const block of [4, 12, 100]) expect(runGroups(block)).toEqual(alone);
        }
      }
    }
  });

  test("NaN and infinity stay in their row and column", () => {
    for (const rows of [1, 4]) {
      const [n, k] = [18, 64];
      const { run } = prepare(machine, {
        ...{ element: "bf16", rows, n, k },
        poison: (a, w) => {
          a[(rows - 1) * k + 3] = Number.NaN;
          w[17 * k + 5] = Number.POSITIVE_INFINITY;
        },
      });
      run().forEach((value, i) => {
        if (i >= (rows - 1) * n) expect(value).toBeNaN();
        else if (i % n === 17) expect(Math.abs(value)).toBe(Number.POSITIVE_INFINITY);
        else expect(Math.abs(value)).toBeLessThan(64);
      });
    }
  });
});
