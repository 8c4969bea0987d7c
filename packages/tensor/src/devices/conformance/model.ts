import { expect } from "bun:test";
import { IDENTITY } from "../../expr/program.ts";
import { decodeBlocks } from "../../quantized/decode.ts";
import type { Segment } from "../device.ts";
import { reference } from "../registry.ts";
import {
  agree,
  type Bench,
  blocks,
  type DeviceTest,
  type Layout,
  numbers,
  type Operand,
  operand,
  result,
  values,
  valuesOf,
} from "./harness.ts";

interface AttentionCase {
  queries: number;
  keys: number;
  heads: number;
  kvHeads: number;
  size: number;
  segments: readonly Segment[];
  layout?: Layout;
}

const segment = (query: number, queries: number, key: number, keys: number): Segment => ({ query, queries, key, keys });

const ATTENTION: readonly AttentionCase[] = [
  { queries: 1, keys: 1, heads: 1, kvHeads: 1, size: 4, segments: [segment(0, 1, 0, 1)] },
  { queries: 5, keys: 5, heads: 2, kvHeads: 2, size: 8, segments: [segment(0, 5, 0, 5)] },
  // Several sequences, one with keys from before its queries, one of a single token, keys in another order.
  {
    queries: 9,
    keys: 20,
    heads: 4,
    kvHeads: 2,
    size: 6,
    segments: [segment(0, 4, 13, 4), segment(4, 1, 0, 7), segment(5, 4, 7, 6)],
  },
  {
    queries: 9,
    keys: 9,
    heads: 6,
    kvHeads: 1,
    size: 7,
    segments: [segment(0, 2, 0, 2), segment(2, 7, 2, 7)],
    layout: "padded",
  },
  { queries: 1, keys: 133, heads: 14, kvHeads: 2, size: 64, segments: [segment(0, 1, 0, 133)] },
  {
    queries: 67,
    keys: 67,
    heads: 14,
    kvHeads: 2,
    size: 64,
    segments: [segment(0, 40, 0, 40), segment(40, 27, 40, 27)],
  },
  // Two users reading the same prompt.
  { queries: 2, keys: 12, heads: 2, kvHeads: 1, size: 16, segments: [segment(0, 1, 0, 12), segment(1, 1, 0, 11)] },
  { queries: 0, keys: 0, heads: 2, kvHeads: 1, size: 8, segments: [] },
];

function attentionInputs({ queries, keys, heads, kvHeads, size, layout }: AttentionCase, seed: number, spread = 4) {
  const random = numbers(seed);
  const draw = (): number => spread * random() - spread / 2;
  return {
    q: operand("f32", [queries, heads, size], draw, layout),
    k: operand("f32", [keys, kvHeads, size], draw, layout),
    v: operand("f32", [keys, kvHeads, size], draw, layout),
  };
}

/** Pages in another order: the row of a place in pages of `size` rows. */
const pagedRow = (place: number, size: number): number => {
  const page = Math.floor(place / size);
  return ((page * 5 + 3) % 14) * size + (place % size);
};

/** Attention may be off by so many times a product's error, the size of the scores being 1. */
const SOFTMAX = 5;

async function attention(bench: Bench, c: AttentionCase, seed: number, spread = 4): Promise<void> {
  const options = { segments: c.segments, scale: 1 / Math.sqrt(c.size) };
  const tolerance = { rel: 1e-5, abs: (SOFTMAX * bench.bounds.product * spread ** 2) / 4 };
  const outputs = {
    out: result("f32", [c.queries, c.heads, c.size], tolerance),
    lse: result("f32", [c.heads, c.queries], { ...tolerance, rel: 3e-6 }),
  };
  const given = attentionInputs(c, seed, spread);
  await agree(bench.device, given, outputs, (d, v) => d.attention(v.q, v.k, v.v, options, v.out, v.lse));
  await agree(bench.device, given, { out: outputs.out }, (d, v) =>
    d.attention(v.q, v.k, v.v, options, v.out, undefined),
  );
}

