// Indexing, order and sums of products against plain models of them; what is out of place is refused.
import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { View } from "../devices/device.ts";
import { ReferenceDevice } from "../devices/reference/index.ts";
import {
  argsort,
  at,
  createDevice,
  crossEntropy,
  DTypeError,
  einsum,
  embedding,
  type Index,
  IndexError,
  indexSelect,
  maskedSelect,
  type Nested,
  nllLoss,
  nonzero,
  type Range,
  reference,
  ShapeError,
  sort,
  Tensor,
  TensorError,
  tensor,
  zeros,
} from "../index.ts";
import { type Shape, sizeOf } from "../shape.ts";

const cpu = await createDevice("cpu", { threads: 1 });
afterAll(() => cpu.dispose());
const DEVICES = [reference, cpu];

const numbered = (shape: Shape): Tensor =>
  Tensor.from(
    Array.from({ length: sizeOf(shape) }, (_, i) => i),
    shape,
  );
const i32 = (values: Nested): Tensor => tensor(values, { dtype: "i32" });

describe("at", () => {
  /** Python's slicing of a list. */
  function sliced<T>(list: readonly T[], start: number | "", end: number | "", step: number): T[] {
    const n = list.length;
    const clamp = (i: number, low: number, high: number): number => Math.min(high, Math.max(low, i < 0 ? i + n : i));
    const out: T[] = [];
    if (step > 0) {
      const last = end === "" ? n : clamp(end, 0, n);
      for (let i = start === "" ? 0 : clamp(start, 0, n); i < last; i += step) out.push(list[i]);
    } else {
      const last = end === "" ? -1 : clamp(end, -1, n - 1);
      for (let i = start === "" ? n - 1 : clamp(start, -1, n - 1); i > last; i += step) out.push(list[i]);
    }
    return out;
  }
  const bound = fc.oneof(fc.constant("" as const), fc.integer({ min: -7, max: 7 }));
  const range = fc.tuple(
    bound,
    bound,
    fc.integer({ min: -3, max: 3 }).filter((step) => step !== 0),
  );

  test("any ranges give what Python's do", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(5),
        fc.integer({ min: 1, max: 4 }),
        range,
        range,
        async (rows, columns, first, second) => {
          const x = numbered([rows, columns]);
          const list = (await x.tolist()) as number[][];
          const want = sliced(list, ...first).map((row) => sliced(row, ...second));
          const [a, b] = [first, second].map(([start, end, step]): Range => `${start}:${end}:${step}`);
          const got = x.at(a, b);
          expect(got.shape).toEqual([want.length, sliced(Array(columns).fill(0), ...second).length]);
          expect(await got.tolist()).toEqual(want);
        },
      ),
      { numRuns: 300, seed: 1 },
    );
  });

  test("numbers, new dimensions and an ellipsis have their places", () => {
    const x = numbered([2, 3, 4, 5]);
    const shapes: [readonly Index[], Shape][] = [
      [[], [2, 3, 4, 5]],
      [["..."], [2, 3, 4, 5]],
      [
        [1, "..."],
        [3, 4, 5],
      ],
      [
        ["...", 1],
        [2, 3, 4],
      ],
      [
        [1, "...", -1],
        [3, 4],
      ],
      [
        [null, "...", null],
        [1, 2, 3, 4, 5, 1],
      ],
      [
        [0, null, "1:", "..."],
        [1, 2, 4, 5],
      ],
      [[0, 0, 0, 0], []],
      [[0, 1, 2, 3, "..."], []],
    ];
    for (const [index, shape] of shapes) expect(at(x, ...index).shape).toEqual(shape);
  });

  test("ranges and numbers are views", () => {
    const x = numbered([4, 3]);
    expect(x.at("1:3", -1).storage).toBe(x.storage);
    expect(x.at("::-1").storage).not.toBe(x.storage);
  });

  test("a tensor picks, from the end too; its gradient adds up", async () => {
    const x = numbered([2, 3]);
    x.requiresGrad = true;
    const picked = x.at(":", i32([[-1, 0, -1]]));
    expect(await picked.tolist()).toEqual([[[2, 0, 2]], [[5, 3, 5]]]);
    picked.sum().backward();
    expect(await x.grad?.tolist()).toEqual([
      [1, 0, 2],
      [1, 0, 2],
    ]);
  });

  const x = numbered([2, 3]);
  const wrong: [readonly Index[], typeof TensorError, string][] = [
    [[0, 0, 0], ShapeError, "[at] [0, 0, 0] names 3 dimensions of [2,3]"],
    [["...", 0, "..."], ShapeError, "[at] [..., 0, ...] has more than one ellipsis"],
    [[2], ShapeError, "[at] [2] is outside of [2,3]"],
    [[":", -4], ShapeError, "[at] [:, -4] is outside of [2,3]"],
    [["::0"], ShapeError, '[at] the step of "::0" is 0'],
    [["0.5:" as Range], ShapeError, '[at] "0.5:" is no range; write "start:end" or "start:end:step" in whole numbers'],
    [["1" as Range], ShapeError, '[at] "1" is no range; write "start:end" or "start:end:step" in whole numbers'],
    [[i32([0]), i32([0])], ShapeError, "[at] [[1], [1]] has more than one tensor; use gather, or at() twice"],
    [[tensor([0])], DTypeError, "[at] a tensor of indices must be i32, not f32; use to('i32')"],
    [[i32([2])], IndexError, "[indexSelect] index 2 is outside of dimension 0 of [2,3]"],
  ];
  for (const [index, type, message] of wrong) {
    test(message, () => {
      expect(() => x.at(...index)).toThrow(type);
      expect(() => x.at(...index)).toThrow(new Error(message));
    });
  }
});

