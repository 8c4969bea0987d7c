import { expect, test } from "bun:test";
import fc from "fast-check";
import { lengthsOf } from "./lengths.ts";

test("statistics and a histogram in round steps", () => {
  expect(lengthsOf([12, 3, 40, 41])).toEqual({
    min: 3,
    median: 26,
    mean: 24,
    max: 41,
    histogram: [
      { from: 0, to: 4, count: 1 },
      { from: 5, to: 9, count: 0 },
      { from: 10, to: 14, count: 1 },
      { from: 15, to: 19, count: 0 },
      { from: 20, to: 24, count: 0 },
      { from: 25, to: 29, count: 0 },
      { from: 30, to: 34, count: 0 },
      { from: 35, to: 39, count: 0 },
      { from: 40, to: 44, count: 2 },
    ],
  });
  expect(lengthsOf([7]).histogram).toEqual([{ from: 7, to: 7, count: 1 }]);
});

test("every length is in its bucket, and the buckets are few", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 100_000 }), { minLength: 1, maxLength: 50 }), (lengths) => {
      const { histogram, min, median, max } = lengthsOf(lengths);
      expect(histogram.length).toBeLessThanOrEqual(12);
      for (const { from, to, count } of histogram) {
        expect(lengths.filter((length) => length >= from && length <= to)).toHaveLength(count);
      }
      expect(histogram.reduce((n, { count }) => n + count, 0)).toBe(lengths.length);
      expect([min, max]).toEqual([Math.min(...lengths), Math.max(...lengths)]);
      expect(lengths.filter((length) => length < median).length).toBeLessThanOrEqual(lengths.length / 2);
      expect(lengths.filter((length) => length > median).length).toBeLessThanOrEqual(lengths.length / 2);
    }),
  );
});
