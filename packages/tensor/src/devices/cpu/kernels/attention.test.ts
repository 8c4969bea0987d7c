import { describe, expect, test } from "bun:test";
import { BYTES } from "../../../dtype.ts";
import { decodeBlocks } from "../../../quantized/decode.ts";
import { encodeBlocks } from "../../../quantized/encode.ts";
import { attentionKernels, attentionWorkspaceBytes } from "./attention.ts";
import {
  attentionBackwardKeys,
  attentionBackwardQueries,
  attentionBackwardWorkspaceBytes,
  KEY_ITEM_WORDS,
} from "./attention-gradients.ts";
import { ITEM_WORDS, itemRows, keyBlock } from "./attention-parts.ts";
import { panelColumns } from "./gemm.ts";
import { fill, type Machine, type Memory, machines } from "./testing.ts";

interface Segment {
  query: number;
  queries: number;
  key: number;
  keys: number;
}

interface Case {
  segments: readonly Segment[];
  heads: number;
  kvHeads: number;
  size: number;
  /** Queries an item takes; as many as fit when absent. */
  perItem?: number;
  scale?: number;
  slack?: number;
  /** The keys lie in another order, which a table tells. */
  paged?: boolean;
  /** Keys and values are `q8_0` blocks. */
  blocks?: boolean;
  change?: (q: Float32Array, k: Float32Array, v: Float32Array) => void;
}

function inputs(machine: Machine, options: Case) {
  const { segments, heads, kvHeads, size, slack = 0 } = options;
  const queries = Math.max(...segments.map((s) => s.query + s.queries));
  const keys = Math.max(...segments.map((s) => s.key + s.keys));
  const qRow = heads * size + slack;
  const kRow = kvHeads * size + slack;
  const rows = (count: number, row: number, used: number) => (count - 1) * row + used;
  const q = machine.allocate(4 * rows(queries, qRow, heads * size));
  const k = machine.allocate(4 * rows(keys, kRow, kvHeads * size));
  const v = machine.allocate(4 * rows(keys, kRow, kvHeads * size));
  fill(q.f32, 1);
  fill(k.f32, 2);
  fill(v.f32, 3);
  options.change?.(q.f32, k.f32, v.f32);
  const group = heads / kvHeads;
  const perItem = options.perItem ?? Math.floor(itemRows(machine.target) / group);
  const items: number[] = [];
  for (const s of segments) {
    for (let first = 0; first < s.queries; first += perItem) {
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
        const count = Math.min(perItem, s.queries - first);
        items.push(s.query + first, count, s.key, s.keys - s.queries + first + 1, kvHead);
      }
    }
  }
  const table = machine.allocate(items.length * 4);
  table.i32.set(items);
  return { queries, keys, qRow, kRow, q, k, v, group, items: items.length / ITEM_WORDS, table };
}

/** The definition, in f64. */
function definition(options: Case, given: ReturnType<typeof inputs>) {
  const { segments, heads, size, scale = 1 } = options;
  const { queries, qRow, kRow, q, k, v, group } = given;
  const out = new Float64Array(q.f32.length);
  const lse = new Float64Array(heads * queries);
  for (const s of segments) {
    for (let i = 0; i < s.queries; i++) {
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / group);
        const at = (s.query + i) * qRow + h * size;
        const visible = s.keys - s.queries + i + 1;
        const scores = Array.from({ length: visible }, (_, j) => {
          let sum = 0;
          for (let d = 0; d < size; d++) sum += q.f32[at + d] * k.f32[(s.key + j) * kRow + kvHead * size + d];
          return scale * sum;
        });
        const greatest = Math.max(...scores);
        const total = scores.reduce((sum, score) => sum + Math.exp(score - greatest), 0);
        lse[h * queries + s.query + i] = greatest + Math.log(total);
        scores.forEach((score, j) => {
          const p = Math.exp(score - greatest) / total;
          for (let d = 0; d < size; d++) out[at + d] += p * v.f32[(s.key + j) * kRow + kvHead * size + d];
        });
      }
    }
  }
  return { out, lse };
}

