// Printing against PyTorch's own: fixtures/format.json, written by fixtures/format.py.
import { describe, expect, test } from "bun:test";
import fixture from "../fixtures/format.json" with { type: "json" };
import { type DType, type FormatOptions, Tensor, tensor } from "./index.ts";

/** scale·i + shift. */
interface Grid {
  readonly count: number;
  readonly scale: number;
  readonly shift: number;
}
type Case = readonly [
  values: readonly (number | string)[] | Grid,
  shape: readonly number[],
  dtype: DType,
  options: FormatOptions,
  text: string,
];
const valuesOf = (given: Case[0]): number[] =>
  "count" in given ? Array.from({ length: given.count }, (_, i) => given.scale * i + given.shift) : given.map(number);
const number = (x: number | string): number => (typeof x === "number" ? x : Number(x.replace("inf", "Infinity")));

describe("format() prints as PyTorch does", () => {
  for (const [values, shape, dtype, options, text] of fixture.cases as unknown as readonly Case[]) {
    test(text.split("\n", 3).join(" "), async () => {
      expect(await Tensor.from(valuesOf(values), shape, { dtype }).format(options)).toBe(text);
    });
  }

  test("views, and types that PyTorch prints otherwise", async () => {
    const x = tensor([
      [1, 2],
      [3, 4],
    ]);
    expect(await x.T.format()).toBe("tensor([[1., 3.],\n        [2., 4.]])");
    expect(await x.to("bf16").format()).toBe("tensor([[1., 2.],\n        [3., 4.]], dtype=bf16)");
  });

  test("toString tells what it is, without waiting", () => {
    expect(`${tensor([[1, 2]], { requiresGrad: true })}`).toBe(
      "Tensor(shape=[1,2], dtype=f32, device=reference, requiresGrad)",
    );
  });
});
