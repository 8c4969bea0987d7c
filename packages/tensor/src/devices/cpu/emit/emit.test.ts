/** The emitters over kernels that no one wrote by hand: random programs, more values than registers, argument blocks. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { fill, machines } from "../kernels/testing.ts";
import type { Builder } from "../lang/builder.ts";
import { argumentBlockBytes, buildKernel, defineKernel, writeArguments } from "../lang/kernel.ts";
import { AVX2 } from "../lang/target.ts";
import type { Index, VF } from "../lang/values.ts";
import { RegisterPressureError } from "./allocate.ts";
import { emitX64 } from "./x64.ts";

const bits = new Int32Array(1);
const float = new Float32Array(bits.buffer);
function asBits(x: number): number {
  float[0] = x;
  return bits[0];
}
function asFloat(x: number): number {
  bits[0] = x;
  return float[0];
}

/** One step of a program: a value from two earlier ones, as vector code and as the meaning of a lane. */
interface Step {
  readonly vector: (k: Builder, a: VF, b: VF) => VF;
  readonly lane: (a: number, b: number) => number;
}
const STEPS: Readonly<Record<string, Step>> = {
  add: { vector: (_, a, b) => a.add(b), lane: (a, b) => Math.fround(a + b) },
  sub: { vector: (_, a, b) => a.sub(b), lane: (a, b) => Math.fround(a - b) },
  mul: { vector: (_, a, b) => a.mul(b), lane: (a, b) => Math.fround(a * b) },
  div: { vector: (_, a, b) => a.div(b), lane: (a, b) => Math.fround(a / b) },
  min: { vector: (_, a, b) => a.min(b), lane: (a, b) => [b, a][Number(a < b)] },
  max: { vector: (_, a, b) => a.max(b), lane: (a, b) => [b, a][Number(a > b)] },
  addConstant: { vector: (_, a) => a.add(1.5), lane: (a) => Math.fround(a + 1.5) },
  fromConstant: { vector: (k, a) => k.vector(2).sub(a), lane: (a) => Math.fround(2 - a) },
  neg: { vector: (_, a) => a.neg(), lane: (a) => -a },
  abs: { vector: (_, a) => a.abs(), lane: (a) => Math.abs(a) },
  sqrt: { vector: (_, a) => a.abs().sqrt(), lane: (a) => Math.fround(Math.sqrt(Math.abs(a))) },
  floor: { vector: (_, a) => a.floor(), lane: (a) => Math.floor(a) },
  select: { vector: (_, a, b) => a.compare("lt", b).select(a, b), lane: (a, b) => [b, a][Number(a < b)] },
  unlike: { vector: (_, a, b) => a.compare("ne", b).select(b, a), lane: (a, b) => (a !== b ? b : a) },
  xor: {
    vector: (_, a, b) => a.bits().xor(b.bits()).and(0x3fffffff).float(),
    lane: (a, b) => asFloat((asBits(a) ^ asBits(b)) & 0x3fffffff),
  },
  shift: {
    vector: (_, a, b) => a.bits().shr(3).add(b.bits().shl(2)).sar(4).toFloat(),
    lane: (a, b) => Math.fround((((asBits(a) >>> 3) + (asBits(b) << 2)) | 0) >> 4),
  },
  multiplyIntegers: {
    vector: (_, a, b) => a.bits().mul(b.bits()).or(1).toFloat(),
    lane: (a, b) => Math.fround(Math.imul(asBits(a), asBits(b)) | 1),
  },
};
const NAMES = Object.keys(STEPS);

const program = fc.array(fc.tuple(fc.constantFrom(...NAMES), fc.nat(), fc.nat()), { minLength: 1, maxLength: 60 });

