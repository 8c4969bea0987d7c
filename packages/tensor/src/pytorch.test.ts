// Against PyTorch's numbers: fixtures/pytorch.json, written by fixtures/pytorch.py (run it again after a change there).
import { describe, expect, test } from "bun:test";
import fixture from "../fixtures/pytorch.json" with { type: "json" };
import {
  AdamW,
  attention,
  clipGradNorm,
  crossEntropy,
  embedding,
  fromBf16,
  linear,
  linearCrossEntropy,
  logSoftmax,
  matmul,
  rmsNorm,
  rope,
  schedule,
  scope,
  softmax,
  Tensor,
  tensor,
  toBf16,
} from "./index.ts";
import { type Shape, sizeOf } from "./shape.ts";

type Numbers = number | string | readonly Numbers[];

function flat(numbers: Numbers): number[] {
  if (typeof numbers === "string") return [{ nan: NaN, inf: Infinity, "-inf": -Infinity }[numbers] ?? NaN];
  return typeof numbers === "number" ? [numbers] : numbers.flatMap(flat);
}

async function near(t: Tensor | undefined, want: Numbers, tolerance = 1e-12): Promise<void> {
  if (!t) throw new Error("no tensor");
  const got = [...(await t.data())];
  const numbers = flat(want);
  expect(got.length).toBe(numbers.length);
  numbers.forEach((w, i) => {
    const same = Number.isFinite(w) ? Math.abs(got[i] - w) <= tolerance * (1 + Math.abs(w)) : Object.is(got[i], w);
    if (!same) throw new Error(`element ${i} is ${got[i]}, PyTorch has ${w}`);
  });
}

/** The numbers that pytorch.py's `fill` makes. */
function fill(shape: Shape, seed: number): Tensor {
  const values = Array.from({ length: sizeOf(shape) }, (_, i) => ((37 * i + 11 * seed) % 41) / 10 - 2);
  return Tensor.from(values, shape, { dtype: "f64" });
}
function leaf(shape: Shape, seed: number): Tensor {
  const t = fill(shape, seed);
  t.requiresGrad = true;
  return t;
}
const i32 = (values: number[]): Tensor => tensor(values, { dtype: "i32" });
const f64 = (values: number[], requiresGrad = false): Tensor => tensor(values, { dtype: "f64", requiresGrad });

/** Checks a result and, from the gradient `fill(result, seed)`, the gradients of its inputs. */
async function check(want: readonly Numbers[], seed: number, y: Tensor, ...inputs: Tensor[]): Promise<void> {
  await near(y, want[0]);
  y.backward(fill(y.shape, seed));
  for (const [i, x] of inputs.entries()) await near(x.grad, want[i + 1]);
}

const inf = Infinity;
const SPECIAL = [NaN, inf, -inf, 0, -0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 3, -3, 20, -20, 1e-9];

describe("elementwise, not finite values included", () => {
  for (const [name, want] of Object.entries(fixture.unary)) {
    test(name, async () => {
      const expected: Numbers[] = [...want];
      if (name === "sign") expected[0] = "nan"; // PyTorch's sign of NaN is 0; ours lets NaN through.
      await near(f64(SPECIAL)[name as "exp"](), expected);
    });
  }
  for (const [name, want] of Object.entries(fixture.binary)) {
    test(name, async () => {
      const a = f64(SPECIAL).unsqueeze(1);
      await near(a[name as "add"](f64(SPECIAL)).reshape(-1), want);
      for (const [i, b] of SPECIAL.entries()) {
        const column = want.filter((_, at) => at % SPECIAL.length === i);
        await near(f64(SPECIAL)[name as "add"](b), column);
      }
    });
  }
  test("bf16 rounds to nearest, ties to even", () => {
    const values = [1.00390625, 1.01171875, -1.00390625, 3.3895314e38, 1e-40, inf, NaN, 0.1, 65504];
    expect(values.map((x) => fromBf16(toBf16(x)))).toEqual(flat(fixture.bf16));
  });
});

describe("gradients where a function has a corner", () => {
  const other = (): Tensor => f64([0, 0, 1, 3], true);
  const kinks = (): Tensor => f64([-1, 0, 1, 2], true);
  for (const name of ["relu", "abs"] as const) {
    test(name, async () => {
      const x = kinks();
      x[name]().sum().backward();
      await near(x.grad, fixture.kinks[name][0]);
    });
  }
  for (const name of ["maximum", "minimum"] as const) {
    test(name, async () => {
      const [a, b] = [kinks(), other()];
      a[name](b).sum().backward();
      await near(a.grad, fixture.kinks[name][0]);
      await near(b.grad, fixture.kinks[name][1]);
    });
  }
  test("pow", async () => {
    const [base, exponent] = [f64([0, 0, 2], true), f64([0, 2, 0], true)];
    base.pow(exponent).sum().backward();
    await near(base.grad, fixture.kinks.pow[0]);
    await near(exponent.grad, fixture.kinks.pow[1]);
  });
  test("amax", async () => {
    const x = tensor(
      [
        [1, 3, 3],
        [2, 2, 2],
      ],
      { dtype: "f64", requiresGrad: true },
    );
    x.amax(1).sum().backward();
    await near(x.grad, fixture.kinks.amax[0]);
  });
});

