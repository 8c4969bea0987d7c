import { describe, expect, test } from "bun:test";
import { arange, type DType, Tensor, tensor, zeros } from "./index.ts";

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

/** PyTorch 2.13's `str(t)`. */
const CASES: readonly [values: readonly number[], shape: readonly number[], dtype: DType, text: string][] = [
  [[1, 2.5, 3, -4], [2, 2], "f32", "tensor([[ 1.0000,  2.5000],\n        [ 3.0000, -4.0000]])"],
  [[1, 2, -3], [3], "f32", "tensor([ 1.,  2., -3.])"],
  [[1e-5, 1], [2], "f32", "tensor([1.0000e-05, 1.0000e+00])"],
  [[nan, inf, -inf, 1.5], [4], "f32", "tensor([   nan,    inf,   -inf, 1.5000])"],
  [[1e9, 1], [2], "f32", "tensor([1.0000e+09, 1.0000e+00])"],
  [[0, 0], [2], "f32", "tensor([0., 0.])"],
  [[3.25], [], "f32", "tensor(3.2500)"],
  [[], [0], "f32", "tensor([])"],
  [[], [2, 0], "f32", "tensor([], size=[2, 0])"],
  [[-1, 200, 3, 4], [2, 2], "i32", "tensor([[ -1, 200],\n        [  3,   4]], dtype=i32)"],
  [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [2, 2, 2],
    "f32",
    "tensor([[[0., 1.],\n         [2., 3.]],\n\n        [[4., 5.],\n         [6., 7.]]])",
  ],
];

describe("format() prints as PyTorch does", () => {
  for (const [values, shape, dtype, text] of CASES) {
    test(text, async () => {
      expect(await Tensor.from(values, shape, { dtype }).format()).toBe(text);
    });
  }

  test("long rows are wrapped, large tensors shortened", async () => {
    expect(await arange(16, { dtype: "f32" }).div(7).format()).toBe(
      "tensor([0.0000, 0.1429, 0.2857, 0.4286, 0.5714, 0.7143, 0.8571, 1.0000, 1.1429,\n" +
        "        1.2857, 1.4286, 1.5714, 1.7143, 1.8571, 2.0000, 2.1429])",
    );
    expect(await zeros([40, 50]).format()).toBe(
      `tensor([${["", "", "", "...", "", "", ""].map((x) => x || "[0., 0., 0.,  ..., 0., 0., 0.]").join(",\n        ")}])`,
    );
  });

  test("toString tells what it is, without waiting", () => {
    expect(`${tensor([[1, 2]], { requiresGrad: true })}`).toBe(
      "Tensor(shape=[1,2], dtype=f32, device=reference, requiresGrad)",
    );
  });
});
