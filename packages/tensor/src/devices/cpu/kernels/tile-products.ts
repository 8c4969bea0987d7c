/** Products on tiles for tests: the calls, and what plain loops make of the same operands. */
import { expect } from "bun:test";
import type { Kernel } from "../lang/kernel.ts";
import {
  gemmTiles,
  packTilesA,
  planTiles,
  type Terms,
  TILES_WORKSPACE_BYTES,
  type TilesElement,
} from "./gemm-tiles.ts";
import { fill, fromBf16, type Machine, type Memory, toBf16 } from "./testing.ts";
import { planWeightTiles, WEIGHT_TILES_WORKSPACE_BYTES, weightTiles } from "./weight-tiles.ts";

export interface TileProduct {
  readonly form: "nn" | "nt";
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly element?: TilesElement;
  readonly terms?: Terms;
  readonly alpha?: number;
  readonly add?: "c" | "bias";
  /** Made by the kernels for whole blocks of weights (`weight-tiles.ts`). */
  readonly weights?: boolean;
  /** Elements from row to row beyond the row's own. */
  readonly slack?: number;
  /** Threads that the work is cut for; each item is a call of its own where that is said, otherwise one call makes all. */
  readonly threads?: number;
  readonly poison?: (a: Float32Array, b: Float32Array) => void;
}

/** The bf16 numbers that x is taken as. */
function parts(x: number, count: number): number[] {
  const found: number[] = [];
  for (let rest = x; found.length < count; ) {
    const part = fromBf16(toBf16(Float32Array.of(rest)))[0];
    found.push(part);
    rest = Number.isFinite(part) ? Math.fround(rest - part) : 0;
  }
  return found;
}

/** Of Σ|a·b|: what so many terms leave of a factor, and of both where both are f32. */
const LEFT: { readonly [T in Terms]: number } = { 1: 2 ** -8, 2: 2 ** -16, 3: 2 ** -20 };

/** What products that run one after another may share. */
export const tileWorkspace = (machine: Machine): Memory =>
  machine.allocate(Math.max(TILES_WORKSPACE_BYTES, WEIGHT_TILES_WORKSPACE_BYTES));

