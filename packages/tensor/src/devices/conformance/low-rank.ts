import { expect } from "bun:test";
import type { LowRankArgs, View } from "../device.ts";
import { reference } from "../registry.ts";
import { agree, type Bench, type DeviceTest, type Layout, numbers, operand, result, values } from "./harness.ts";

interface Case {
  rows: number;
  /** Columns of x, of a and b, and of the result. */
  n: number;
  rank: number;
  m: number;
  p?: number;
  layout?: Layout;
}

const CASES: readonly Case[] = [
  { rows: 1, n: 1, rank: 1, m: 1 },
  { rows: 3, n: 5, rank: 2, m: 7, p: 0.5 },
  { rows: 9, n: 33, rank: 4, m: 31, layout: "padded" },
  { rows: 7, n: 16, rank: 5, m: 17, p: 0.1, layout: "padded" },
  { rows: 0, n: 8, rank: 8, m: 8, p: 0.1 },
  { rows: 67, n: 71, rank: 8, m: 40, p: 0.3 },
  { rows: 33, n: 96, rank: 17, m: 130, p: 0.9 },
  { rows: 4, n: 40, rank: 64, m: 20 },
];

function inputs({ rows, n, rank, m, layout }: Case, seed: number) {
  const random = numbers(seed);
  const draw = (): number => 2 * random() - 1;
  return {
    x: operand("f32", [rows, n], draw, layout),
    a: operand("f32", [rank, n], draw, layout),
    b: operand("f32", [m, rank], draw, layout),
    places: operand("i32", [rows, 2], (i) => (i % 2 ? i * 7 : i % 3)),
  };
}

const KEY = { seed: [0xfedcba98, 0x01234567] as const, stream: 0x89abcdef };

type Given = Record<keyof ReturnType<typeof inputs> | "low", View>;
const argsOf = (v: Given, p: number | undefined): LowRankArgs => ({
  ...{ x: v.x, a: v.a, b: v.b, low: v.low, scaling: 1.5 },
  dropout: p === undefined ? undefined : { p, key: KEY, rows: v.places },
});

/** Size of the largest dropped input. */
const largest = (p = 0): number => 1 / (1 - p);

async function forward({ device, bounds }: Bench, c: Case, seed: number): Promise<void> {
  const low = 1.5 * bounds.product * c.n * largest(c.p);
  const outputs = {
    low: result("f32", [c.rows, c.rank], { rel: 1e-6, abs: low }, c.layout),
    out: result("f32", [c.rows, c.m], { rel: 1e-6, abs: 2 * low * c.rank }, c.layout),
  };
  await agree(device, inputs(c, seed), outputs, (d, v) => d.lowRank(argsOf(v, c.p), v.out));
}

async function backward({ device, bounds }: Bench, c: Case, seed: number): Promise<void> {
  const { rows, n, rank, m, p, layout } = c;
  const random = numbers(seed + 1);
  const given = {
    ...inputs(c, seed),
    grad: operand("f32", [rows, m], () => 2 * random() - 1, layout),
    low: operand("f32", [rows, rank], () => 2 * random() - 1, layout),
  };
  const h = 1.5 * bounds.product * m;
  const gradients = (layoutA: Layout = "dense") => ({
    gradX: result("f32", [rows, n], { rel: 1e-6, abs: 2 * h * rank * largest(p) }, layout),
    gradA: result("f32", [rank, n], { rel: 1e-6, abs: 2 * h * (rows + 1) * largest(p) }, layoutA),
    gradB: result("f32", [m, rank], { rel: 1e-6, abs: 2 * bounds.product * (rows + 5) }, layoutA),
  });
  for (const accumulate of [false, true]) {
    await agree(device, given, gradients(accumulate ? "dense" : layout), (d, v) =>
      d.lowRankBackward(argsOf(v, p), { ...v, accumulateA: accumulate, accumulateB: !accumulate }),
    );
  }
  const { gradX, gradA, gradB } = gradients();
  await agree(device, given, { gradX }, (d, v) => d.lowRankBackward(argsOf(v, p), v));
  await agree(device, given, { gradA, gradB }, (d, v) => d.lowRankBackward(argsOf(v, p), v));
}