async function attentionBackward(bench: Bench, c: AttentionCase, seed: number): Promise<void> {
  const options = { segments: c.segments, scale: 1 / Math.sqrt(c.size) };
  const random = numbers(seed + 100);
  const inputs = attentionInputs(c, seed);
  const shape = [c.queries, c.heads, c.size];
  const forward = await values(
    reference,
    inputs,
    { out: result("f32", shape), lse: result("f32", [c.heads, c.queries]) },
    (d, v) => d.attention(v.q, v.k, v.v, options, v.out, v.lse),
  );
  const given = {
    ...inputs,
    grad: operand("f32", shape, () => 2 * random() - 1, c.layout),
    out: operand("f32", shape, forward.out),
    lse: operand("f32", [c.heads, c.queries], forward.lse),
  };
  // A key's gradient is a sum over the queries and heads that see it.
  const abs = SOFTMAX * bench.bounds.product * 4 * (1 + Math.sqrt((c.queries * c.heads) / c.kvHeads));
  const outputs = {
    gradQ: result("f32", shape, { rel: 1e-5, abs }),
    gradK: result("f32", [c.keys, c.kvHeads, c.size], { rel: 1e-5, abs }),
    gradV: result("f32", [c.keys, c.kvHeads, c.size], { rel: 1e-5, abs }),
  };
  await agree(bench.device, given, outputs, (d, v) =>
    d.attentionBackward(v.grad, v.q, v.k, v.v, v.out, v.lse, options, v.gradQ, v.gradK, v.gradV),
  );
}

interface LossCase {
  rows: number;
  hidden: number;
  vocabulary: number;
  dtype: "f32" | "bf16";
  /** The target of row i. */
  target: (i: number) => number;
  layout?: Layout;
}

const LOSSES: readonly LossCase[] = [
  { rows: 1, hidden: 3, vocabulary: 2, dtype: "f32", target: () => 1 },
  { rows: 5, hidden: 17, vocabulary: 13, dtype: "f32", target: (i) => (i * 5) % 13 },
  { rows: 6, hidden: 33, vocabulary: 101, dtype: "bf16", target: (i) => (i % 2 ? -100 : 100) },
  { rows: 4, hidden: 8, vocabulary: 19, dtype: "f32", target: () => -1 },
  { rows: 0, hidden: 8, vocabulary: 19, dtype: "f32", target: () => 0 },
  { rows: 7, hidden: 20, vocabulary: 40, dtype: "f32", target: (i) => i, layout: "padded" },
  { rows: 70, hidden: 96, vocabulary: 3001, dtype: "bf16", target: (i) => (i % 3 === 0 ? -1 : (i * 41) % 3001) },
];

async function loss({ device, bounds }: Bench, c: LossCase, seed: number): Promise<void> {
  const { rows, hidden, vocabulary, dtype, layout } = c;
  const random = numbers(seed);
  const given = {
    hidden: operand("f32", [rows, hidden], () => 4 * random() - 2, layout),
    weight: operand(dtype, [vocabulary, hidden], () => 2 * random() - 1, layout),
    targets: operand("i32", [rows], c.target),
    scale: operand("f32", [rows], (i) => (i === 1 ? 0 : random())),
  };
  // Logits are sums of `hidden` products whose sizes are 1/2 in the mean.
  const abs = (bounds.product * hidden) / 4 + 2e-6;
  const out = result("f32", [rows], { rel: 1e-6, abs });
  const gradHidden = result("f32", [rows, hidden], { rel: 1e-5, abs });
  const gradWeight = result("f32", [vocabulary, hidden], { rel: 1e-5, abs });
  await agree(device, given, { out }, (d, v) => d.linearCrossEntropy({ ...v, loss: v.out }));
  const correct = result("f32", [rows]);
  await agree(device, given, { out, correct }, (d, v) => d.linearCrossEntropy({ ...v, loss: v.out }));
  await agree(device, given, { out, gradHidden }, (d, v) => d.linearCrossEntropy({ ...v, loss: v.out }));
  await agree(device, given, { out, gradWeight }, (d, v) => d.linearCrossEntropy({ ...v, loss: v.out }));
  await agree(device, given, { out, gradHidden, gradWeight }, (d, v) => d.linearCrossEntropy({ ...v, loss: v.out }));
}

