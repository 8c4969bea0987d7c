import { describe, expect, test } from "bun:test";
import { erf as exactErf, pow as exactPow } from "../../../expr/javascript.ts";
import { numbers } from "../../conformance/harness.ts";
import { defineKernel } from "../lang/kernel.ts";
import { generatedVectors } from "./rows.ts";
import { machines } from "./testing.ts";
import { cos, erf, exp, expOfNegative, log, pow, sigmoid, sin, tanh } from "./vector-math.ts";

/** Numbers spread over all bit patterns: every exponent, both signs, subnormal numbers, infinities and NaN. */
const COUNT = 1 << 18;
const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** Distance from `got` to the exact value in units of the last place of the f32 nearest to it. */
function ulps(got: number, exact: number): number {
  const nearest = Math.fround(exact);
  if (Object.is(got, nearest) || (Number.isNaN(got) && Number.isNaN(nearest))) return 0;
  if (!Number.isFinite(got) || !Number.isFinite(nearest)) return Number.POSITIVE_INFINITY;
  if (got === nearest) return Number.POSITIVE_INFINITY; // 0 with the wrong sign
  float[0] = Math.abs(nearest);
  word[0]++;
  return Math.abs(got - exact) / (float[0]! - Math.abs(nearest));
}

/** The f32 of these bits. */
function bitsOf(bits: number): number {
  word[0] = bits;
  return float[0]!;
}

/** A number with a power that gives a normal or subnormal number, any as likely as another by its logarithm. */
function within(x: number, draw: number): [number, number] {
  return [x, (draw * 280 - 151) / Math.log2(Math.abs(Math.fround(x)))];
}

for (const machine of machines) {
  describe(`vector math on ${machine.target.name}`, () => {
    test.each([
      ["exp", exp, Math.exp, 1, 0],
      ["log", log, Math.log, 1, 0],
      ["tanh", tanh, Math.tanh, 2, 0],
      ["sin", sin, Math.sin, 1, 0],
      ["cos", cos, Math.cos, 1, 0],
      ["erf", erf, exactErf, machine.target.fused ? 1.2 : 1.5, 0],
      ["sigmoid", sigmoid, (x: number) => 1 / (1 + Math.exp(-x)), 2, 2 ** -125],
    ] as const)("%s keeps its bound over all of f32", (name, vector, scalar, bound, tiny) => {
      const kernel = defineKernel(name, { n: "index", x: "f32*", out: "f32*" }, (k, { n, x, out }) => {
        generatedVectors(k, n, (i, count) => out.at(i).store(vector(k, x.at(i).load(count)), count));
      });
      const x = machine.allocate(4 * COUNT);
      const out = machine.allocate(4 * COUNT);
      const bits = new Uint32Array(x.f32.buffer, x.f32.byteOffset, COUNT);
      for (let i = 0; i < COUNT; i++) bits[i] = i * (2 ** 32 / COUNT) + ((i * 7919) % (2 ** 32 / COUNT));
      // The last few are special, in a vector that is not full.
      const special = [
        0,
        -0,
        1,
        -1,
        88.8,
        -104,
        2 ** -149,
        // Next to multiples of π/2: the first ones, and the nearest that an f32 comes to any.
        ...[1, 2, 3, 4, 100].map((quarters) => (quarters * Math.PI) / 2),
        ...[3045577981952, 1.2614587862244266e38, 16367173 * 2 ** 72],
        // Where the greatest errors of sine and cosine were found once.
        ...[2.6150000635955246e24, 4378920753299456, 6.134122900485995e24, 25543201026585133000],
        3.4028234663852886e38,
        Number.POSITIVE_INFINITY,
        Number.NEGATIVE_INFINITY,
        Number.NaN,
      ];
      x.f32.set(special, COUNT - special.length);
      machine.compile(kernel)({ n: COUNT, x: x.address, out: out.address });
      let worst = 0;
      let at = 0;
      for (let i = 0; i < COUNT; i++) {
        const exact = scalar(x.f32[i]!);
        const error = ulps(out.f32[i]!, exact);
        if (error > worst && !(Math.abs(out.f32[i]! - exact) < tiny)) [worst, at] = [error, x.f32[i]!];
      }
      expect({ at, within: worst <= bound, worst }).toEqual({ at, within: true, worst });
    });

    describe("pow", () => {
      const kernel = defineKernel("pow", { n: "index", x: "f32*", y: "f32*", out: "f32*" }, (k, { n, x, y, out }) => {
        generatedVectors(k, n, (i, count) => out.at(i).store(pow(k, x.at(i).load(count), y.at(i).load(count)), count));
      });
      const [x, y, out] = [0, 1, 2].map(() => machine.allocate(4 * COUNT));

      function worst(pairs: (i: number) => readonly [number, number], n = COUNT): object {
        for (let i = 0; i < n; i++) [x.f32[i], y.f32[i]] = pairs(i) as [number, number];
        machine.compile(kernel)({ n, x: x.address, y: y.address, out: out.address });
        let found = { x: 0, y: 0, got: 0, error: 0 };
        for (let i = 0; i < n; i++) {
          const error = ulps(out.f32[i]!, exactPow(x.f32[i]!, y.f32[i]!));
          if (!(error <= found.error)) found = { x: x.f32[i]!, y: y.f32[i]!, got: out.f32[i]!, error };
        }
        return found.error <= 1.2 ? {} : found;
      }
      const random = numbers(7);
      const any = () => bitsOf(random() * 2 ** 32);

      test("of special values is C's", () => {
        const ends = [0, 1, 2, 3, 0.5, 1e30, 1e-40, 16777216, 16777215, 8388607.5, Number.POSITIVE_INFINITY];
        const all = [...ends, ...ends.map((value) => -value), Number.NaN, 0.99999994, 1.0000001];
        expect(worst((i) => [all[i % all.length]!, all[Math.floor(i / all.length)]!], all.length ** 2)).toEqual({});
      });

      test.each<[string, (i: number) => [number, number]]>([
        ["any two numbers", () => [any(), any()]],
        ["any number to powers that keep it in range", () => within(any(), random())],
        ["numbers next to 1", () => within(1 + (random() - 0.5) * 2 ** (-24 * random()), random())],
        ["negative numbers to whole powers", (i) => [-1 - 2 * random(), (i % 41) - 20]],
      ])("keeps 1.2 ulp: %s", (_, pairs) => expect(worst(pairs)).toEqual({}));
    });

    test("expOfNegative keeps 1 ulp, and 2⁻¹²⁶ below that", () => {
      const kernel = defineKernel("expOfNegative", { n: "index", x: "f32*", out: "f32*" }, (k, { n, x, out }) => {
        k.vectors(n, (i, count) => out.at(i).store(expOfNegative(k, x.at(i).load(count)), count));
      });
      const n = 100_003;
      const [x, out] = [machine.allocate(4 * n), machine.allocate(4 * n)];
      for (let i = 0; i < n; i++) x.f32[i] = (-110 * i) / n;
      const special = [-0, 87.9, -126 * Math.LN2, -3e38, Number.NEGATIVE_INFINITY, Number.NaN];
      x.f32.set(special, n - special.length);
      machine.compile(kernel)({ n, x: x.address, out: out.address });
      for (let i = 0; i < n; i++) {
        const [got, exact] = [out.f32[i]!, Math.exp(x.f32[i]!)];
        const near = ulps(got, exact) <= 1 || (got >= 0 && Math.abs(got - exact) <= 2 ** -126);
        expect({ x: x.f32[i], got, near }).toEqual({ x: x.f32[i]!, got, near: true });
      }
    });
  });
}