describe("what the values decide", () => {
  test("nonzero gives places, maskedSelect elements and their gradient", async () => {
    const x = tensor(
      [
        [0, 2, 0],
        [3, 0, -1],
      ],
      { requiresGrad: true },
    );
    expect(await (await nonzero(x)).tolist()).toEqual([
      [0, 1],
      [1, 0],
      [1, 2],
    ]);
    expect((await nonzero(zeros([2, 2]))).shape).toEqual([0, 2]);
    const taken = await maskedSelect(x, tensor([1, 0, 1]));
    expect(await taken.tolist()).toEqual([0, 0, 3, -1]);
    taken
      .mul(tensor([1, 2, 3, 4]))
      .sum()
      .backward();
    expect(await x.grad?.tolist()).toEqual([
      [1, 0, 2],
      [3, 0, 4],
    ]);
  });
});

describe("an index that is in no row is an error of its operation", () => {
  for (const device of DEVICES) {
    const make = (values: Nested): Tensor => tensor(values, { dtype: "i32", device });
    const x = zeros([2, 3], { device });
    const cases: [name: string, run: () => unknown, message: string][] = [
      ["embedding", () => embedding(x, make([5])), "[embedding] index 5 is outside of the rows of a table of [2,3]"],
      ["indexSelect", () => indexSelect(x, 1, make([-1])), "[indexSelect] index -1 is outside of dimension 1 of [2,3]"],
      ["gather", () => x.gather(1, make([[3]])), "[gather] an index is outside of dimension 1 of [2,3]"],
      ["gather, negative", () => x.gather(0, make([[-1]])), "[gather] an index is outside of dimension 0 of [2,3]"],
      [
        "scatter",
        () => x.scatter(0, make([[2]]), zeros([1, 1], { device })),
        "[scatter] an index is outside of dimension 0 of [2,3]",
      ],
      ["crossEntropy", () => crossEntropy(x, make([0, 3])), "[crossEntropy] a target is outside of 3 classes"],
      ["nllLoss", () => nllLoss(x, make([0, 100])), "[nllLoss] a target is outside of 3 classes"],
    ];
    for (const [name, run, message] of cases) {
      test(`${name} on ${device.info.name}`, () => {
        expect(run).toThrow(IndexError);
        expect(run).toThrow(new Error(message));
      });
    }
  }
});

