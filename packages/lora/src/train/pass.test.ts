import { expect, test } from "bun:test";
import fc from "fast-check";
import { epochOrder } from "./order.ts";
import { packPasses, predictedTokens, type TrainingSequence } from "./pass.ts";

test("sequences end to end, cut after the last token that predicts", () => {
  const passes = packPasses(
    [
      { tokens: [5, 6, 7], targets: [6, 7, -1] },
      { tokens: [8, 9], targets: [-1, -1] },
      { tokens: [1, 2, 3, 4], targets: [-1, 3, -1, -1] },
    ],
    100,
  );
  expect(passes.length).toBe(1);
  const [{ tokens, positions, segments, targets, scale, rows }] = passes;
  expect([...tokens]).toEqual([5, 6, 1, 2]);
  expect([...positions]).toEqual([0, 1, 0, 1]);
  expect([...targets]).toEqual([6, 7, -1, 3]);
  expect([...scale]).toEqual([1 / 3, 1 / 3, 0, 1 / 3].map(Math.fround));
  expect([...rows]).toEqual([0, 0, 0, 1, 2, 0, 2, 1]);
  expect(segments).toEqual([
    { query: 0, queries: 2, key: 0, keys: 2 },
    { query: 2, queries: 2, key: 2, keys: 2 },
  ]);
});

const sequence: fc.Arbitrary<TrainingSequence> = fc
  .array(fc.tuple(fc.nat(50), fc.integer({ min: -1, max: 50 })), { minLength: 1, maxLength: 20 })
  .map((pairs) => ({ tokens: pairs.map(([t]) => t), targets: pairs.map(([, t]) => t) }));

test("whatever the room, every loss is there once and no pass is larger than it must be", () => {
  fc.assert(
    fc.property(fc.array(sequence, { minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 40 }), (items, room) => {
      const passes = packPasses(items, room);
      const seen: string[] = [];
      for (const pass of passes) {
        if (pass.segments.length > 1) expect(pass.tokens.length).toBeLessThanOrEqual(room);
        expect(pass.segments.reduce((n, s) => n + s.queries, 0)).toBe(pass.tokens.length);
        pass.targets.forEach((target, row) => {
          const [s, t] = [pass.rows[2 * row], pass.rows[2 * row + 1]];
          expect([pass.tokens[row], pass.positions[row], target]).toEqual([items[s].tokens[t], t, items[s].targets[t]]);
          if (target >= 0) seen.push(`${s},${t}`);
        });
      }
      expect(seen).toEqual(
        items.flatMap(({ targets }, s) => targets.flatMap((target, t) => (target >= 0 ? [`${s},${t}`] : []))),
      );
      expect(seen.length).toBe(predictedTokens(items));
    }),
  );
});

test("an epoch's order holds every number once, and is uniform", async () => {
  expect(await epochOrder(5, 1, 0, false)).toEqual([0, 1, 2, 3, 4]);
  const first = await epochOrder(100, 1, 7, true);
  expect(first.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
  expect(await epochOrder(100, 1, 7, true)).toEqual(first);
  expect(await epochOrder(100, 2, 7, true)).not.toEqual(first);
  expect(await epochOrder(100, 1, 8, true)).not.toEqual(first);
  const counts = Array.from({ length: 4 }, () => [0, 0, 0, 0]);
  for (let epoch = 1; epoch <= 4000; epoch++) {
    for (const [place, item] of (await epochOrder(4, epoch, 3, true)).entries()) counts[place][item]++;
  }
  for (const n of counts.flat()) expect(n).toBeWithin(880, 1120);
});
