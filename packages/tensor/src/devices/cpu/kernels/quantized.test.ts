import { describe, expect, test } from "bun:test";
import { BLOCKS, type BlockType, fromF16, toF16 } from "../../../dtype.ts";
import { decodeBlocks } from "../../../quantized/decode.ts";
import { blockReaders } from "./blocks.ts";
import {
  BLOCK_WORKSPACE_BYTES,
  blockGemv,
  decodeRows,
  quantizedRowBytes,
  quantizeRows,
  sumsFactor,
} from "./quantized.ts";
import { fill, type Machine, type Memory, machines } from "./testing.ts";

const types = Object.keys(BLOCKS) as BlockType[];

/** Where a block keeps halves, which random bits would make infinite. */
const HALVES: { readonly [K in BlockType]: readonly number[] } = {
  ...{ q4_0: [0], q4_1: [0, 2], q5_0: [0], q5_1: [0, 2], q8_0: [0], q4_k: [0, 2], q5_k: [0, 2], q6_k: [208] },
};

/** Blocks of random bits, with scales of either sign and all sizes down to zero. */
function randomBlocks(type: BlockType, count: number, seed: number): Uint8Array {
  const { bytes } = BLOCKS[type];
  const noise = fill(new Float32Array(count * bytes), seed);
  const out = Uint8Array.from(noise, (x) => Math.floor((x + 1) * 128));
  for (let i = 0; i < count; i++) {
    for (const at of HALVES[type]) {
      const bits = i % 7 === 3 ? 0 : toF16(noise[i * bytes + at] * 10 ** -((i % 5) + 1));
      out[i * bytes + at] = bits & 255;
      out[i * bytes + at + 1] = bits >> 8;
    }
  }
  return out;
}

const bytesOf = ({ u8 }: Memory): Uint8Array => u8;

/** W of n rows of `blocks` blocks each, `slack` blocks apart, in the machine's memory; its values in double. */
function weight(machine: Machine, type: BlockType, n: number, blocks: number, slack: number, early?: boolean) {
  const { bytes, elements } = BLOCKS[type];
  const row = blocks + slack;
  const count = (n - 1) * row + blocks;
  const content = randomBlocks(type, count, n + blocks);
  const memory = machine.allocate(content.length, early);
  bytesOf(memory).set(content);
  const values = Array.from({ length: n }, (_, i) =>
    decodeBlocks(type, content, i * row * elements, blocks * elements),
  );
  return { address: memory.address, wRow: row * bytes, values };
}

function space(machine: Machine) {
  const slots = machine.allocate(4);
  const halves = machine.allocate(4 * 0x10000);
  for (let bits = 0; bits < 0x10000; bits++) halves.f32[bits] = fromF16(bits);
  const workspace = machine.allocate(BLOCK_WORKSPACE_BYTES);
  return { slots: slots.address, workspace: workspace.address, halves: halves.address };
}

/** The rows as `quantizeRows` must leave them: integers and scales. */
function quantized(a: Float32Array, rows: number, lda: number, k: number): Float64Array[] {
  return Array.from({ length: rows }, (_, r) => {
    const out = new Float64Array(k);
    for (let g = 0; g < k; g += 32) {
      const group = a.subarray(r * lda + g, r * lda + g + 32);
      const most = group.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
      const scale = Math.fround(most * Math.fround(1 / 127));
      for (let i = 0; i < 32; i++) out[g + i] = scale > 0 ? Math.round(group[i] / scale) * scale : 0;
    }
    return out;
  });
}

interface Case {
  rows: number;
  n: number;
  blocks: number;
  slack?: number;
  alpha?: number;
  add?: "c" | "bias";
  early?: boolean;
}

function runGemv(machine: Machine, type: BlockType, options: Case): void {
  const { rows, n, blocks, slack = 0, alpha = 1, add, early } = options;
  machine.reset();
  const k = blocks * BLOCKS[type].elements;
  const lda = k + slack;
  const ldc = n + slack;
  const a = machine.allocate(((rows - 1) * lda + k) * 4, early);
  fill(a.f32, 1);
  const w = weight(machine, type, n, blocks, slack, early);
  const bias = machine.allocate(n * 4, early);
  fill(bias.f32, 4);
  const zeros = machine.allocate(256);
  const c = machine.allocate(((rows - 1) * ldc + n) * 4, early);
  fill(c.f32, 3);
  const before = c.f32.slice();
  const aRow = quantizedRowBytes(k);
  const bytes = machine.allocate(rows * aRow, early);
  const constant = sumsFactor(type);
  machine.compile(quantizeRows)({ a: a.address, lda, groups: k / 32, out: bytes.address, constant }, 0, rows);
  const run = machine.compile(blockGemv[type][rows - 1]);
  const args = {
    ...{ a: bytes.address, aRow, w: w.address, wRow: w.wRow, blocks, c: c.address, ldc, alpha },
    source: add === "c" ? c.address : add === "bias" ? bias.address : zeros.address,
    ...{ sourceRow: add === "c" ? 4 * ldc : 0, sourceColumn: add ? 1 : 0, ...space(machine) },
  };
  run(args, 0, 1);
  run(args, 1, n);
  const rounded = quantized(a.f32, rows, lda, k);
  for (let r = 0; r < rows; r++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      let size = 0;
      for (let i = 0; i < k; i++) {
        sum += rounded[r][i] * w.values[j][i];
        size += Math.abs(rounded[r][i]) * (Math.abs(w.values[j][i]) + offsetSize(type, w.values[j], i));
      }
      const start = add === "c" ? before[r * ldc + j] : add === "bias" ? bias.f32[j] : 0;
      const bound = 1e-6 * (Math.abs(alpha) * size + Math.abs(start)) + 1e-30;
      expect(Math.abs(c.f32[r * ldc + j] - (alpha * sum + start))).toBeLessThanOrEqual(bound);
    }
    // Between the rows of C nothing is written.
    for (let j = n; j < ldc && r < rows - 1; j++) expect(c.f32[r * ldc + j]).toBe(before[r * ldc + j]);
  }
}