describe.each(machines.map((machine) => [machine.target.name, machine] as const))("%s", (_, machine) => {
  test("random programs mean what they say, with whatever must be spilled", () => {
    fc.assert(
      fc.property(program, fc.integer({ min: 1, max: 40 }), (steps, n) => {
        machine.reset();
        // Everything computed lives to the end, so that registers run out.
        const kernel = defineKernel("random", { x: "f32*", y: "f32*", out: "f32*", n: "index" }, (k, args) => {
          const body = (i: Index, count?: Index): void => {
            const values = [args.x.at(i).load(count), args.y.at(i).load(count)];
            for (const [name, a, b] of steps) {
              values.push(STEPS[name].vector(k, values[a % values.length], values[b % values.length]));
            }
            let place = args.out.at(i.mul(values.length)).fixed();
            for (const value of values) {
              place.store(value, count);
              place = place.at(count ?? k.lanes).fixed();
            }
          };
          const whole = args.n.alignDown(k.lanes);
          k.loop({ to: whole, step: k.lanes, maySpill: true }, (i) => body(i));
          k.if(args.n.gt(whole), () => body(whole, args.n.sub(whole)));
        });
        const [x, y] = [machine.allocate(4 * n), machine.allocate(4 * n)];
        fill(x.f32, 1).forEach((value, i) => {
          x.f32[i] = value * 10;
        });
        fill(y.f32, 2);
        const count = steps.length + 2;
        const out = machine.allocate(4 * n * count);
        machine.compile(kernel)({ x: x.address, y: y.address, out: out.address, n });
        const { lanes } = machine.target;
        for (let i = 0; i < n; i++) {
          const values = [x.f32[i], y.f32[i]];
          for (const [name, a, b] of steps) {
            values.push(STEPS[name].lane(values[a % values.length], values[b % values.length]));
          }
          const first = i - (i % lanes);
          const width = Math.min(lanes, n - first);
          values.forEach((value, v) => {
            const mine = out.f32[first * count + v * width + (i - first)];
            if (!Object.is(mine, value)) throw new Error(`value ${v} of element ${i} is ${mine}, not ${value}`);
          });
        }
      }),
      { numRuns: 60 },
    );
  });

  test("wide products of the even lanes, and odd lanes in both places", () => {
    machine.reset();
    const { lanes } = machine.target;
    const kernel = defineKernel("wide", { x: "i32*", y: "i32*", out: "i32*" }, (k, { x, y, out }) => {
      const product = x.loadInt().mulWide(y.loadInt());
      out.store(product);
      out.at(k.lanes).store(product.oddLanes());
    });
    const [x, y, out] = [lanes, lanes, 2 * lanes].map((n) => machine.allocate(4 * n));
    const words = [0xffffffff, 7, 0xd2511f53, 0x80000000, 0, 1, 0x12345678, 0xfffffffe];
    for (let i = 0; i < lanes; i++) {
      x!.i32[i] = words[i % 8]! | 0;
      y!.i32[i] = words[(i + 2) % 8]! | 0;
    }
    machine.compile(kernel)({ x: x!.address, y: y!.address, out: out!.address });
    for (let i = 0; i < lanes; i += 2) {
      const wide = BigInt(x!.i32[i]! >>> 0) * BigInt(y!.i32[i]! >>> 0);
      const halves = [wide & 0xffffffffn, wide >> 32n].map((half) => Number(half) | 0);
      expect([...out!.i32.subarray(i, i + 2)]).toEqual(halves);
      expect([...out!.i32.subarray(lanes + i, lanes + i + 2)]).toEqual([halves[1]!, halves[1]!]);
    }
  });

  test("integers: more than there are registers, loops that do not run, wide and negative numbers", () => {
    machine.reset();
    const kernel = defineKernel("integers", { n: "index", minus: "index", out: "i32*" }, (k, { n, minus, out }) => {
      const many = Array.from({ length: 30 }, (_, i) => n.mul(i + 3).sub(i));
      const sum = k.variable(k.index(0));
      k.loop({ to: n, maySpill: true }, (i) => {
        for (const value of many) sum.increase(value.add(i).max(7).min(200).and(~1));
      });
      k.loop({ from: 5, to: minus }, () => sum.set(-1));
      k.repeat(minus, () => sum.set(-2));
      out.store(sum);
      out.at(1).store(minus.sar(1));
      out.at(2).store(k.index(3).sub(minus).shl(2));
      k.if(
        minus.lt(-1),
        () => out.at(3).store(minus.add(1000000)),
        () => out.at(3).store(minus),
      );
    });
    const out = machine.allocate(16);
    machine.compile(kernel)({ n: 9, minus: -77, out: out.address });
    let sum = 0;
    for (let i = 0; i < 9; i++) {
      for (let j = 0; j < 30; j++) sum += Math.min(Math.max(9 * (j + 3) - j + i, 7), 200) & ~1;
    }
    expect([...out.i32]).toEqual([sum, -39, 320, 999923]);
  });
});

test("an innermost loop that needs more registers than there are is refused, by name", () => {
  const kernel = defineKernel("greedy", { x: "f32*", n: "index" }, (k, { x, n }) => {
    const sums = Array.from({ length: 17 }, () => k.variable(k.zero()));
    k.repeat(n, () => {
      sums.forEach((sum, i) => {
        sum.set(sum.add(x.at(i * 8).load()));
      });
    });
    sums.forEach((sum, i) => {
      x.at(i * 8).store(sum);
    });
  });
  const build = () => emitX64(buildKernel(kernel, AVX2));
  expect(build).toThrow(RegisterPressureError);
  expect(build).toThrow(/^kernel greedy: an innermost loop mentions .* \(16 exist\)/);
});

test("argument blocks: eight bytes a field, numbers of any sign and addresses beyond 32 bits", () => {
  const kernel = defineKernel("fields", { a: "index", b: "f32", c: "f32*" }, () => {});
  expect(argumentBlockBytes(kernel)).toBe(24);
  const view = new DataView(new ArrayBuffer(32));
  writeArguments(kernel, view, 8, { a: -2, b: 0.5, c: 0x7fff12345678 });
  expect(view.getBigInt64(8, true)).toBe(-2n);
  expect(view.getFloat32(16, true)).toBe(0.5);
  expect(view.getBigUint64(24, true)).toBe(0x7fff12345678n);
});