function run(machine: Machine, options: Case) {
  machine.reset();
  const { heads, size, scale = 1 } = options;
  const given = inputs(machine, options);
  const { target } = machine;
  const out = machine.allocate(given.q.bytes);
  const lse = machine.allocate(heads * given.queries * 4);
  const slots = machine.allocate(4);
  const zeros = machine.allocate(4 * size);
  const { paged = false, blocks = false } = options;
  const workspace = machine.allocate(attentionWorkspaceBytes(target, size, blocks));
  workspace.f32.fill(Number.NaN);
  const [k, v] = blocks ? [given.k, given.v].map((rows) => encode(machine, rows)) : [given.k, given.v];
  // What is expected is of the keys in order, as they are after rounding.
  const expected = definition(options, given);
  const keyRows = machine.allocate(4 * given.keys);
  if (paged) {
    shuffle(given, keyRows.i32);
    if (blocks)
      for (const [to, from] of [
        [k, given.k],
        [v, given.v],
      ])
        to.u8.set(encodeBytes(from.f32));
  }
  const kernel = machine.compile(attentionKernels[paged ? 1 : 0][blocks ? 1 : 0]);
  const strides = blocks ? BYTES.q8_0 : 1;
  const [kRow, kHead] = [given.kRow * strides, size * strides];
  for (let item = 0; item < given.items; item++) {
    kernel(
      {
        ...{ q: given.q.address, k: k.address, v: v.address, out: out.address, lse: lse.address },
        ...{ qRow: given.qRow, qHead: size, kRow, kHead, vRow: kRow, vHead: kHead },
        ...{ outRow: given.qRow, outHead: size, headStride: given.queries, group: given.group, size, scale },
        ...{ items: given.table.address, slots: slots.address, workspace: workspace.address },
        ...{ keyRows: keyRows.address, bias: zeros.address, biasHead: 0, rotations: zeros.address, rotationsRow: 0 },
      },
      item,
      item + 1,
    );
  }
  expect(slots.i32[0]).toBe(0);
  return { out: out.f32.slice(), lse: lse.f32.slice(), expected };
}

const encodeBytes = (values: Float32Array): Uint8Array => {
  const bytes = new Uint8Array(values.length * BYTES.q8_0);
  encodeBlocks("q8_0", values, bytes, 0);
  return bytes;
};

/** The rows as `q8_0` blocks; they themselves become what the blocks decode to. */
function encode(machine: Machine, rows: Memory): Memory {
  const bytes = encodeBytes(rows.f32);
  rows.f32.set(decodeBlocks("q8_0", bytes, 0, rows.f32.length));
  const memory = machine.allocate(bytes.length);
  memory.u8.set(bytes);
  return memory;
}

/** Puts keys and values into another order and tells where each went. */
function shuffle({ keys, kRow, k, v }: ReturnType<typeof inputs>, keyRows: Int32Array): void {
  const order = Array.from({ length: keys }, (_, i) => i).sort(
    (a, b) => ((a * 7919) % 127) - ((b * 7919) % 127) || a - b,
  );
  keyRows.set(order);
  for (const { f32 } of [k, v]) {
    const before = f32.slice();
    order.forEach((row, key) => {
      for (let i = 0; i < kRow && key * kRow + i < before.length; i++) {
        if (row * kRow + i < f32.length) f32[row * kRow + i] = before[key * kRow + i];
      }
    });
  }
}

function check(machine: Machine, options: Case): void {
  const { out, lse, expected } = run(machine, options);
  const compare = (name: string, mine: Float32Array, wanted: Float64Array) => {
    for (let i = 0; i < mine.length; i++) {
      // Values below 1 in magnitude; scores of some units, exponentials within 1 ulp.
      if (!(Math.abs(mine[i] - wanted[i]) <= 4e-6 * (1 + Math.abs(wanted[i])))) {
        throw new Error(`${JSON.stringify(options)}: ${name}[${i}] is ${mine[i]}, expected ${wanted[i]}`);
      }
    }
  };
  compare("out", out, expected.out);
  compare("lse", lse, expected.lse);
}

/** Gradients of `definition` for a given gradient of its result, in f64. */
function gradients(options: Case, given: ReturnType<typeof inputs>, grad: Float32Array) {
  const { segments, heads, size, scale = 1 } = options;
  const { queries, qRow, kRow, q, k, v, group } = given;
  const { out, lse } = definition(options, given);
  const dq = new Float64Array(q.f32.length);
  const dk = new Float64Array(k.f32.length);
  const dv = new Float64Array(v.f32.length);
  for (const s of segments) {
    for (let i = 0; i < s.queries; i++) {
      for (let h = 0; h < heads; h++) {
        const at = (s.query + i) * qRow + h * size;
        let delta = 0;
        for (let d = 0; d < size; d++) delta += grad[at + d] * out[at + d];
        for (let j = 0; j < s.keys - s.queries + i + 1; j++) {
          const key = (s.key + j) * kRow + Math.floor(h / group) * size;
          let score = 0;
          let product = 0;
          for (let d = 0; d < size; d++) {
            score += q.f32[at + d] * k.f32[key + d];
            product += grad[at + d] * v.f32[key + d];
          }
          const p = Math.exp(scale * score - lse[h * queries + s.query + i]);
          const ds = scale * p * (product - delta);
          for (let d = 0; d < size; d++) {
            dq[at + d] += ds * k.f32[key + d];
            dk[key + d] += ds * q.f32[at + d];
            dv[key + d] += p * grad[at + d];
          }
        }
      }
    }
  }
  return { out, lse, dq, dk, dv };
}

