import { afterAll, describe, expect, test } from "bun:test";
import type { Program } from "../expr/program.ts";
import type { Storage } from "../memory.ts";
import { DEVICE_TESTS } from "./conformance.ts";
import type {
  AdamWArgs,
  AttentionOptions,
  LinearCrossEntropyArgs,
  LowRankArgs,
  LowRankGradients,
  MatmulOptions,
  RandomKey,
  ReduceKind,
  View,
} from "./device.ts";
import { ReferenceDevice } from "./reference/index.ts";

/** A device with one fault, and the test that must find it. */
const FAULTS: readonly [fault: string, foundBy: RegExp, make: (threads?: number) => ReferenceDevice][] = [
  [
    "writes behind its result",
    /every shape and layout/,
    () =>
      new (class extends ReferenceDevice {
        override elementwise(
          p: Program,
          n: readonly number[],
          i: readonly View[],
          out: View,
          accumulate?: boolean,
        ): void {
          super.elementwise(p, n, i, out, accumulate);
          const bytes = this.bytes(out.storage);
          if (out.strides.at(-1) === 1)
            bytes[Math.min(bytes.length, 4 * (out.offset + out.shape.at(-1)! + 2)) - 1] ^= 1;
        }
      })(),
  ],
  [
    "ignores accumulate",
    /every shape and layout/,
    () =>
      new (class extends ReferenceDevice {
        override elementwise(p: Program, n: readonly number[], i: readonly View[], out: View): void {
          super.elementwise(p, n, i, out);
        }
      })(),
  ],
  [
    "gives memory away too early",
    /freed in order/,
    () =>
      new (class extends ReferenceDevice {
        override elementwise(
          p: Program,
          n: readonly number[],
          i: readonly View[],
          out: View,
          accumulate?: boolean,
        ): void {
          queueMicrotask(() => super.elementwise(p, n, i, out, accumulate));
        }
        override free(handle?: unknown): void {
          (handle as Uint8Array).fill(0);
        }
      })(),
  ],
  [
    "skips NaN in max",
    /NaN and infinity come through/,
    () =>
      new (class extends ReferenceDevice {
        override reduce(
          kind: ReduceKind,
          p: Program,
          n: readonly number[],
          i: readonly View[],
          out: View,
          a?: boolean,
        ): void {
          super.reduce(kind, p, n, i, out, a);
          const array = this.array(out);
          if (kind === "max") for (let at = 0; at < array.length; at++) if (Number.isNaN(array[at])) array[at] = 0;
        }
      })(),
  ],
  [
    "finds the last of equals",
    /argmax/,
    () =>
      new (class extends ReferenceDevice {
        override argmax(x: View, out: View): void {
          super.argmax(x, out);
          if (x.shape.at(-1) === 5) this.array(out)[0] = 4;
        }
      })(),
  ],
  [
    "forgets alpha",
    /alpha, accumulate and bias/,
    () =>
      new (class extends ReferenceDevice {
        override matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
          super.matmul(a, b, out, { ...options, alpha: 1 });
        }
      })(),
  ],
  [
    "sums differently for many rows",
    /matmul: a row's result/,
    () =>
      new (class extends ReferenceDevice {
        override matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
          super.matmul(a, b, out, a.shape[0] > 4 ? { ...options, alpha: 1 + 1e-7 } : options);
        }
      })(),
  ],
  [
    "multiplies in half precision",
    /matmul: every size, b f32/,
    () =>
      new (class extends ReferenceDevice {
        override matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
          super.matmul(a, b, out, { ...options, alpha: (options?.alpha ?? 1) * (1 + 2 ** -12) });
        }
      })(),
  ],
  [
    "cuts the number of a stream short",
    /random: uniform/,
    () =>
      new (class extends ReferenceDevice {
        override random(kind: "uniform" | "normal", key: RandomKey, out: View): void {
          super.random(kind, { ...key, stream: key.stream & 0xffff }, out);
        }
      })(),
  ],
  [
    "drops by place in the batch",
    /dropout: a row loses the same/,
    () =>
      new (class extends ReferenceDevice {
        override dropout(x: View, rows: View, p: number, key: RandomKey, out: View): void {
          this.array(rows).forEach((_, i, array) => {
            array[i] = i;
          });
          super.dropout(x, rows, p, key, out);
        }
      })(),
  ],
  [
    "draws another mask for the gradient",
    /lowRankBackward/,
    () =>
      new (class extends ReferenceDevice {
        override lowRankBackward(args: LowRankArgs, gradients: LowRankGradients): void {
          const { dropout } = args;
          const other = dropout && { ...dropout, key: { ...dropout.key, stream: 0 } };
          super.lowRankBackward({ ...args, dropout: other }, gradients);
        }
      })(),
  ],
  [
    "scales a low-rank change twice",
    /lowRank: every size/,
    () =>
      new (class extends ReferenceDevice {
        override lowRank(args: LowRankArgs, out: View): void {
          super.lowRank({ ...args, scaling: args.scaling ** 2 }, out);
        }
      })(),
  ],
  [
    "reads the gate after overwriting it",
    /swiglu/,
    () =>
      new (class extends ReferenceDevice {
        override swigluBackward(grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
          super.swigluBackward(grad, gate, up, gradGate, gradUp);
          if (gate === gradGate) super.swigluBackward(grad, gate, up, gate, gradUp);
        }
      })(),
  ],
  [
    "adds repeated rows once",
    /scatterRows/,
    () =>
      new (class extends ReferenceDevice {
        override scatterRows(src: View, index: View, out: View): void {
          super.scatterRows(src, index, out, "set");
        }
      })(),
  ],
  [
    "rotates pairs the wrong way back",
    /rope/,
    () =>
      new (class extends ReferenceDevice {
        override rope(x: View, positions: View, frequencies: View, _inverse: boolean, out: View): void {
          super.rope(x, positions, frequencies, false, out);
        }
      })(),
  ],
  [
    "forgets eps",
    /rmsNorm: values/,
    () =>
      new (class extends ReferenceDevice {
        override rmsNorm(x: View, weight: View, _eps: number, out: View, rstd: View): void {
          super.rmsNorm(x, weight, 0, out, rstd);
        }
      })(),
  ],
  [
    "adds to the norm's weight gradient instead of setting it",
    /rmsNormBackward/,
    () =>
      new (class extends ReferenceDevice {
        override rmsNormBackward(g: View, x: View, w: View, rstd: View, gradX?: View, gradW?: View): void {
          const before = gradW && Float64Array.from(this.array(gradW));
          super.rmsNormBackward(g, x, w, rstd, gradX, gradW);
          before?.forEach((value, i) => {
            this.array(gradW!)[i] += value;
          });
        }
      })(),
  ],
  [
    "lets the first query see one key less",
    /attention: every arrangement/,
    () =>
      new (class extends ReferenceDevice {
        override attention(q: View, k: View, v: View, o: AttentionOptions, out: View, lse: View | undefined): void {
          const segments = o.segments.map((s) => (s.keys > s.queries ? { ...s, key: s.key + 1, keys: s.keys - 1 } : s));
          super.attention(q, k, v, { ...o, segments }, out, lse);
        }
      })(),
  ],
  [
    "scales gradients of the loss by the mean",
    /linearCrossEntropy: loss and either/,
    () =>
      new (class extends ReferenceDevice {
        override linearCrossEntropy(args: LinearCrossEntropyArgs): void {
          super.linearCrossEntropy({ ...args, scale: { ...args.scale, strides: [0] } });
        }
      })(),
  ],
  [
    "decays by the gradient",
    /adamW/,
    () =>
      new (class extends ReferenceDevice {
        override adamW(args: AdamWArgs): void {
          super.adamW({ ...args, weightDecay: 0 });
        }
      })(),
  ],
  [
    "draws by thread",
    /threads/,
    (threads = 1) =>
      new (class extends ReferenceDevice {
        override random(kind: "uniform" | "normal", key: RandomKey, out: View): void {
          super.random(kind, { ...key, stream: threads }, out);
        }
      })(),
  ],
  [
    "hands out its own memory",
    /what was read does not change/,
    () =>
      new (class extends ReferenceDevice {
        override async read(storage: Storage): Promise<Uint8Array> {
          return this.bytes(storage);
        }
      })(),
  ],
];

describe("the conformance suite finds a device that", () => {
  for (const [fault, foundBy, make] of FAULTS) {
    const device = make();
    afterAll(() => device.dispose());
    test(fault, async () => {
      const found = DEVICE_TESTS.filter((t) => foundBy.test(t.name));
      expect(found.length).toBeGreaterThan(0);
      const bench = { device, bounds: { product: 4e-6 }, again: async (threads: number) => make(threads) };
      let failed = 0;
      for (const { run } of found) await run(bench).catch(() => failed++);
      expect(failed).toBeGreaterThan(0);
    });
  }
});

test("names of device tests are unique", () => {
  const names = DEVICE_TESTS.map((t) => t.name);
  expect(new Set(names).size).toBe(names.length);
});
