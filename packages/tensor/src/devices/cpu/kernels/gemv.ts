/**
 * The product of a few rows with a matrix that lies as weights do, `C [rows, n] = alpha·A [rows, k]·Wᵀ (+ source)` with
 * W [n, k]: what decoding spends its time on, at the speed at which memory gives W. A few rows of W are read at once, far
 * apart, from where they lie; lanes are places along k. A sum runs over the vectors of its rows in order and then over the lanes, so it
 * depends on its row of A and its row of W alone, bit for bit.
 */

import type { Builder } from "../lang/builder.ts";
import { type Arguments, defineKernel } from "../lang/kernel.ts";
import type { Index, Pointer } from "../lang/values.ts";
import { evenChunk } from "./gemm.ts";

/** Rows of A that one kernel can take. */
export const GEMV_ROWS = 4;
/** Rows of W at once, at most: calls take multiples of them. */
const GEMV_COLUMNS = 4;

const LINE_BYTES = 64;
/** How far ahead of what is multiplied weights are asked for. */
const AHEAD_BYTES = 2048;

type Weight = "f32" | "bf16";

const gemvArgs = {
  a: "f32*",
  w: "f32*",
  c: "f32*",
  /** What the sums are added to, as in `gemm`. */
  source: "f32*",
  sourceRow: "index",
  sourceColumn: "index",
  alpha: "f32",
  k: "index",
  lda: "index",
  /** Elements from row to row of W. */
  ldw: "index",
  ldc: "index",
} as const;

/** The places of `count` rows, `stride` bytes apart. */
function strided(stride: Index, count: number): (base: Pointer) => Pointer[] {
  const third = count > 3 ? stride.mul(3) : stride;
  return (base) =>
    Array.from({ length: count }, (_, i) => {
      if (i === 0) return base;
      return i === 3 ? base.atStride(third, 1) : base.atStride(stride, i as 1 | 2);
    });
}

/** Addresses of the first of some rows: those of A, of the results, and of what is added to them. */
interface FirstRow {
  readonly a: Pointer;
  readonly c: Pointer;
  readonly source: Pointer;
}

/** Columns `from … end` of C for `rows` rows of A. */
function columnsOf(
  k: Builder,
  args: Arguments<typeof gemvArgs>,
  element: Weight,
  rows: number,
  first: FirstRow,
  from: Index,
  end: Index,
) {
  const bytes = element === "bf16" ? 2 : 4;
  const lineElements = LINE_BYTES / bytes;

  /** `count` rows of W, from `column` on, `apart` rows from one to the next, by all rows of A. */
  const multiply = (column: Index, count: number, apart: Index): void => {
    const aRows = strided(args.lda.mul(4), rows);
    const wRowBytes = args.ldw.mul(bytes);
    const wRows = strided(wRowBytes.mul(apart), count);
    const a = k.variable(first.a);
    const w = k.variable(args.w.atByte(column.mul(wRowBytes)));
    const sums = Array.from({ length: rows }, () => Array.from({ length: count }, () => k.variable(k.zero())));
    const addVector = (offset: number, lanes?: Index): void => {
      const weights = wRows(w.atByte(offset * bytes)).map((row) => row.as(element).load(lanes));
      aRows(a.at(offset)).forEach((row, r) => {
        const values = row.load(lanes);
        weights.forEach((weight, i) => {
          sums[r][i].addProduct(values, weight);
        });
      });
    };
    k.repeat(args.k.sar(Math.log2(lineElements)), () => {
      for (const row of wRows(w.atByte(AHEAD_BYTES))) row.prefetch(1);
      for (let i = 0; i < lineElements; i += k.lanes) addVector(i);
      w.advanceBytes(LINE_BYTES);
      a.advance(lineElements);
    });
    k.vectors(args.k.and(lineElements - 1), (_, lanes) => {
      addVector(0, lanes);
      w.advanceBytes(k.lanes * bytes);
      a.advance(k.lanes);
    });

    const to = k.variable(first.c.at(column));
    const source = k.variable(first.source.at(args.sourceColumn.mul(column)));
    const places = strided(apart.mul(4), count);
    const sources = strided(args.sourceColumn.mul(apart).mul(4), count);
    for (const row of sums) {
      const [results, before] = [places(to), sources(source)];
      row.forEach((sum, i) => {
        results[i].store(sum.sum().mul(args.alpha).add(before[i].loadF32()));
      });
      to.advance(args.ldc);
      source.advanceBytes(args.sourceRow);
    }
  };

  // Rows far apart are streams of their own: the processor's prefetching follows several pages at once, and ends with each.
  // Enough independent sums to hide the latency of the multiply-add, few enough for the registers.
  const count = rows <= 2 || k.target.vectorRegisters >= 32 ? GEMV_COLUMNS : GEMV_COLUMNS / 2;
  const column = k.variable(from);
  const rounds = end.sub(column).sar(Math.log2(count));
  k.repeat(rounds, () => {
    multiply(column, count, rounds);
    column.increase(1);
  });
  column.increase(rounds.mul(count - 1));
  k.loop({ from: column, to: end }, (last) => multiply(last, 1, rounds));
}

