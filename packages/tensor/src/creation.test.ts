import { describe, expect, test } from "bun:test";
import {
  arange,
  bernoulli,
  DTypeError,
  empty,
  eye,
  full,
  fullLike,
  Generator,
  linspace,
  logspace,
  meshgrid,
  oneHot,
  onesLike,
  randint,
  randperm,
  ShapeError,
  tensor,
  zerosLike,
} from "./index.ts";

const i32 = { dtype: "i32" } as const;

describe("creation", () => {
  test("arange counts from, to and by anything", async () => {
    expect(await arange(3).tolist()).toEqual([0, 1, 2]);
    expect(await arange(2, 8, 3).tolist()).toEqual([2, 5]);
    expect(await arange(5, 0, -2).tolist()).toEqual([5, 3, 1]);
    expect(await arange(0, 1, 0.25).tolist()).toEqual([0, 0.25, 0.5, 0.75]);
    expect([arange(3).dtype, arange(0, 1, 0.25).dtype, arange(3, { dtype: "f32" }).dtype]).toEqual([
      "i32",
      "f32",
      "f32",
    ]);
    expect(arange(0, 3, 1, { dtype: "f64" }).dtype).toBe("f64");
    expect(arange(3, 3).shape).toEqual([0]);
    expect(() => arange(0, 3, -1)).toThrow(new ShapeError("arange", "steps of -1 do not lead from 0 to 3"));
    expect(() => arange(0, 3, 0)).toThrow(ShapeError);
  });

  test("linspace and logspace hold both ends", async () => {
    expect(await linspace(-1, 2, 4, { dtype: "f64" }).tolist()).toEqual([-1, 0, 1, 2]);
    for (let count = 2; count < 200; count++) {
      const many = await linspace(0.1, 0.7, count, { dtype: "f64" }).data();
      expect([many[0], many[count - 1]]).toEqual([0.1, 0.7]);
    }
    expect(await linspace(3, 9, 1).tolist()).toEqual([3]);
    expect(linspace(3, 9, 0).shape).toEqual([0]);
    expect(await logspace(0, 3, 4).tolist()).toEqual([1, 10, 100, 1000]);
    expect(await logspace(1, 3, 3, 2).tolist()).toEqual([2, 4, 8]);
    expect(() => linspace(0, 1, 1.5)).toThrow("[linspace] the count must be a whole number, 0 or more, not 1.5");
  });

  test("eye, of any form", async () => {
    expect(await eye(2).tolist()).toEqual([
      [1, 0],
      [0, 1],
    ]);
    expect(await eye(1, 3, i32).tolist()).toEqual([[1, 0, 0]]);
    expect(eye(0).shape).toEqual([0, 0]);
    expect(() => eye(-1)).toThrow(ShapeError);
  });

  test("like another tensor, but for what is said", async () => {
    const t = full([2, 1], 3, i32);
    expect(await zerosLike(t).tolist()).toEqual([[0], [0]]);
    expect(await onesLike(t).tolist()).toEqual([[1], [1]]);
    expect(fullLike(t, 7).dtype).toBe("i32");
    expect(fullLike(t, 7, { dtype: "f32" }).dtype).toBe("f32");
    expect(empty([3, 0]).shape).toEqual([3, 0]);
  });

  test("oneHot marks classes", async () => {
    expect(await oneHot(tensor([[2, 0]], i32), 3).tolist()).toEqual([
      [
        [0, 0, 1],
        [1, 0, 0],
      ],
    ]);
    expect(() => oneHot(tensor([1]), 3)).toThrow(DTypeError);
  });

  test("meshgrid spreads axes", async () => {
    const [rows, columns] = meshgrid(tensor([1, 2]), tensor([3, 4, 5]));
    expect(await rows.tolist()).toEqual([
      [1, 1, 1],
      [2, 2, 2],
    ]);
    expect(await columns.tolist()).toEqual([
      [3, 4, 5],
      [3, 4, 5],
    ]);
    expect(() => meshgrid(eye(2))).toThrow("[meshgrid] needs vectors, not a tensor of 2 dimensions");
  });
});

describe("random numbers", () => {
  test("randint stays inside, reaches both ends, and is the same for the same key", async () => {
    const [a, b] = [1, 1].map((seed) => randint(-3, 2, [2000], new Generator(seed).next()));
    const values = await a.data();
    expect(values).toEqual(await b.data());
    expect(new Set(values)).toEqual(new Set([-3, -2, -1, 0, 1]));
    expect(a.dtype).toBe("i32");
    expect(() => randint(2, 2, [1], new Generator().next())).toThrow(
      "[randint] needs whole numbers at most 2^24 apart",
    );
  });

  test("randperm has every number once, in another order", async () => {
    const order = [...(await randperm(100, new Generator(2).next()).data())];
    expect(order).not.toEqual(order.toSorted((a, b) => a - b));
    expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(randperm(0, new Generator().next()).shape).toEqual([0]);
  });

  test("bernoulli keeps to its probabilities", async () => {
    const drawn = await bernoulli(tensor([0, 1, 0.3]).unsqueeze(1).expand(3, 3000), new Generator(3).next())
      .mean(1)
      .data();
    expect([drawn[0], drawn[1]]).toEqual([0, 1]);
    expect(Math.abs(drawn[2] - 0.3)).toBeLessThan(0.03);
  });
});
