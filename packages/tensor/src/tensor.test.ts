import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ReferenceDevice } from "./devices/reference/index.ts";
import {
  arange,
  cat,
  DTypeError,
  dropout,
  embedding,
  full,
  IndexError,
  linear,
  matmul,
  ones,
  rand,
  ShapeError,
  stack,
  Tensor,
  TensorError,
  tensor,
  where,
  zeros,
} from "./index.ts";
import { viewStrides } from "./ops/views.ts";
import { broadcastShapes, broadcastStrides, contiguousStrides, isContiguous, type Shape, sizeOf } from "./shape.ts";

/** The plain model that views are compared with: a shape, and its elements in row-major order. */
interface Dense {
  readonly shape: Shape;
  readonly at: (index: readonly number[]) => number;
}

function elements({ shape, at }: Dense): number[] {
  const out: number[] = [];
  const visit = (index: number[]): void => {
    if (index.length === shape.length) out.push(at(index));
    else for (let i = 0; i < shape[index.length]; i++) visit([...index, i]);
  };
  visit([]);
  return out;
}
function dense(shape: Shape, values: readonly number[]): Dense {
  const strides = contiguousStrides(shape);
  return { shape, at: (index) => values[index.reduce((n, i, d) => n + i * strides[d], 0)] };
}

async function same(t: Tensor, model: Dense): Promise<void> {
  expect(t.shape).toEqual([...model.shape]);
  expect([...(await t.data())]).toEqual(elements(model));
}

/** One step on both: returns undefined where it does not apply. */
type Step = (t: Tensor, m: Dense) => readonly [Tensor, Dense] | undefined;

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.nat().map(
    (k): Step =>
      (t, m) => {
        if (t.rank < 2) return undefined;
        const order = m.shape.map((_, d) => (d + 1 + (k % (t.rank - 1))) % t.rank);
        const shape = order.map((d) => m.shape[d]);
        return [t.permute(...order), { shape, at: (index) => m.at(m.shape.map((_, d) => index[order.indexOf(d)])) }];
      },
  ),
  fc
    .tuple(
      fc.nat(),
      fc.integer({ min: -5, max: 5 }),
      fc.option(fc.integer({ min: -5, max: 5 })),
      fc.integer({ min: 1, max: 3 }),
    )
    .map(
      ([d, start, end, step]): Step =>
        (t, m) => {
          if (t.rank === 0) return undefined;
          const dim = d % t.rank;
          const kept = Array.from({ length: m.shape[dim] }, (_, i) => i).slice(start, end ?? undefined);
          const picked = kept.filter((_, i) => i % step === 0);
          const shape = m.shape.map((n, at) => (at === dim ? picked.length : n));
          return [
            t.slice(dim, start, end ?? undefined, step),
            { shape, at: (index) => m.at(index.map((i, at) => (at === dim ? picked[i] : i))) },
          ];
        },
    ),
  fc.nat().map(
    (k): Step =>
      (t, m) => {
        const shapes = [
          [t.size],
          [1, t.size],
          [...m.shape, 1],
          [1, ...m.shape],
          m.shape.filter((n) => n !== 1),
          [...m.shape].reverse(),
        ];
        const shape = shapes[k % shapes.length];
        return [t.reshape(...shape), dense(shape, elements(m))];
      },
  ),
  fc.nat().map(
    (k): Step =>
      (t, m) => {
        const dim = m.shape.indexOf(1);
        if (dim < 0) return undefined;
        const shape = m.shape.map((n, d) => (d === dim ? k % 4 : n));
        return [t.expand(...shape), { shape, at: (index) => m.at(index.map((i, d) => (d === dim ? 0 : i))) }];
      },
  ),
  fc.nat().map(
    (k): Step =>
      (t, m) => {
        if (t.rank === 0 || m.shape[k % t.rank] === 0) return undefined;
        const dim = k % t.rank;
        const i = (k >> 3) % m.shape[dim];
        const shape = m.shape.filter((_, d) => d !== dim);
        return [t.select(dim, i), { shape, at: (index) => m.at([...index.slice(0, dim), i, ...index.slice(dim)]) }];
      },
  ),
);

const shapes = fc.array(fc.nat(4), { maxLength: 4 });