export const lowRankTests: readonly DeviceTest[] = [
  {
    name: "lowRank: every size, with and without dropout",
    async run(bench) {
      for (const [i, c] of CASES.entries()) await forward(bench, c, 90 + i);
    },
  },
  {
    name: "lowRankBackward: every size, every gradient, written and added",
    async run(bench) {
      for (const [i, c] of CASES.entries()) await backward(bench, c, 100 + i);
    },
  },
  {
    name: "lowRank and its gradients: a dropped infinity is gone",
    async run({ device, bounds }) {
      const c = { rows: 2, n: 37, rank: 3, m: 6 };
      const place = operand("i32", [2, 2], [0, 0, 0, 1]);
      const ones = operand("f32", [2, c.n], () => 1);
      const kept = await values(reference, { ones, place }, { out: result("f32", [2, c.n]) }, (d, v) =>
        d.dropout(v.ones, v.place, 0.5, KEY, v.out),
      );
      const given = inputs(c, 110);
      kept.out.forEach((factor, i) => {
        if (factor === 0) given.x.content[i] = i % 2 ? Number.POSITIVE_INFINITY : Number.NaN;
      });
      const tolerance = { abs: 400 * bounds.product };
      const named = { ...given, places: place };
      const low = result("f32", [2, c.rank], tolerance);
      await agree(device, named, { low, out: result("f32", [2, c.m], tolerance) }, (d, v) =>
        d.lowRank(argsOf(v, 0.5), v.out),
      );
      const grad = operand("f32", [2, c.m], () => 1);
      await agree(
        device,
        { ...named, grad, low: operand("f32", [2, c.rank], () => 1) },
        { gradA: result("f32", [c.rank, c.n], tolerance) },
        (d, v) => d.lowRankBackward(argsOf(v, 0.5), v),
      );
    },
  },
  {
    name: "lowRank: a row's result depends on that row alone, and no gradient on threads",
    async run({ device, again }) {
      const c = { rows: 75, n: 50, rank: 6, m: 36, p: 0.4 };
      const all = inputs(c, 120);
      const part = (first: number, rows: number) => ({
        ...all,
        x: operand("f32", [rows, c.n], [...all.x.content.subarray(first * c.n, (first + rows) * c.n)]),
        places: operand("i32", [rows, 2], [...all.places.content.subarray(2 * first, 2 * (first + rows))]),
      });
      const run = async (first: number, rows: number) => {
        const outputs = { low: result("f32", [rows, c.rank]), out: operandOf(rows, c.m) };
        return values(device, part(first, rows), outputs, (d, v) => d.lowRank(argsOf(v, c.p), v.out));
      };
      const whole = await run(0, c.rows);
      for (const [first, rows] of [
        [0, 1],
        [74, 1],
        [3, 6],
      ] as const) {
        const some = await run(first, rows);
        expect(some.low).toEqual(whole.low.slice(first * c.rank, (first + rows) * c.rank));
        expect(some.out).toEqual(whole.out.slice(first * c.m, (first + rows) * c.m));
      }
      const given = {
        ...all,
        low: operand("f32", [c.rows, c.rank], whole.low),
        grad: operand("f32", [c.rows, c.m], (i) => Math.sin(i)),
      };
      const gradients = {
        gradX: operandOf(c.rows, c.n),
        gradA: result("f32", [c.rank, c.n]),
        gradB: result("f32", [c.m, c.rank]),
      };
      const results = [];
      for (const threads of [1, 2, 4]) {
        const other = await again(threads);
        results.push(await values(other, given, gradients, (d, v) => d.lowRankBackward(argsOf(v, c.p), v)));
        await other.dispose();
      }
      expect(results[1]).toEqual(results[0]!);
      expect(results[2]).toEqual(results[0]!);
    },
  },
];

/** A result that is added to, of zeros before. */
const operandOf = (rows: number, columns: number) => ({
  into: operand("f32", [rows, columns], () => 0),
  tolerance: {},
});