test("where no device looks, a target beyond the classes makes the loss NaN, not a number that looks like one", async () => {
  /** Takes the nearest row instead of looking, as a GPU does. */
  class Careless extends ReferenceDevice {
    override gatherRows(table: View, index: View, out: View): void {
      const numbers = (index.storage.handle as Uint8Array).slice();
      const rows = new Int32Array(numbers.buffer);
      for (let i = 0; i < rows.length; i++) rows[i] = Math.min(table.shape[0] - 1, Math.max(0, rows[i]));
      const near = Tensor.from(rows, [rows.length], { dtype: "i32", device: this });
      super.gatherRows(table, { ...index, storage: near.storage, offset: index.offset }, out);
    }
  }
  const device = new Careless();
  const logits = tensor([[1, 2, 3]], { device });
  const target = (i: number): Tensor => tensor([i], { dtype: "i32", device });
  expect(await crossEntropy(logits, target(3)).item()).toBeNaN();
  expect(await crossEntropy(logits, target(2)).item()).toBeCloseTo(0.4076, 4);
  expect(await crossEntropy(logits, target(-1), { reduction: "sum" }).item()).toBe(0);
});

describe("order", () => {
  const value = fc.oneof(
    fc.integer({ min: -3, max: 3 }),
    fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
  );
  /** NaN is larger than all. */
  const compare = (a: number, b: number): number =>
    Number.isNaN(a) ? (Number.isNaN(b) ? 0 : 1) : Number.isNaN(b) ? -1 : a === b ? 0 : a - b;

  for (const device of DEVICES) {
    test(`is that of a stable sort, on ${device.info.name}`, async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(value, { maxLength: 70 }), fc.boolean(), async (list, descending) => {
          const places = list.map((_, i) => i);
          places.sort((i, j) => (descending ? compare(list[j], list[i]) : compare(list[i], list[j])));
          const x = Tensor.from(list, [list.length], { device });
          expect([...(await argsort(x, 0, { descending }).data())]).toEqual(places);
        }),
        { numRuns: 60, seed: 2 },
      );
    });
  }

  test("whole numbers beyond f32's, and the ends of their type", async () => {
    const list = [2 ** 24 + 1, 2 ** 24, 2 ** 31 - 1, -(2 ** 31), 2 ** 24 + 2];
    expect(await sort(i32(list)).values.tolist()).toEqual(list.toSorted((a, b) => a - b));
    expect(await sort(i32(list), 0, { descending: true }).values.tolist()).toEqual(list.toSorted((a, b) => b - a));
  });

  test("a number alone, rows of one, no rows", async () => {
    expect(await sort(tensor(3)).values.tolist()).toEqual(3);
    expect(await sort(tensor([[3]])).indices.tolist()).toEqual([[0]]);
    expect(sort(zeros([0, 4])).values.shape).toEqual([0, 4]);
    expect(sort(zeros([4, 0])).values.shape).toEqual([4, 0]);
  });

  for (const device of DEVICES) {
    test(`the first of long rows are those of a stable sort, on ${device.info.name}`, async () => {
      const [rows, n] = [3, 9000];
      const values = Float32Array.from({ length: rows * n }, (_, i) => ((i * 7919) % 4001) - 2000);
      values[17] = Number.NaN;
      values[n + 5000] = Number.NEGATIVE_INFINITY;
      const x = Tensor.from(values, [rows, n], { device });
      for (const [k, largest] of [
        [1, true],
        [50, true],
        [70, false],
        [300, false],
      ] as const) {
        const got = (await x.topk(k, 1, largest).indices.tolist()) as number[][];
        for (let r = 0; r < rows; r++) {
          const row = values.subarray(r * n, (r + 1) * n);
          const places = Array.from(row, (_, i) => i);
          places.sort((i, j) => (largest ? compare(row[j], row[i]) : compare(row[i], row[j])));
          expect(got[r]).toEqual(places.slice(0, k));
        }
      }
    });
  }

  test("what fills up a long row never comes before its elements", async () => {
    const row = (value: number): Tensor => Tensor.from(new Float32Array(3000).fill(value), [3000]);
    const first = Array.from({ length: 60 }, (_, i) => i);
    expect(await row(Number.NEGATIVE_INFINITY).topk(60).indices.tolist()).toEqual(first);
    expect(await row(Number.NaN).topk(60, 0, false).indices.tolist()).toEqual(first);
  });

  test("topk and its limits", async () => {
    const x = tensor([1, 4, 2, 4]);
    expect(await x.topk(2).indices.tolist()).toEqual([1, 3]);
    expect(x.topk(0).values.shape).toEqual([0]);
    expect(() => x.topk(5)).toThrow("[topk] dimension -1 of [4] has no 5 elements");
  });
});