function runBackward(machine: Machine, options: Case) {
  machine.reset();
  const { segments, heads, kvHeads, size, scale = 1 } = options;
  const given = inputs(machine, options);
  const { target } = machine;
  const like = (memory: { bytes: number }) => machine.allocate(memory.bytes);
  const [grad, out, gradQ, gradK, gradV] = [given.q, given.q, given.q, given.k, given.v].map(like);
  fill(grad.f32, 9);
  const expected = gradients(options, given, grad.f32);
  out.f32.set(expected.out);
  const lse = machine.allocate(heads * given.queries * 4);
  lse.f32.set(expected.lse);
  const delta = like(lse);
  const workspace = machine.allocate(attentionBackwardWorkspaceBytes(target, size));
  workspace.f32.fill(Number.NaN);
  const slots = machine.allocate(4);
  const common = {
    ...{ q: given.q.address, k: given.k.address, v: given.v.address, grad: grad.address },
    ...{ qRow: given.qRow, qHead: size, kRow: given.kRow, kHead: size, vRow: given.kRow, vHead: size },
    ...{ gradRow: given.qRow, gradHead: size, lse: lse.address, delta: delta.address, headStride: given.queries },
    ...{ group: given.group, size, scale, slots: slots.address, workspace: workspace.address },
  };
  const queries = machine.compile(attentionBackwardQueries);
  const outputs = { out: out.address, outRow: given.qRow, outHead: size };
  const toQ = { gradQ: gradQ.address, gradQRow: given.qRow, gradQHead: size };
  for (let item = 0; item < given.items; item++) {
    queries({ ...common, ...outputs, ...toQ, items: given.table.address }, item, item + 1);
  }
  const keyItems: number[] = [];
  for (const s of segments) {
    for (let block = 0; block < s.keys; block += keyBlock(target)) {
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
        const end = Math.min(block + keyBlock(target), s.keys);
        keyItems.push(s.query, s.queries, s.key, s.keys - s.queries + 1, kvHead, block, end);
      }
    }
  }
  const table = machine.allocate(keyItems.length * 4);
  table.i32.set(keyItems);
  const keys = machine.compile(attentionBackwardKeys);
  const toK = { gradK: gradK.address, gradKRow: given.kRow, gradKHead: size };
  const toV = { gradV: gradV.address, gradVRow: given.kRow, gradVHead: size };
  const chunkQueries = options.perItem ?? Math.floor(itemRows(target) / given.group);
  keys({ ...common, ...toK, ...toV, items: table.address, chunkQueries }, 0, keyItems.length / KEY_ITEM_WORDS);
  expect(slots.i32[0]).toBe(0);
  return { dq: gradQ.f32.slice(), dk: gradK.f32.slice(), dv: gradV.f32.slice(), expected };
}

function checkBackward(machine: Machine, options: Case): void {
  const { expected, ...mine } = runBackward(machine, options);
  for (const name of ["dq", "dk", "dv"] as const) {
    const greatest = Math.max(...expected[name].map(Math.abs));
    mine[name].forEach((value, i) => {
      if (!(Math.abs(value - expected[name][i]) <= 3e-6 * (1 + greatest))) {
        throw new Error(`${JSON.stringify(options)}: ${name}[${i}] is ${value}, expected ${expected[name][i]}`);
      }
    });
  }
}

const one = (queries: number, keys = queries): Segment[] => [{ query: 0, queries, key: 0, keys }];