describe("views", () => {
  test("any chain of them shows the elements that the plain model has", async () => {
    await fc.assert(
      fc.asyncProperty(shapes, fc.array(steps, { maxLength: 6 }), async (shape, chain) => {
        const values = Array.from({ length: sizeOf(shape) }, (_, i) => i);
        let [t, m]: readonly [Tensor, Dense] = [Tensor.from(values, shape), dense(shape, values)];
        for (const step of chain) [t, m] = step(t, m) ?? [t, m];
        await same(t, m);
        await same(t.mul(2), { ...m, at: (index) => 2 * m.at(index) });
      }),
      { numRuns: 300, seed: 6 },
    );
  });

  test("a reshape is a view exactly where strides can say it", () => {
    fc.assert(
      fc.property(shapes, fc.nat(), fc.array(fc.nat(3), { maxLength: 3 }), (shape, k, cut) => {
        const order = shape.map((_, d) => (d + k) % shape.length);
        const strides = order.map((d) => contiguousStrides(shape)[d]);
        const from = order.map((d) => shape[d]);
        const target = [...cut.map(() => 1), ...from.filter((n) => n !== 1)];
        const found = viewStrides(from, strides, target);
        // Leaving out and adding ones never needs a copy.
        expect(found).toBeDefined();
        expect(found!.length).toBe(target.length);
        const flat = viewStrides(from, strides, [sizeOf(from)]);
        if (isContiguous(from, strides)) expect(flat).toBeDefined();
      }),
      { numRuns: 500, seed: 7 },
    );
    expect(viewStrides([2, 3], [1, 2], [6])).toBeUndefined();
    expect(viewStrides([4, 6], [12, 2], [4, 2, 3])).toEqual([12, 6, 2]);
    expect(viewStrides([4, 6], [12, 2], [24])).toEqual([2]);
    expect(viewStrides([4, 6], [13, 2], [24])).toBeUndefined();
    const x = zeros([4, 6]);
    expect(x.reshape(2, -1).storage).toBe(x.storage);
    expect(x.T.reshape(24).storage).not.toBe(x.storage);
  });
});

describe("broadcasting", () => {
  test("is the plain model's, for every pair of shapes that agree", async () => {
    const pair = shapes.chain((shape) =>
      fc.tuple(fc.constant(shape), fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), fc.nat(4)),
    );
    await fc.assert(
      fc.asyncProperty(pair, async ([shape, ones, dropped]) => {
        const other = shape.map((n, d) => (ones[d] ? 1 : n)).slice(Math.min(dropped, shape.length));
        const joined = broadcastShapes("test", shape, other);
        const [a, b] = [shape, other].map((s, k) =>
          dense(
            s,
            Array.from({ length: sizeOf(s) }, (_, i) => i + 100 * k),
          ),
        );
        const read = (m: Dense, index: readonly number[]): number =>
          m.at(index.slice(index.length - m.shape.length).map((i, d) => (m.shape[d] === 1 ? 0 : i)));
        const sum = Tensor.from(elements(a), shape).sub(Tensor.from(elements(b), other));
        await same(sum, { shape: joined, at: (index) => read(a, index) - read(b, index) });
      }),
      { numRuns: 300, seed: 8 },
    );
  });

  test("refuses shapes that do not agree, and repeats by stride 0", () => {
    expect(() => tensor([1, 2]).add(tensor([1, 2, 3]))).toThrow(ShapeError);
    expect(() => tensor([1, 2]).add(tensor([1, 2, 3]))).toThrow("[add] shapes do not broadcast: [2] and [3]");
    expect(broadcastStrides([3, 1], [1, 1], [2, 3, 4])).toEqual([0, 1, 0]);
  });
});