/** Makes the calls of one product; `check` compares when they were made. */
export function multiplyOnTiles(
  machine: Machine,
  options: TileProduct,
  workspace = tileWorkspace(machine),
): { c: Memory; check: () => void } {
  const { form, m, n, k, element = "bf16", terms = 2, alpha = 1, add, slack = 0, threads = 1, weights } = options;
  const [bRows, bColumns] = form === "nt" ? [n, k] : [k, n];
  const [lda, ldb, ldc] = [k + slack, bColumns + slack, n + slack];
  const a = machine.allocate(4 * ((m - 1) * lda + k));
  fill(a.f32, 1);
  const given = fill(new Float32Array((bRows - 1) * ldb + bColumns), 2);
  options.poison?.(a.f32, given);
  const b = machine.allocate(given.length * (element === "bf16" ? 2 : 4));
  if (element === "bf16") b.u16.set(toBf16(given));
  else b.f32.set(given);
  const bValues = element === "bf16" ? fromBf16(b.u16) : given;
  const c = machine.allocate(4 * ((m - 1) * ldc + n));
  fill(c.f32, 3);
  const before = c.f32.slice();
  const bias = machine.allocate(4 * n);
  fill(bias.f32, 4);
  const [zeros, slots] = [machine.allocate(256), machine.allocate(4)];
  const tiles = weights ? undefined : planTiles({ element, form, m, n, k, terms }, threads);
  const plan = tiles ?? planWeightTiles(form, { m, n, k }, threads);
  const table = machine.allocate(plan.table.byteLength);
  table.i32.set(plan.table);
  const packed = machine.allocate(tiles?.packedBytes ?? 0);
  // What is not written must not count.
  packed.u8.fill(255);
  const groups = tiles?.groups ?? 0;
  if (tiles) machine.compile(packTilesA[terms])({ a: a.address, packed: packed.address, m, k, lda, groups }, 0, groups);
  const source = add === "c" ? c : add === "bias" ? bias : zeros;
  const kernels = element === "bf16" ? gemmTiles.bf16[terms] : gemmTiles.f32[terms as 1 | 2];
  const run = machine.compile((weights ? weightTiles[form][terms] : kernels[form]) as unknown as Kernel);
  const values: Record<string, number> = {
    ...{ packed: packed.address, b: b.address, c: c.address, source: source.address, alpha, m, n, k },
    ...{ sourceRow: add === "c" ? 4 * ldc : 0, sourceColumn: add ? 1 : 0, groups, ldb, ldc },
    ...("depth" in plan ? { a: a.address, w: b.address, lda, ldw: ldb, depth: plan.depth } : {}),
    ...{ items: table.address, slots: slots.address, workspace: workspace.address },
  };
  const chunk = options.threads === undefined ? plan.items : 1;
  for (let begin = 0; begin < plan.items; begin += chunk) run(values, begin, Math.min(begin + chunk, plan.items));

  const check = (): void => {
    expect(slots.i32[0]).toBe(0);
    const left = Array.from({ length: m * k }, (_, at) => parts(a.f32[Math.floor(at / k) * lda + (at % k)], terms));
    const right = Array.from({ length: n * k }, (_, at) => {
      const [j, p] = [Math.floor(at / k), at % k];
      return parts(bValues[form === "nt" ? j * ldb + p : p * ldb + j], element === "bf16" ? 1 : terms);
    });
    for (let at = 0; at < c.f32.length; at++) {
      const [i, j] = [Math.floor(at / ldc), at % ldc];
      if (j >= n) {
        expect(c.f32[at]).toBe(before[at]);
        continue;
      }
      let [sum, exact, size] = [0, 0, 0];
      for (let p = 0; p < k; p++) {
        const [x, y] = [left[i * k + p], right[j * k + p]];
        const whole = a.f32[i * lda + p] * bValues[form === "nt" ? j * ldb + p : p * ldb + j];
        exact += whole;
        size += Math.abs(whole);
        x.forEach((u, s) => {
          y.forEach((v, t) => {
            if (s + t < terms) sum += u * v;
          });
        });
      }
      const start = add === "c" ? before[at] : add === "bias" ? bias.f32[j] : 0;
      near(start + alpha * sum, 2 ** -20, "of these terms");
      near(start + alpha * exact, LEFT[terms] + 2 ** -20, "in all");

      function near(wanted: number, share: number, what: string): void {
        const bound = Math.abs(alpha) * size * share + 2 ** -22;
        if (Math.abs(c.f32[at] - wanted) <= bound) return;
        const found = `[${i}, ${j}] is ${c.f32[at]}, expected ${wanted} within ${bound} ${what}`;
        throw new Error(`${JSON.stringify(options)}: ${found}`);
      }
    }
  };
  return { c, check };
}