describe("einsum", () => {
  /** By the definition: a loop over every index. */
  async function slow(inputs: readonly string[], output: string, tensors: readonly Tensor[]): Promise<number[]> {
    const sizes: Record<string, number> = {};
    inputs.forEach((names, t) => {
      [...names].forEach((name, d) => {
        sizes[name] = tensors[t].shape[d];
      });
    });
    const names = [...output, ...Object.keys(sizes).filter((name) => !output.includes(name))];
    const shape = [...output].map((name) => sizes[name]);
    const out = new Array<number>(sizeOf(shape)).fill(0);
    const data = await Promise.all(tensors.map((t) => t.data()));
    const visit = (index: Record<string, number>): void => {
      const next = names[Object.keys(index).length];
      if (next !== undefined) {
        for (let i = 0; i < sizes[next]; i++) visit({ ...index, [next]: i });
        return;
      }
      const place = (list: string): number => [...list].reduce((sum, name) => sum * sizes[name] + index[name], 0);
      out[place(output)] += inputs.reduce((product, list, t) => product * data[t][place(list)], 1);
    };
    visit({});
    return out;
  }

  test("any expression is what the definition says", async () => {
    const letters = fc.constantFrom(..."abcd");
    const operand = fc.array(letters, { minLength: 1, maxLength: 3 }).map((list) => list.join(""));
    const expression = fc.record({
      operands: fc.array(operand, { minLength: 1, maxLength: 3 }),
      sizes: fc.tuple(...[..."abcd"].map(() => fc.integer({ min: 1, max: 3 }))),
      keep: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
      turn: fc.nat(3),
      whole: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(expression, async ({ operands, sizes, keep, turn, whole }) => {
        const used = [..."abcd"].filter((name) => operands.some((list) => list.includes(name)));
        const kept = used.filter((_, i) => keep[i]);
        const output = [...kept.slice(turn), ...kept.slice(0, turn)].join("");
        const tensors = operands.map((list, t) => {
          const shape = [...list].map((name) => sizes["abcd".indexOf(name)]);
          const values = Array.from({ length: sizeOf(shape) }, (_, i) => ((7 * i + 3 * t) % 11) - 5);
          return Tensor.from(values, shape, { dtype: whole ? "i32" : "f64" });
        });
        const got = einsum(`${operands.join(",")}->${output}`, ...tensors);
        expect(got.shape).toEqual([...output].map((name) => sizes["abcd".indexOf(name)]));
        expect([...(await got.data())].map((v) => v + 0)).toEqual(
          (await slow(operands, output, tensors)).map((v) => v + 0),
        );
      }),
      { numRuns: 300, seed: 3 },
    );
  });

  const [a, b] = [zeros([2, 3]), zeros([4, 5])];
  const wrong: [string, Tensor[], string][] = [
    ["ij,jk->ik", [a, b], '[einsum] "ij,jk->ik" gives "j" the sizes 3 and 4: [2,3], [4,5]'],
    ["ij->", [a, b], '[einsum] "ij->" needs one part for each of 2 tensors, and at most one "->": [2,3], [4,5]'],
    ["ijk", [a], '[einsum] "ijk" part "ijk" does not fit its tensor: [2,3]'],
    ["i1", [a], '[einsum] "i1" part "i1" does not fit its tensor: [2,3]'],
    ["ij->ik", [a], '[einsum] "ij->ik" has "k" in its result, which must stand there once and in a part: [2,3]'],
    ["ij->ii", [a], '[einsum] "ij->ii" has "i" in its result, which must stand there once and in a part: [2,3]'],
    ["ii", [a], '[einsum] "ii" gives "i" the sizes 2 and 3: [2,3]'],
    ["ii", [zeros([1, 3])], '[einsum] "i" has two sizes in one tensor of [1,3]'],
  ];
  for (const [equation, tensors, message] of wrong) {
    test(message, () => {
      expect(() => einsum(equation, ...tensors)).toThrow(TensorError);
      expect(() => einsum(equation, ...tensors)).toThrow(new Error(message));
    });
  }
});