export const modelTests: readonly DeviceTest[] = [
  {
    name: "attention: every arrangement of sequences and heads",
    async run(bench) {
      for (const [i, c] of ATTENTION.entries()) await attention(bench, c, 50 + i);
    },
  },
  {
    name: "attention: keys in the rows of a table give what consecutive ones do, by the means for few and for many",
    async run({ device }) {
      if (!device.readsKeyRows) return;
      const [page, pages, heads, kvHeads, size] = [16, 12, 14, 2, 64];
      const keys = page * pages;
      const segments = [segment(0, 3, 0, 70), segment(3, 40, 70, 100), segment(43, 1, 170, 17)];
      const given = attentionInputs({ queries: 44, keys, heads, kvHeads, size, segments }, 57);
      const out = result("f32", [44, heads, size]);
      const row = kvHeads * size;
      for (const rows of ["few", "many"] as const) {
        const { out: expected } = await values(device, given, { out }, (d, v) =>
          d.attention(v.q, v.k, v.v, { segments, scale: 0.125, rows }, v.out, undefined),
        );
        // Sequences begin at pages of their own; and a table in which no two keys follow each other.
        for (const shuffled of [false, true]) {
          const places = segments.flatMap(({ key, keys }, s) =>
            Array.from({ length: keys }, (_, j) => ({ from: key + j, to: [0, 5, 12][s]! * page + j })),
          );
          const to = places.map((place) => (shuffled ? (place.from * 77 + 5) % keys : pagedRow(place.to, page)));
          const moved = (o: Operand): Operand => {
            const cells = new Array<number>(14 * page * row).fill(1e9);
            const old = valuesOf(o);
            places.forEach(({ from }, i) => {
              for (let e = 0; e < row; e++) cells[to[i]! * row + e] = old[from * row + e]!;
            });
            return operand("f32", [14 * page, kvHeads, size], cells);
          };
          const keyRows = operand("i32", [to.length], to);
          const inputs = { q: given.q, k: moved(given.k), v: moved(given.v), keyRows };
          const got = await values(device, inputs, { out }, (d, v) =>
            d.attention(v.q, v.k, v.v, { segments, scale: 0.125, rows, keyRows: v.keyRows }, v.out, undefined),
          );
          expect(got.out).toEqual(expected);
        }
      }
    },
  },
  {
    name: "attention: keys in blocks give what the numbers that they decode to do, in order and by a table",
    async run({ device }) {
      if (!device.readsBlockKeys) return;
      const [keys, heads, kvHeads, size] = [187, 14, 2, 64];
      const segments = [segment(0, 3, 0, 70), segment(3, 40, 70, 100), segment(43, 1, 170, 17)];
      const given = attentionInputs({ queries: 44, keys, heads, kvHeads, size, segments }, 61);
      const rounded = (o: Operand): Operand => blocks(o.shape, valuesOf(o));
      const inBlocks = { q: given.q, k: rounded(given.k), v: rounded(given.v) };
      const decoded = ({ shape, content }: Operand): Operand =>
        operand("f32", shape, [...decodeBlocks("q8_0", content as Uint8Array, 0, keys * kvHeads * size)]);
      const asNumbers = { q: given.q, k: decoded(inBlocks.k), v: decoded(inBlocks.v) };
      const keyRows = operand("i32", [keys], (i) => (i * 77 + 5) % keys);
      const out = result("f32", [44, heads, size]);
      for (const rows of ["few", "many"] as const) {
        for (const paged of [false, true]) {
          const run = (inputs: Record<"q" | "k" | "v", Operand>) =>
            values(device, { ...inputs, keyRows }, { out }, (d, v) => {
              const options = { segments, scale: 0.125, rows, keyRows: paged ? v.keyRows : undefined };
              d.attention(v.q, v.k, v.v, options, v.out, undefined);
            });
          expect((await run(inBlocks)).out).toEqual((await run(asNumbers)).out);
        }
      }
    },
  },
  {
    name: "attention: a bias is added to keys in blocks, rotated to their places",
    async run({ device, bounds }) {
      if (!device.readsBlockKeys) return;
      const [keys, heads, kvHeads, size, positions] = [187, 14, 2, 64, 100];
      const segments = [segment(0, 3, 0, 70), segment(3, 40, 70, 100), segment(43, 1, 170, 17)];
      const given = attentionInputs({ queries: 44, keys, heads, kvHeads, size, segments }, 63);
      const random = numbers(64);
      const [angle, half] = [(i: number) => Math.floor(i / size) * 0.7 ** (i % half), size / 2];
      const inputs = {
        ...{ q: given.q, k: blocks([keys, kvHeads, size], valuesOf(given.k)) },
        v: blocks([keys, kvHeads, size], valuesOf(given.v)),
        bias: operand("f32", [kvHeads, size], () => 6 * random() - 3),
        rotations: operand("f32", [positions, size], (i) =>
          i % size < half ? Math.cos(angle(i)) : Math.sin(angle(i)),
        ),
        keyRows: operand("i32", [keys], (i) => (i * 77 + 5) % keys),
      };
      const out = result("f32", [44, heads, size], { rel: 1e-5, abs: SOFTMAX * bounds.product * 12 });
      for (const rows of ["few", "many"] as const) {
        for (const paged of [false, true]) {
          await agree(device, inputs, { out }, (d, v) => {
            const keyBias = { bias: v.bias, rotations: v.rotations };
            const options = { segments, scale: 0.125, rows, keyBias, keyRows: paged ? v.keyRows : undefined };
            d.attention(v.q, v.k, v.v, options, v.out, undefined);
          });
        }
      }
    },
  },
  {
    name: "attention: scores too large for exp alone",
    async run(bench) {
      const c = ATTENTION[1];
      await attention(bench, { ...c, size: 64 }, 58, 60);
    },
  },
  {
    name: "attention: a sequence's result depends on that sequence alone",
    async run({ device, bounds }) {
      const c = ATTENTION[5];
      const run = async (queries: number, segments: readonly Segment[]): Promise<number[]> => {
        const inputs = attentionInputs({ ...c, queries: 67 }, 59);
        const out = result("f32", [queries, c.heads, c.size]);
        const done = await values(device, inputs, { out }, (d, v) =>
          d.attention({ ...v.q, shape: v.out.shape }, v.k, v.v, { segments, scale: 0.125 }, v.out, undefined),
        );
        return done.out;
      };
      const row = c.heads * c.size;
      const whole = await run(67, c.segments);
      expect(await run(40, c.segments.slice(0, 1))).toEqual(whole.slice(0, 40 * row));
      // One token after another, as when generating.
      for (const i of [0, 1, 17, 39]) {
        const alone = await run(
          i + 1,
          [segment(0, i, 0, i), segment(i, 1, 0, i + 1)].filter((s) => s.queries > 0),
        );
        alone.slice(i * row).forEach((x, j) => {
          expect(Math.abs(x - whole[i * row + j])).toBeLessThan(2.5 * bounds.product);
        });
      }
    },
  },
  {
    name: "attentionBackward: every arrangement of sequences and heads",
    async run(bench) {
      for (const [i, c] of ATTENTION.entries()) await attentionBackward(bench, c, 60 + i);
    },
  },
  {
    name: "linearCrossEntropy: loss and either gradient, rows without a target",
    async run(bench) {
      for (const [i, c] of LOSSES.entries()) await loss(bench, c, 70 + i);
    },
  },
  {
    name: "linearCrossEntropy: correct where no class has a greater logit, equal ones included",
    async run({ device }) {
      const vocabulary = 5000;
      // Class v of row r has the logit hidden[r]·weight[v]: the greatest where weight is 3, twice.
      const best = [17, 4321];
      const given = {
        hidden: operand("f32", [6, 1], () => 1),
        weight: operand("f32", [vocabulary, 1], (i) => (best.includes(i) ? 3 : (i % 7) / 4)),
        targets: operand("i32", [6], [17, 4321, 18, -1, 0, 4322]),
        scale: operand("f32", [6], () => 1),
      };
      const outputs = { loss: result("f32", [6]), correct: result("f32", [6]) };
      const { correct } = await values(device, given, outputs, (d, v) => d.linearCrossEntropy(v));
      expect(correct).toEqual([1, 1, 0, 0, 0, 0]);
    },
  },
  {
    name: "linearCrossEntropy: a row's loss depends on that row alone",
    async run({ device }) {
      const random = numbers(80);
      const [rows, hidden, vocabulary] = [37, 40, 1100];
      const x = Array.from({ length: rows * hidden }, () => Math.fround(random() - 0.5));
      const weight = operand("bf16", [vocabulary, hidden], () => 2 * random() - 1);
      const run = async (first: number, count: number) => {
        const given = {
          hidden: operand("f32", [count, hidden], x.slice(first * hidden, (first + count) * hidden)),
          weight,
          targets: operand("i32", [count], (i) => (i + first) % 7),
          scale: operand("f32", [count], () => 0.5),
        };
        const outputs = { loss: result("f32", [count]), gradHidden: result("f32", [count, hidden]) };
        return values(device, given, outputs, (d, v) => d.linearCrossEntropy(v));
      };
      const whole = await run(0, rows);
      for (const [first, count] of [
        [0, 1],
        [36, 1],
        [5, 9],
      ]) {
        const part = await run(first, count);
        expect(part.loss).toEqual(whole.loss.slice(first, first + count));
        expect(part.gradHidden).toEqual(whole.gradHidden.slice(first * hidden, (first + count) * hidden));
      }
    },
  },
  {
    name: "adamW: one step, with decay and a factor on the gradient",
    async run({ device }) {
      const random = numbers(90);
      for (const shape of [[1], [7], [33], [5, 13], [0], [100_003]]) {
        for (const [step, weightDecay, scale] of [
          [1, 0, undefined],
          [2, 0.1, 0.25],
          [1000, 0.01, 1],
        ] as const) {
          const given = {
            grad: operand("f32", shape, () => 2 * random() - 1),
            scale: operand("f32", [1], [scale ?? 1]),
          };
          const tolerance = { rel: 1e-6, abs: 1e-7 };
          const outputs = {
            param: { into: operand("f32", shape, () => 2 * random() - 1), tolerance },
            m: { into: operand("f32", shape, () => random() - 0.5), tolerance },
            v: { into: operand("f32", shape, () => random()), tolerance },
          };
          await agree(device, given, outputs, (d, { param, grad, m, v, scale: factor }) =>
            d.adamW({
              param,
              grad,
              m,
              v,
              lr: 1e-3,
              beta1: 0.9,
              beta2: 0.999,
              eps: 1e-8,
              weightDecay,
              step,
              gradScale: scale === undefined ? undefined : factor,
            }),
          );
        }
      }
    },
  },
  {
    name: "threads: their number changes no bit",
    async run(bench) {
      const random = numbers(99);
      const draw = (): number => 2 * random() - 1;
      const [rows, hidden, vocabulary] = [65, 96, 3001];
      const given = {
        a: operand("f32", [rows, hidden], draw),
        b: operand("bf16", [hidden, 210], draw, "transposed"),
        c: operand("f32", [rows, 210], draw),
        long: operand("f32", [300_001], draw),
        weight: operand("bf16", [vocabulary, hidden], draw),
        norm: operand("f32", [hidden], draw),
        targets: operand("i32", [rows], (i) => i),
        scale: operand("f32", [rows], () => 1 / rows),
        rstd: operand("f32", [rows], () => 1),
      };
      const outputs = {
        product: result("f32", [rows, 210]),
        left: result("f32", [hidden, 210]),
        sum: result("f32", [1]),
        loss: result("f32", [rows]),
        gradHidden: result("f32", [rows, hidden]),
        gradWeight: result("f32", [vocabulary, hidden]),
        gradX: result("f32", [rows, hidden]),
        gradNorm: result("f32", [hidden]),
        normal: result("f32", [4099]),
      };
      const on = async (threads: number) => {
        const device = await bench.again(threads);
        try {
          return await values(device, given, outputs, (d, v) => {
            d.matmul(v.a, v.b, v.product);
            d.matmul({ ...v.a, shape: [hidden, rows], strides: [1, hidden] }, v.c, v.left);
            d.reduce("sum", IDENTITY, [], [v.long], { ...v.sum, shape: [300_001], strides: [0] });
            d.linearCrossEntropy({ ...v, hidden: v.a });
            d.rmsNormBackward(v.gradHidden, v.a, v.norm, v.rstd, v.gradX, v.gradNorm);
            d.random("normal", { seed: [1, 2], stream: 3 }, v.normal);
          });
        } finally {
          await device.dispose();
        }
      };
      const one = await on(1);
      for (const threads of [2, 3]) expect(await on(threads)).toEqual(one);
    },
  },
];
