// Single numbers, nothing at all, and values that are not finite: what PyTorch gives there.
import { describe, expect, test } from "bun:test";
import {
  clamp,
  cumsum,
  isfinite,
  isinf,
  isnan,
  logicalAnd,
  logicalOr,
  logicalXor,
  logSoftmax,
  logsumexp,
  median,
  nanToNum,
  norm,
  prod,
  softmax,
  std,
  type Tensor,
  tensor,
  variance,
  zeros,
} from "../index.ts";

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
const SPECIAL = [nan, inf, -inf, -0, 2];
const list = async (t: Tensor): Promise<number[]> => [...(await t.data())];

describe("single numbers and nothing", () => {
  const nothing = zeros([0]);
  const cases: [name: string, result: Tensor, want: number[]][] = [
    ["softmax of a number", softmax(tensor(3)), [1]],
    ["logSoftmax of a number", logSoftmax(tensor(3)), [0]],
    ["softmax of nothing", softmax(zeros([2, 0])), []],
    ["cumsum of a number", cumsum(tensor(3), 0), [3]],
    ["prod of nothing", prod(nothing), [1]],
    ["prod of empty rows", prod(zeros([2, 0]), 1), [1, 1]],
    ["logsumexp of nothing", logsumexp(nothing), [-inf]],
    ["logsumexp of −∞", logsumexp(tensor([-inf, -inf])), [-inf]],
    ["variance of one", variance(tensor([3])), [nan]],
    ["variance of one, of the whole population", variance(tensor([3]), 0, { correction: 0 }), [0]],
    ["norm of nothing", norm(nothing), [0]],
    ["all and any of nothing", nothing.all().mul(2).add(nothing.any()), [2]],
    ["median of a number", median(tensor(3)).values, [3]],
  ];
  for (const [name, result, want] of cases) test(name, async () => expect(await list(result)).toEqual(want));

  test("a number keeps no dimension", () => {
    expect([softmax(tensor(3)).shape, cumsum(tensor(3), 0).shape, median(tensor(3)).indices.shape]).toEqual([
      [],
      [],
      [],
    ]);
  });
  test("std of equals has the gradient 0", async () => {
    const x = tensor([5, 5], { requiresGrad: true });
    std(x).backward();
    expect(await x.grad?.tolist()).toEqual([0, 0]);
  });
});

describe("not finite", () => {
  const x = tensor(SPECIAL);
  const cases: [name: string, result: Tensor, want: number[]][] = [
    ["isnan", isnan(x), [1, 0, 0, 0, 0]],
    ["isinf", isinf(x), [0, 1, 1, 0, 0]],
    ["isfinite", isfinite(x), [0, 0, 0, 1, 1]],
    ["nanToNum", nanToNum(x, 7, 8, 9), [7, 8, 9, -0, 2]],
    ["clamp", clamp(x, -1, 1), [nan, 1, -1, -0, 1]],
    // torch.clamp: where min is above max, all becomes max.
    ["clamp to nothing", clamp(x, 3, 1), [nan, 1, 1, 1, 1]],
    ["max", x.max(0).indices, [0]],
    ["argmin", x.argmin(), [0]],
    ["logicalNot", x.logicalNot(), [0, 0, 0, 1, 0]],
    ["logicalAnd", logicalAnd(x, tensor([1, 0, 1, 1, 1])), [1, 0, 1, 0, 1]],
    ["logicalOr", logicalOr(x, zeros([5])), [1, 1, 1, 0, 1]],
    ["logicalXor", logicalXor(x, tensor([1, 1, 0, 1, 0])), [0, 0, 1, 1, 1]],
  ];
  for (const [name, result, want] of cases) test(name, async () => expect(await list(result)).toEqual(want));
});

test("powers by a number: those that are products too", async () => {
  const x = [-2, -0.5, 0, 1.5, Number.POSITIVE_INFINITY];
  for (const exponent of [1, 2, 3, 4, -1]) {
    const given = tensor(x, { requiresGrad: true });
    const result = given.pow(exponent);
    expect(await result.tolist()).toEqual(x.map((value) => Math.fround(value ** exponent)));
    result.slice(0, 0, 2).sum().backward();
    const slopes = x.map((value, i) => (i < 2 ? Math.fround(exponent * value ** (exponent - 1)) : 0));
    expect(((await given.grad!.tolist()) as number[]).slice(0, 2)).toEqual(slopes.slice(0, 2));
  }
});