describe.each(machines.map((machine) => [machine.target.name, machine] as const))("attention on %s", (_, machine) => {
  /** The smallest head that the kernels take. */
  const smallest = panelColumns(machine.target);

  test("against the definition", () => {
    for (const queries of [1, 2, 5, 6, 7, 13, 47, 48, 49, 97])
      check(machine, { segments: one(queries), heads: 2, kvHeads: 1, size: 32, scale: 0.3 });
    check(machine, { segments: one(30), heads: 14, kvHeads: 2, size: 64, scale: 0.125, slack: 8 });
    check(machine, { segments: one(3, 200), heads: 4, kvHeads: 4, size: smallest, scale: 2 });
    check(machine, { segments: one(1, 300), heads: 7, kvHeads: 1, size: 128, scale: 0.1 });
  });

  test("keys in the rows of a table give the bits of consecutive ones", () => {
    const cases: Case[] = [
      { segments: one(1, 131), heads: 14, kvHeads: 2, size: 64, scale: 0.125 },
      { segments: one(50, 90), heads: 4, kvHeads: 2, size: 32, scale: 0.5 },
      {
        segments: [
          { query: 0, queries: 1, key: 0, keys: 60 },
          { query: 1, queries: 3, key: 60, keys: 7 },
        ],
        ...{ heads: 4, kvHeads: 1, size: smallest },
      },
    ];
    for (const given of cases) {
      const paged = run(machine, { ...given, paged: true });
      const plain = run(machine, given);
      expect(paged.out).toEqual(plain.out);
      expect(paged.lse).toEqual(plain.lse);
      check(machine, { ...given, paged: true });
    }
  });

  test("keys in blocks give the bits of the numbers that they decode to, in order and by a table", () => {
    const size = Math.max(32, smallest);
    const two = [
      { query: 0, queries: 1, key: 0, keys: 60 },
      { query: 1, queries: 3, key: 60, keys: 7 },
    ];
    for (const given of [
      { segments: one(1, 131), heads: 14, kvHeads: 2, size: 64, scale: 0.125 },
      { segments: one(50, 90), heads: 4, kvHeads: 2, size, scale: 0.5 },
      { segments: two, heads: 4, kvHeads: 1, size },
    ] satisfies Case[]) {
      const rounded = (_: Float32Array, ...keys: Float32Array[]) => {
        for (const x of keys) x.set(decodeBlocks("q8_0", encodeBytes(x), 0, x.length));
      };
      const plain = run(machine, { ...given, change: rounded });
      for (const paged of [false, true]) {
        const blocks = run(machine, { ...given, paged, blocks: true });
        expect(blocks.out).toEqual(plain.out);
        expect(blocks.lse).toEqual(plain.lse);
      }
    }
  });

  test("sequences of one pass do not see each other", () => {
    const segments = [
      { query: 0, queries: 10, key: 0, keys: 10 },
      { query: 10, queries: 1, key: 10, keys: 60 },
      { query: 11, queries: 50, key: 70, keys: 50 },
    ];
    check(machine, { segments, heads: 4, kvHeads: 2, size: 32, scale: 0.5 });
  });

  test("a row depends on itself alone: not on how queries are grouped, nor on later ones", () => {
    const whole = run(machine, { segments: one(70), heads: 4, kvHeads: 2, size: 32 });
    for (const perItem of [1, 5]) {
      const parts = run(machine, { segments: one(70), heads: 4, kvHeads: 2, size: 32, perItem });
      expect(parts.out).toEqual(whole.out);
      expect(parts.lse).toEqual(whole.lse);
    }
    const shorter = run(machine, { segments: one(51), heads: 4, kvHeads: 2, size: 32 });
    expect(shorter.out).toEqual(whole.out.slice(0, 51 * 128));
    const decoded = run(machine, {
      segments: [{ query: 0, queries: 1, key: 0, keys: 1 }],
      heads: 4,
      kvHeads: 2,
      size: 32,
    });
    expect(decoded.out).toEqual(whole.out.slice(0, 128));
  });

  test("gradients against the definition", () => {
    for (const queries of [1, 2, 6, 7, 13, 47, 48, 49, 97]) {
      checkBackward(machine, { segments: one(queries), heads: 2, kvHeads: 1, size: 32, scale: 0.3 });
    }
    checkBackward(machine, { segments: one(30), heads: 14, kvHeads: 2, size: 64, scale: 0.125, slack: 8 });
    checkBackward(machine, { segments: one(3, 200), heads: 4, kvHeads: 4, size: smallest, scale: 0.7 });
    const segments = [
      { query: 0, queries: 10, key: 0, keys: 10 },
      { query: 10, queries: 1, key: 10, keys: 60 },
      { query: 11, queries: 120, key: 70, keys: 120 },
    ];
    checkBackward(machine, { segments, heads: 4, kvHeads: 2, size: 32, scale: 0.5, perItem: 7 });
  });

  test("large scores and NaN", () => {
    check(machine, { segments: one(20), heads: 1, kvHeads: 1, size: smallest, scale: 40 });
    const { out } = run(machine, {
      ...{ segments: one(60), heads: 1, kvHeads: 1, size: smallest },
      change: (q) => q.fill(Number.NaN, 20 * smallest, 21 * smallest),
    });
    out.forEach((value, i) => {
      if (Math.floor(i / smallest) === 20) expect(value).toBeNaN();
      else expect(Math.abs(value)).toBeLessThan(1);
    });
  });
});
