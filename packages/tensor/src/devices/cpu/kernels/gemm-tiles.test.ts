/** Products on tiles, run step by step by a model of the tile unit. */
import { expect, test } from "bun:test";
import { ModelledMachine } from "../emit/modelled-machine.ts";
import { AMX } from "../lang/target.ts";
import { fitsTiles, planTiles } from "./gemm-tiles.ts";
import { multiplyOnTiles, rowsAlone, specialNumbers, tileProducts } from "./tile-products.ts";
import { planWeightTiles } from "./weight-tiles.ts";

test("sizes around the edges", () => {
  const machine = new ModelledMachine(AMX);
  for (const product of tileProducts()) {
    machine.reset();
    multiplyOnTiles(machine, product).check();
  }
}, 60_000);

test.each(["bf16", "f32"] as const)(
  "a row depends on itself alone, b %s",
  (element) => {
    rowsAlone(new ModelledMachine(AMX), element)();
  },
  60_000,
);

test.each([
  ["bf16", "nt"],
  ["bf16", "nn"],
  ["f32", "nt"],
  ["f32", "nn"],
] as const)(
  "NaN and infinity stay in their rows and columns, b %s %s",
  (element, form) => {
    specialNumbers(new ModelledMachine(AMX), element, form)();
  },
  60_000,
);

test("whole blocks of weights: a row depends on itself alone", () => {
  const machine = new ModelledMachine(AMX);
  rowsAlone(machine, "bf16", undefined, true)();
}, 60_000);

test.each(["nt", "nn"] as const)(
  "whole blocks of weights: NaN and infinity stay in their rows and columns, %s",
  (form) => {
    specialNumbers(new ModelledMachine(AMX), "bf16", form, undefined, true)();
  },
  60_000,
);

test("items of whole blocks cover C once, and fit what waits for more inner elements", () => {
  for (const form of ["nt", "nn"] as const) {
    for (const [m, n, k, threads] of [
      [1, 32, 32, 16],
      [218, 4864, 896, 2],
      [1022, 896, 4864, 2],
      [4096, 128, 2048, 3],
      [545, 151_936, 896, 16],
    ] as const) {
      const { depth, items, table } = planWeightTiles(form, { m, n, k }, threads);
      const groups = Math.ceil(m / 32);
      const seen = new Uint8Array(groups * (n / 32));
      for (let item = 0; item < items; item++) {
        const [firstBlock, lastBlock, firstGroup, lastGroup] = table.subarray(4 * item);
        expect(lastGroup - firstGroup).toBeLessThanOrEqual(8);
        if (k > depth) expect((lastBlock - firstBlock) * (lastGroup - firstGroup)).toBeLessThanOrEqual(256);
        for (let block = firstBlock; block < lastBlock; block++)
          for (let group = firstGroup; group < lastGroup; group++) seen[block * groups + group]++;
      }
      expect(seen.every((count) => count === 1)).toBe(true);
    }
  }
});

test("blocks cover C once, and are as many as give every thread the same", () => {
  for (const [m, n, threads] of [
    [1, 896, 16],
    [1024, 896, 16],
    [1024, 4864, 16],
    [1000, 128, 3],
    [40, 2048, 1],
    [33, 70, 64],
  ] as const) {
    const { groups, items, table } = planTiles({ element: "bf16", form: "nt", m, n, k: 896, terms: 2 }, threads);
    expect(groups).toBe(Math.ceil(m / 32));
    expect(table.length).toBe(4 * items);
    const seen = new Uint8Array(groups * Math.ceil(n / 32));
    for (let item = 0; item < items; item++) {
      const [first, last, from, to] = table.subarray(4 * item);
      expect(from % 32 === 0 && to <= n && to - from <= 512 && (to === n || to % 32 === 0)).toBe(true);
      for (let group = first; group < last; group++)
        for (let column = from; column < to; column += 32) seen[group * Math.ceil(n / 32) + column / 32]++;
    }
    expect(seen.every((count) => count === 1)).toBe(true);
  }
  expect(planTiles({ element: "bf16", form: "nt", m: 1024, n: 896, k: 896, terms: 2 }, 16).items).toBe(16);
});

test("what is left to vectors", () => {
  const shape = { element: "bf16", form: "nt", n: 64, k: 40, terms: 2 } as const;
  expect(fitsTiles(shape)).toBe(true);
  expect(fitsTiles({ ...shape, k: 41 })).toBe(false);
  expect(fitsTiles({ ...shape, k: 41, form: "nn" })).toBe(true);
  expect(fitsTiles({ ...shape, element: "f32" })).toBe(true);
  expect(fitsTiles({ ...shape, element: "f32", terms: 3 })).toBe(false);
  expect(fitsTiles({ ...shape, element: "f32", n: 8 })).toBe(false);
});