describe("value and gradients of", () => {
  test("softmax and logSoftmax", async () => {
    for (const [y, want] of [
      [(x: Tensor) => softmax(x), fixture.softmax],
      [(x: Tensor) => logSoftmax(x, 0), fixture.logSoftmax],
    ] as const) {
      const x = leaf([3, 5], 1);
      await check(want, 2, y(x), x);
    }
  });
  test("crossEntropy, with a row that does not count", async () => {
    const x = leaf([3, 5], 1);
    const loss = crossEntropy(x, i32([4, -100, 0]));
    await near(loss, fixture.crossEntropy[0]);
    loss.backward();
    await near(x.grad, fixture.crossEntropy[1]);
  });
  test("matmul, with broadcast batches", async () => {
    const [a, b] = [leaf([2, 1, 3, 4], 3), leaf([5, 4, 2], 4)];
    await check(fixture.matmul, 5, matmul(a, b), a, b);
  });
  test("linear", async () => {
    const [x, w, b] = [leaf([2, 3, 4], 6), leaf([5, 4], 7), leaf([5], 8)];
    await check(fixture.linear, 9, linear(x, w, b), x, w, b);
  });
  test("rmsNorm", async () => {
    const [x, w] = [leaf([3, 6], 10), leaf([6], 11)];
    await check(fixture.rmsNorm, 12, rmsNorm(x, w, 1e-6), x, w);
  });
  test("rope", async () => {
    const x = leaf([3, 2, 6], 13);
    const frequencies = f64([0, 2, 4].map((i) => 10000 ** (-i / 6)));
    await check(fixture.rope, 14, rope(x, i32([0, 3, 1000]), frequencies), x);
  });
  test("attention, two sequences, the second with earlier keys, four heads over two", async () => {
    const [q, k, v] = [leaf([5, 4, 3], 15), leaf([7, 2, 3], 16), leaf([7, 2, 3], 17)];
    const segments = [
      { query: 0, queries: 2, key: 0, keys: 2 },
      { query: 2, queries: 3, key: 2, keys: 5 },
    ];
    await check(fixture.attention, 18, attention(q, k, v, segments), q, k, v);
  });
  test.each([
    ["", 0, fixture.linearCrossEntropy],
    [", labels smoothed", 0.3, fixture.labelSmoothing],
  ])("linearCrossEntropy, with a row that does not count%s", async (_, labelSmoothing, [value, toHidden, toHead]) => {
    const [hidden, head] = [leaf([4, 3], 19), leaf([6, 3], 20)];
    const [targets, scale] = [i32([5, -100, 0, 2]), f64([0.5, 2, 1, 0.25])];
    const loss = linearCrossEntropy(hidden, head, targets, scale, { labelSmoothing });
    await near(loss, value);
    loss.backward();
    await near(hidden.grad, toHidden);
    await near(head.grad, toHead);
  });
  test("embedding, one row picked twice", async () => {
    const table = leaf([4, 2], 21);
    const index = tensor(
      [
        [1, 1],
        [3, 0],
      ],
      { dtype: "i32" },
    );
    await check(fixture.embedding, 22, embedding(table, index), table);
  });
});

test("eight steps of AdamW with decay, clipping and a cosine schedule after warm-up", async () => {
  const params = [leaf([6, 3], 23), leaf([6], 24), leaf([2, 6], 25)];
  const [w1, b1, w2] = params;
  const data = fill([8, 3], 26);
  const labels = i32([0, 1, 1, 0, 1, 0, 0, 1]);
  const optimizer = new AdamW(params, { betas: [0.9, 0.99], weightDecay: 0.1 });
  const rate = schedule("cosine", { warmup: 2 / 8 });
  for (const [i, [wantLoss, wantNorm, wantRate]] of fixture.training.steps.entries()) {
    const loss = scope(() => {
      const value = crossEntropy(linear(linear(data, w1, b1).silu(), w2), labels);
      value.backward();
      return value;
    });
    await near(loss, wantLoss, 1e-9);
    const { norm, gradScale } = clipGradNorm(params, 0.5);
    await near(norm, wantNorm, 1e-9);
    expect(rate(i + 1, 8)).toBeCloseTo(wantRate, 12);
    optimizer.lr = 0.05 * rate(i + 1, 8);
    optimizer.step(gradScale);
    optimizer.zeroGrad();
  }
  for (const [i, p] of params.entries()) await near(p, fixture.training.params[i], 1e-8);
});
