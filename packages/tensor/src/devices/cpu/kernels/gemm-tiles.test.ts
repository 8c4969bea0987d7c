/** Products on tiles, run step by step by a model of the tile unit. */
import { expect, test } from "bun:test";
import { ModelledMachine } from "../emit/modelled-machine.ts";
import { AMX } from "../lang/target.ts";
import { fitsTiles } from "./gemm-tiles.ts";
import { multiplyOnTiles, rowsAlone, specialNumbers, tileProducts } from "./tile-products.ts";

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

test("what is left to vectors", () => {
  const shape = { element: "bf16", form: "nt", n: 64, k: 40, terms: 2 } as const;
  expect(fitsTiles(shape)).toBe(true);
  expect(fitsTiles({ ...shape, k: 41 })).toBe(false);
  expect(fitsTiles({ ...shape, k: 41, form: "nn" })).toBe(true);
  expect(fitsTiles({ ...shape, element: "f32" })).toBe(true);
  expect(fitsTiles({ ...shape, element: "f32", terms: 3 })).toBe(false);
  expect(fitsTiles({ ...shape, element: "f32", n: 8 })).toBe(false);
});