/** Bytes count from an offset, so that a small weight may be the difference of two large numbers. */
function offsetSize(type: BlockType, row: Float64Array, i: number): number {
  if (type === "q8_0") return 0;
  const { elements } = BLOCKS[type];
  const block = row.subarray(i - (i % elements), i - (i % elements) + elements);
  return 2 * block.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
}

describe.each(machines.map((machine) => [machine.target.name, machine] as const))("%s", (_name, machine) => {
  test.each(types)("%s: a few rows give what the decoded weights give, to rounding", (type) => {
    for (let rows = 1; rows <= blockGemv[type].length; rows++) {
      runGemv(machine, type, { rows, n: 5, blocks: 3 });
      runGemv(machine, type, { rows, n: 2, blocks: 1, early: true });
    }
    for (const blocks of [1, 2, 4, 5, 8, 11]) runGemv(machine, type, { rows: 1, n: 3, blocks });
    // Several rounds of rows far apart, and some that are left.
    runGemv(machine, type, { rows: 1, n: 12, blocks: 2, add: "bias" });
    runGemv(machine, type, { rows: 2, n: 8, blocks: 2, add: "c" });
    runGemv(machine, type, { rows: 2, n: 3, blocks: 6, slack: 4, alpha: -0.5, add: "c" });
    runGemv(machine, type, { rows: 4, n: 3, blocks: 2, slack: 8, alpha: 3, add: "bias" });
  });

  test.each(types)("%s: decoded rows are the definition's, rounded once", (type) => {
    for (const [n, blocks, slack] of [
      [1, 1, 0],
      [3, 5, 2],
    ]) {
      machine.reset();
      const k = blocks * BLOCKS[type].elements;
      const w = weight(machine, type, n, blocks, slack);
      const out = machine.allocate((n * (k + slack) - slack) * 4);
      const args = { w: w.address, wRow: w.wRow, blocks, out: out.address, ldo: k + slack, ...space(machine) };
      machine.compile(decodeRows[type])(args, 0, n);
      for (let i = 0; i < n; i++) {
        const got = out.f32.subarray(i * (k + slack), i * (k + slack) + k);
        // Without a fused multiply-add, offsets are added to a rounded product.
        const fused = machine.target.fused || blockReaders[type].constant !== 1;
        if (fused)
          expect([...got]).toEqual(
            [...Float32Array.from(w.values[i])].map((x) => (x === 0 ? expect.closeTo(0, 30) : x)),
          );
        else
          got.forEach((x, j) => {
            expect(Math.abs(x - w.values[i][j])).toBeLessThanOrEqual(2e-7 * (Math.abs(w.values[i][j]) + 4));
          });
      }
    }
  });

  test("scales of every half precision number are read", () => {
    machine.reset();
    const count = 0x10000;
    const w = machine.allocate(count * 34);
    const bytes = bytesOf(w);
    for (let bits = 0; bits < count; bits++) {
      bytes[bits * 34] = bits & 255;
      bytes[bits * 34 + 1] = bits >> 8;
      bytes[bits * 34 + 2] = 1;
    }
    const out = machine.allocate(count * 32 * 4);
    const args = { w: w.address, wRow: 34, blocks: 1, out: out.address, ldo: 32, ...space(machine) };
    machine.compile(decodeRows.q8_0)(args, 0, count);
    for (let bits = 0; bits < count; bits++) expect(out.f32[bits * 32]).toBe(fromF16(bits));
  });

  test("NaN and infinity among the activations show in the result", () => {
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      machine.reset();
      const a = machine.allocate(64 * 4);
      a.f32.fill(1);
      a.f32[40] = poison;
      const out = machine.allocate(quantizedRowBytes(64));
      machine.compile(quantizeRows)({ a: a.address, lda: 64, groups: 2, out: out.address, constant: 1 }, 0, 1);
      const scales = [64, 132].map((at) => new DataView(bytesOf(out).slice(at, at + 4).buffer).getFloat32(0, true));
      expect(scales[0]).toBeCloseTo(1 / 127, 6);
      expect(scales[1]).toBeNaN();
    }
  });
});
