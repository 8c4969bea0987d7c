import { expect, test } from "bun:test";
import { DEPTH, instantiate, PLACES, productModule, registerModule, TILES } from "./wasm-loops.ts";

test.each([...TILES])(
  "the loop of a product makes the product it is counted for: %d rows, %d vectors",
  (rows, columns) => {
    const { run, floats } = instantiate(productModule(rows, columns));
    const lanes = 4 * columns;
    const a = floats.subarray(PLACES.a / 4, PLACES.a / 4 + rows * DEPTH);
    const b = floats.subarray(PLACES.b / 4, PLACES.b / 4 + lanes * DEPTH);
    // Small integers: every sum is exact.
    for (let i = 0; i < a.length; i++) a[i] = (i % 7) - 3;
    for (let i = 0; i < b.length; i++) b[i] = (i % 5) - 2;
    run(3);
    for (let r = 0; r < rows; r++) {
      for (let j = 0; j < lanes; j++) {
        let sum = 0;
        for (let i = 0; i < DEPTH; i++) sum += a[i * rows + r]! * b[i * lanes + j]!;
        expect(floats[PLACES.sums / 4 + r * lanes + j]).toBe(3 * sum);
      }
    }
  },
);

test("the loop in registers runs as often as it is told", () => {
  const { run, floats } = instantiate(registerModule());
  run(3);
  expect([...floats.subarray(PLACES.sums / 4, PLACES.sums / 4 + 57)]).toEqual([...Array(56).fill(0.875), 0]);
});