function gemvKernel(element: Weight, rows: number) {
  return defineKernel(`gemv_${element}_${rows}`, gemvArgs, (k, args) => {
    columnsOf(k, args, element, rows, args, k.begin, k.end);
  });
}

const groupsArgs = {
  ...gemvArgs,
  /** Rows of A, at least {@link GEMV_ROWS}. */
  m: "index",
  /** Rows of W that stay in the cache while all rows of A pass. */
  block: "index",
} as const;

/** More rows: W comes from memory once for all of them. The last group may repeat rows of the one before it, with the same results. */
function gemvGroupsKernel(element: Weight) {
  return defineKernel(`gemv_${element}_groups`, groupsArgs, (k, args) => {
    k.loop({ from: k.begin, to: k.end, step: args.block }, (from) => {
      const end = from.add(args.block).min(k.end);
      k.loop({ to: args.m, step: GEMV_ROWS }, (group) => {
        const row = group.min(args.m.sub(GEMV_ROWS));
        const first = {
          a: args.a.at(row.mul(args.lda)).fixed(),
          c: args.c.at(row.mul(args.ldc)).fixed(),
          source: args.source.atByte(row.mul(args.sourceRow)).fixed(),
        };
        columnsOf(k, args, element, GEMV_ROWS, first, from, end);
      });
    });
  });
}

/** Bytes of W that stay in the second-level cache. */
const BLOCK_BYTES = 128 * 1024;

/** The `block` for rows of W of so many bytes. */
export function gemvBlock(rowBytes: number): number {
  return GEMV_COLUMNS * Math.max(1, Math.floor(BLOCK_BYTES / rowBytes / GEMV_COLUMNS));
}

/** Below so many bytes of weights a call, sharing the work costs more than it saves. */
const LEAST_CALL_BYTES = 16_384;

/** Rows of W that one call takes, `rowBytes` each, in a product of few rows. */
export function fewRowsChunk(n: number, rowBytes: number, threads: number): number {
  const least = Math.ceil(LEAST_CALL_BYTES / (rowBytes * GEMV_COLUMNS));
  return GEMV_COLUMNS * Math.max(least, evenChunk(Math.ceil(n / GEMV_COLUMNS), threads));
}

const byRows = (element: Weight) => Array.from({ length: GEMV_ROWS }, (_, i) => gemvKernel(element, i + 1));

/** `gemv[element of W][rows − 1]`. An item is a row of W, a column of C. */
export const gemv = { f32: byRows("f32"), bf16: byRows("bf16") } as const;
/** For more rows than {@link GEMV_ROWS}. An item is a row of W. */
export const gemvGroups = { f32: gemvGroupsKernel("f32"), bf16: gemvGroupsKernel("bf16") } as const;
