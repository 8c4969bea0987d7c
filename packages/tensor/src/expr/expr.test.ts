import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type BinaryName, constant, type Expr, input, select, topological, type UnaryName } from "./expr.ts";
import { erf, rowLoop } from "./javascript.ts";
import { Program } from "./program.ts";

function run(program: Program, inputs: readonly number[], params: readonly number[] = []): number {
  const arrays = [...inputs, 0].map((x) => Float64Array.of(x));
  const loop = rowLoop(
    program,
    arrays.map(() => "f64"),
    "set",
  );
  const zeros = arrays.map(() => 0);
  loop(arrays, zeros, zeros, 1, params);
  return arrays[inputs.length][0];
}

/** Smooth expressions of two inputs. */
const smooth: fc.Arbitrary<Expr> = fc.letrec<{ e: Expr }>((tie) => ({
  e: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.nat(1).map(input),
    fc.integer({ min: -3, max: 3 }).map(constant),
    fc
      .tuple(fc.constantFrom<UnaryName>("neg", "exp", "sin", "cos", "tanh", "erf"), tie("e"))
      .map(([op, a]) => a[op === "exp" ? "tanh" : op]()[op]()),
    fc.tuple(fc.constantFrom<BinaryName>("add", "sub", "mul"), tie("e"), tie("e")).map(([op, a, b]) => a[op](b)),
    fc.tuple(tie("e"), tie("e")).map(([a, b]) => a.div(b.mul(b).add(1))),
  ),
})).e;

describe("expressions", () => {
  test("the gradient of any expression agrees with central differences", () => {
    const number = fc.double({ min: -2, max: 2, noNaN: true });
    fc.assert(
      fc.property(smooth, number, number, (e, x, y) => {
        const program = Program.of(2, 0, () => e);
        for (const i of [0, 1]) {
          const gradient = program.gradient(i);
          const given = [1, ...(gradient?.needs ?? []).map((at) => [x, y][at])];
          const analytic = gradient ? run(gradient.program, given) : 0;
          const h = 1e-5;
          const moved = (by: number): number => run(program, [x + (i === 0 ? by : 0), y + (i === 1 ? by : 0)]);
          const numeric = (moved(h) - moved(-h)) / (2 * h);
          const size = 1 + Math.abs(numeric) + Math.abs(moved(0));
          expect(Math.abs(analytic - numeric) / size).toBeLessThan(1e-5);
        }
      }),
      { numRuns: 300, seed: 5 },
    );
  });

  test("equal expressions are one object, so that equal programs share compiled code", () => {
    const make = (): Program => Program.of(2, 1, ([a, b], [s]) => a.mul(b).add(s).tanh());
    expect(make()).toBe(make());
    expect(constant(0)).not.toBe(constant(-0));
    const square = input(0).mul(input(0));
    expect(topological(square.add(square)).length).toBe(3);
  });

  test("what changes nothing is left out; what may change NaN is not", () => {
    const x = input(0);
    expect(x.add(0)).toBe(x);
    expect(x.mul(1)).toBe(x);
    expect(x.div(1)).toBe(x);
    expect(
      run(
        Program.of(1, 0, ([a]) => a.mul(0)),
        [Number.NaN],
      ),
    ).toBeNaN();
  });

  test("numbers given at the call are no inputs of the gradient", () => {
    const program = Program.of(1, 1, ([x], [s]) => x.mul(s));
    const gradient = program.gradient(0)!;
    expect(gradient.needs).toEqual([]);
    expect(run(gradient.program, [3], [5])).toBe(15);
  });

  test("the side of a select that was not taken sends no NaN back", () => {
    const program = Program.of(1, 0, ([x]) => select(x.le(0), 0, x.log()));
    const { program: gradient, needs } = program.gradient(0)!;
    for (const x of [-1, 0, Number.NEGATIVE_INFINITY]) expect(run(gradient, [1, ...needs.map(() => x)])).toBe(0);
    expect(run(gradient, [1, ...needs.map(() => 4)])).toBe(0.25);
    const root = Program.of(1, 0, ([x]) => select(constant(0).lt(x), x.sqrt().mul(x), x.neg()));
    expect(run(root.gradient(0)!.program, [1, -4])).toBe(-1);
    expect(run(root.gradient(0)!.program, [1, 4])).toBe(3);
  });

  test("erf is odd, monotone and right to 15 digits", () => {
    // Abramowitz & Stegun, table 7.1, and erfc(4).
    const known = [
      [0.1, 0.1124629160182849],
      [0.5, 0.5204998778130465],
      [1, 0.8427007929497149],
      [2, 0.9953222650189527],
      [3, 0.9999779095030014],
      [4, 1 - 1.541725790028002e-8],
    ];
    for (const [x, y] of known) expect(Math.abs(erf(x) - y)).toBeLessThan(1e-15);
    for (let x = 0; x < 6.5; x += 0.01) {
      expect(erf(-x)).toBe(-erf(x));
      expect(erf(x + 0.01)).toBeGreaterThanOrEqual(erf(x));
    }
  });
});
