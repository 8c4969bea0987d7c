import { expect, test } from "bun:test";
import fc from "fast-check";
import { Generator, rand, randn } from "../../index.ts";
import { philox } from "./philox.ts";

test("philox 4x32-10 gives Random123's known answers", () => {
  // kat_vectors of https://github.com/DEShawResearch/random123
  const answers = [
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const;
  for (const [counter, key, words] of answers) expect([...philox(counter, key)]).toEqual([...words]);
});

test("uniform and normal numbers have the moments they should", async () => {
  const random = new Generator(7);
  const n = 100_000;
  const moments = (x: ArrayLike<number>): number[] =>
    [1, 2, 3, 4].map((k) => Array.from(x, (v) => v ** k).reduce((a, b) => a + b) / n);
  const uniform = await rand([n], random.next()).data();
  expect(uniform.every((x: number) => x >= 0 && x < 1)).toBe(true);
  // Five standard deviations of each mean.
  moments(uniform).forEach((m, i) => {
    expect(Math.abs(m - 1 / (i + 2))).toBeLessThan(5 * Math.sqrt(0.09 / n));
  });
  const normal = moments(await randn([n], random.next()).data());
  [0, 1, 0, 3].forEach((want, i) => {
    expect(Math.abs(normal[i] - want)).toBeLessThan(5 * Math.sqrt([1, 2, 15, 96][i] / n));
  });
});

test("a seed gives the same keys again, and other numbers for every key", async () => {
  const draw = async (seed: number): Promise<number[][]> => {
    const random = new Generator(seed);
    return [[...(await rand([9], random.next()).data())], [...(await rand([9], random.next()).data())]];
  };
  expect(await draw(5)).toEqual(await draw(5));
  const different = [...(await draw(5)), ...(await draw(6)), ...(await draw(5 + 2 ** 32))].map(String);
  expect(new Set(different).size).toBe(6);
});

test("a seed is a whole number", () => {
  fc.assert(fc.property(fc.maxSafeNat(), (seed) => new Generator(seed).seed.every((w) => w >= 0 && w < 2 ** 32)));
  for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) {
    expect(() => new Generator(seed)).toThrow(`a seed is a whole number from 0 to 2^53-1, not ${seed}`);
  }
});