/** Sizes around the edges of tiles, blocks and pieces, all forms and numbers of terms. */
export function tileProducts(): TileProduct[] {
  const cases: TileProduct[] = [];
  for (const [element, terms] of [
    ["bf16", 2],
    ["bf16", 1],
    ["bf16", 3],
    ["f32", 2],
    ["f32", 1],
  ] as const) {
    for (const form of ["nt", "nn"] as const) {
      const kind = { element, terms, form };
      cases.push(
        { ...kind, m: 1, n: 1, k: 8 },
        { ...kind, m: 16, n: 32, k: 32 },
        { ...kind, m: 33, n: 70, k: 40, add: "c", alpha: -0.5, slack: 4 },
        { ...kind, m: 70, n: 20, k: 64, threads: 3 },
      );
      if (terms === 2) cases.push({ ...kind, m: 17, n: 33, k: 1064, add: "bias" }, { ...kind, m: 2, n: 530, k: 24 });
    }
    cases.push({ element, terms, form: "nn", m: 5, n: 17, k: 33, slack: 1 });
  }
  cases.push({ element: "f32", form: "nt", m: 3, n: 40, k: 36 });
  for (const form of ["nt", "nn"] as const) {
    const kind = { element: "bf16", form, weights: true } as const;
    const least = form === "nt" ? 128 : 32;
    cases.push(
      { ...kind, m: 1, n: 32, k: least },
      { ...kind, m: 33, n: 64, k: 2 * least, terms: 1, add: "c", slack: 3 },
      { ...kind, m: 50, n: 64, k: 3 * least, terms: 3, alpha: -0.5, add: "bias" },
      // Fewer steps than a block takes to be looked at and stored, and several depths.
      { ...kind, m: 37, n: 96, k: 384, add: "c", slack: 8, threads: 3 },
      { ...kind, m: 40, n: 64, k: 1024 + least, add: "bias" },
      // More groups of rows than one item takes.
      { ...kind, m: 300, n: 32, k: least, threads: 2 },
      { ...kind, m: 545, n: 32, k: least },
    );
  }
  return cases;
}

const [M, N, K] = [40, 70, 96];

/** Whole products and parts of them; `check` compares their rows bit by bit. */
export function rowsAlone(
  machine: Machine,
  element: TilesElement,
  workspace = tileWorkspace(machine),
  weights = false,
): () => void {
  const kind = { element, form: "nt", n: weights ? 64 : N, k: weights ? 128 : K, weights } as const;
  const whole = multiplyOnTiles(machine, { ...kind, m: M }, workspace);
  const few = [1, 3, 16, 17].map((m) => [m, multiplyOnTiles(machine, { ...kind, m, threads: 7 }, workspace)] as const);
  return () => {
    for (const [m, { c }] of few) expect(c.f32).toEqual(whole.c.f32.subarray(0, m * kind.n));
  };
}

/** NaN and infinities on both sides; `check` finds them in their rows and columns and nowhere else. */
export function specialNumbers(
  machine: Machine,
  element: TilesElement,
  form: "nn" | "nt",
  workspace = tileWorkspace(machine),
  weights = false,
): () => void {
  const [columns, inner] = weights ? [96, 128] : [N, K];
  const kind = { element, form, m: M, n: columns, k: inner, weights } as const;
  const place = (j: number, p: number) => (form === "nt" ? j * inner + p : p * columns + j);
  const product = (poison: TileProduct["poison"]) => multiplyOnTiles(machine, { ...kind, poison }, workspace);
  // Exactly bf16, so that what is left of it is 0, and an infinity meets it.
  const plain = (a: Float32Array, b: Float32Array) => {
    for (let i = 0; i < M; i++) a[i * inner + 9] = i === 0 ? 0 : 2;
    b[place(4, 95)] = 3;
  };
  const whole = product(plain);
  const poisoned = product((a, b) => {
    plain(a, b);
    a[2 * inner + 7] = Number.NaN;
    a[35 * inner + 95] = Number.POSITIVE_INFINITY;
    b[place(3, 9)] = Number.NEGATIVE_INFINITY;
    b[place(69, 0)] = Number.NaN;
  });
  return () => {
    whole.check();
    poisoned.c.f32.forEach((value, at) => {
      const [i, j] = [Math.floor(at / columns), at % columns];
      // Zero times infinity, and the difference of infinities, are NaN.
      if (i === 2 || j === 69 || (j === 3 && i === 0)) expect(value).toBeNaN();
      else if (j === 3 && i !== 35) expect(value).toBe(Number.NEGATIVE_INFINITY);
      else if (i === 35 && j === 4) expect(value).toBe(Number.POSITIVE_INFINITY);
      else if (i === 35) expect(Number.isFinite(value)).toBe(false);
      else expect(value).toBe(whole.c.f32[at]);
    });
  };
}