describe("making tensors", () => {
  test("from nested numbers, typed arrays and shapes", async () => {
    expect(
      await tensor([
        [1, 2],
        [3, 4],
      ]).tolist(),
    ).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(await tensor(5).tolist()).toBe(5);
    expect(tensor([]).shape).toEqual([0]);
    expect(tensor([[], []]).shape).toEqual([2, 0]);
    expect(await tensor([[[1]], [[2]]]).tolist()).toEqual([[[1]], [[2]]]);
    expect(await tensor(Float64Array.of(1, 2, 3, 4), { shape: [2, 2] }).tolist()).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(await tensor(Uint16Array.of(0x3f80), { dtype: "bf16" }).tolist()).toEqual([1]);
    expect(await full([2], 3).tolist()).toEqual([3, 3]);
    expect(await ones([1], { dtype: "i32" }).tolist()).toEqual([1]);
    expect([...(await arange(4).data())]).toEqual([0, 1, 2, 3]);
  });

  test("a test has no part in the type of what it chooses; a number takes the other side's, if it can", async () => {
    const [test, whole] = [tensor([1, 0]), tensor([3, 4], { dtype: "i32" })];
    expect(where(test, whole, whole.mul(2)).dtype).toBe("i32");
    expect(await where(test, whole, 7).tolist()).toEqual([3, 7]);
    expect(where(test, whole, 7).dtype).toBe("i32");
    expect(await where(test, whole, 0.5).tolist()).toEqual([3, 0.5]);
    expect(await where(test.to("i32"), 0.5, 1).tolist()).toEqual([0.5, 1]);
    expect(whole.maskedFill(test, 9).dtype).toBe("i32");
    expect(await whole.maskedFill(test, 0.5).tolist()).toEqual([0.5, 4]);
    expect(tensor([1, 2]).maskedFill(test.to("f64"), 0).dtype).toBe("f32");
  });

  test("whole numbers stay whole numbers where they can", async () => {
    const x = tensor([1, 2, 3], { dtype: "i32" });
    expect([x.add(1).dtype, x.mul(x).dtype, x.sum().dtype, x.lt(2).dtype]).toEqual(["i32", "i32", "i32", "i32"]);
    expect([x.add(0.5).dtype, x.div(1).dtype, x.exp().dtype, x.mean().dtype]).toEqual(["f32", "f32", "f32", "f32"]);
    expect(await x.div(2).tolist()).toEqual([0.5, 1, 1.5]);
    expect(await x.mean().item()).toBe(2);
  });

  test("bf16 is kept in tensors, computed with in f32, and read as numbers or bits", async () => {
    const x = tensor([1, 1.004], { dtype: "bf16" });
    expect(x.add(x).dtype).toBe("f32");
    expect(await x.tolist()).toEqual([1, 1.0078125]);
    expect([...(await x.bytes())]).toEqual([0x80, 0x3f, 0x81, 0x3f]);
    expect([...(await x.slice(0, 1).bytes())]).toEqual([0x81, 0x3f]);
  });

  test("what data() gives is the caller's own", async () => {
    const x = tensor([1, 2]);
    (await x.data())[0] = 9;
    expect(await x.tolist()).toEqual([1, 2]);
  });
});

describe("values", () => {
  test("argmax takes the first of the largest, and a NaN before all", async () => {
    const rows = [
      [1, 3, 3],
      [-1, -2, -1],
      [Number.NaN, Infinity, 5],
      [2, Number.NaN, Number.NaN],
    ];
    expect(await tensor(rows).argmax().tolist()).toEqual([1, 0, 0, 1]);
    expect(await tensor(rows).T.argmax().tolist()).toEqual([2, 3, 3]);
  });

  test("dimensions of size 1 may have any stride", () => {
    expect(isContiguous([1, 3], [99, 1])).toBe(true);
    expect(isContiguous([2, 3], [99, 1])).toBe(false);
    const row = zeros([4, 3]).slice(0, 1, 2);
    expect(row.contiguous()).toBe(row);
  });
});

