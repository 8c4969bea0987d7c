import { describe, expect, test } from "bun:test";
import { erf as exactErf } from "../../../expr/javascript.ts";
import { defineKernel } from "../lang/kernel.ts";
import { machines } from "./testing.ts";
import { erf, exp, expOfNegative, log, sigmoid, tanh } from "./vector-math.ts";

/** Numbers spread over all bit patterns: every exponent, both signs, subnormal numbers, infinities and NaN. */
const COUNT = 1 << 18;
const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** Distance from `got` to the exact value in units of the last place of the f32 nearest to it. */
function ulps(got: number, exact: number): number {
  const nearest = Math.fround(exact);
  if (got === nearest || (Number.isNaN(got) && Number.isNaN(nearest))) return 0;
  if (!Number.isFinite(got) || !Number.isFinite(nearest)) return Number.POSITIVE_INFINITY;
  float[0] = Math.abs(nearest);
  word[0]++;
  return Math.abs(got - exact) / (float[0]! - Math.abs(nearest));
}

for (const machine of machines) {
  describe(`vector math on ${machine.target.name}`, () => {
    test.each([
      ["exp", exp, Math.exp, 1, 0],
      ["log", log, Math.log, 1, 0],
      ["tanh", tanh, Math.tanh, 2, 0],
      ["erf", erf, exactErf, machine.target.fused ? 1.2 : 1.5, 0],
      ["sigmoid", sigmoid, (x: number) => 1 / (1 + Math.exp(-x)), 2, 2 ** -125],
    ] as const)("%s keeps its bound over all of f32", (name, vector, scalar, bound, tiny) => {
      const kernel = defineKernel(name, { n: "index", x: "f32*", out: "f32*" }, (k, { n, x, out }) => {
        k.vectors(n, (i, count) => out.at(i).store(vector(k, x.at(i).load(count)), count));
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