describe("errors name what is wrong", () => {
  const x = zeros([2, 3]);
  const index = tensor([0, 5], { dtype: "i32" });
  const f64 = zeros([2, 3], { dtype: "f64" });
  const cases: [run: () => unknown, type: typeof TensorError, sentence: string][] = [
    [() => tensor([[1, 2], [3]]), ShapeError, "[tensor] nested arrays have unequal lengths"],
    [() => tensor([1, [2]]), ShapeError, "[tensor] nested arrays have unequal lengths"],
    [() => tensor([[1], 2]), ShapeError, "[tensor] nested arrays have unequal depths"],
    [() => Tensor.from([1, 2], [3]), ShapeError, "[tensor] 2 numbers do not fill a tensor of shape [3]"],
    [() => zeros([-1]), ShapeError, "[empty] not a shape: [-1]"],
    [() => zeros([1.5]), ShapeError, "[empty] not a shape: [1.5]"],
    [() => Tensor.map(new Uint8Array(7), [2], "f32"), ShapeError, "[map] 7 bytes are not a f32 tensor of shape [2]"],
    [() => matmul(x, x), ShapeError, "[matmul] inner sizes differ: [2,3] × [2,3]"],
    [() => matmul(zeros([]), x), ShapeError, "[matmul] needs matrices: [] × [2,3]"],
    [() => matmul(x, f64.T), DTypeError, "[matmul] element types do not go together: f32 × f64"],
    [() => matmul(x.to("bf16"), x.T), DTypeError, "[matmul] the left side must be f32 or f64, not bf16; use to('f32')"],
    [() => linear(x, zeros([4, 2])), ShapeError, "[linear] input [2,3] does not fit a weight of [4,2] (out, in)"],
    [
      () => linear(x, zeros([4, 3]), zeros([3])),
      ShapeError,
      "[linear] bias [3] does not fit a weight of [4,3] (out, in)",
    ],
    [
      () => linear(x, zeros([4, 3]), zeros([4], { dtype: "bf16" })),
      DTypeError,
      "[linear] the bias must be f32 as the input, not bf16; use to('f32')",
    ],
    [() => x.reshape(4), ShapeError, "[reshape] [2,3] does not reshape to [4]"],
    [() => x.reshape(-1, -1), ShapeError, "[reshape] [2,3] does not reshape to [-1,-1]"],
    [() => x.permute(0, 0), ShapeError, "[permute] [0,0] does not name each dimension of [2,3] once"],
    [() => x.sum(2), ShapeError, "[sum] dimension 2 is outside a tensor of 2 dimensions"],
    [() => x.expand(2, 4), ShapeError, "[expand] shapes do not broadcast: [2,3] and [2,4]"],
    [() => x.expand(3), ShapeError, "[expand] [2,3] does not expand to [3]"],
    [() => x.expand(-1, 2, 3), ShapeError, "[expand] not a shape: [-1,2,3]"],
    [() => x.squeeze(0), ShapeError, "[squeeze] dimension 0 of [2,3] is not 1"],
    [() => x.select(1, 3), ShapeError, "[select] index 3 is outside dimension 1 of [2,3]"],
    [() => x.select(1, 0.5), ShapeError, "[select] index 0.5 is outside dimension 1 of [2,3]"],
    [() => x.slice(0, 0, 1, 0), ShapeError, "[slice] the step must be a whole number above 0, not 0"],
    [() => x.slice(0, 0.5), ShapeError, "[slice] start and end must be whole numbers, not 0.5 and undefined"],
    [() => cat([x, zeros([2, 2])]), ShapeError, "[cat] along dimension 0, [2,2] f32 does not fit [2,3] f32"],
    [() => cat([]), ShapeError, "[cat] nothing to join"],
    [() => stack([x, zeros([2, 2])]), ShapeError, "[stack] shapes differ: [2,3] and [2,2]"],
    [() => zeros([0]).amax(), ShapeError, "[amax] dimension 0 of [0] is empty"],
    [() => zeros([2, 0]).argmax(), ShapeError, "[argmax] the last dimension of [2,0] is empty"],
    [() => embedding(x, zeros([2])), DTypeError, "[embedding] indices must be i32, not f32; use to('i32')"],
    [() => embedding(x, index), IndexError, "[embedding] index 5 is outside of the rows of a table of [2,3]"],
    [
      () => dropout(x, 1, { seed: [0, 0], stream: 0 }),
      TensorError,
      "[dropout] the rate must be at least 0 and below 1, not 1",
    ],
    [
      () => rand([1], { seed: [0, 0], stream: 0 }, { dtype: "i32" }),
      DTypeError,
      "[random] random numbers are f32 or f64",
    ],
    [() => where(x, x, zeros([3, 3])), ShapeError, "[where] shapes do not broadcast: [2,3] and [2,3] and [3,3]"],
  ];
  for (const [run, type, sentence] of cases) {
    test(sentence, () => {
      expect(run).toThrow(type);
      expect(run).toThrow(new Error(sentence));
    });
  }

  test("item() of several elements", async () => {
    await expect(x.item()).rejects.toThrow("[item] a tensor of shape [2,3] is not one number");
  });

  test("tensors on two devices, or a type that a device lacks", () => {
    const other = new (class extends ReferenceDevice {
      override readonly info = { name: "other", isa: "js", threads: 1 };
      override readonly dtypes = ["f32" as const];
    })();
    expect(() => x.add(zeros([2, 3], { device: other }))).toThrow("[add] tensors on two devices: reference and other");
    expect(() => zeros([1], { device: other, dtype: "f64" })).toThrow("[empty] device other has no f64");
    expect(() => Tensor.map(new Uint8Array(8), [1], "f64", other)).toThrow("[map] device other has no f64");
  });
});
