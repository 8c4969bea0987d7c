/**
 * The product of a few rows with a matrix that lies as weights do, `C [rows, n] = alpha·A [rows, k]·Wᵀ (+ source)` with
 * W [n, k]: what decoding spends its time on. W is read once, straight from where it lies, a cache line of each row at a
 * time: a small buffer takes the transposed lines, so that lanes are rows of W, while the lines before are multiplied.
 * Each sum thus runs over the inner dimension in the same order and pieces as in `gemm.ts` and gives the same bits.
 */

import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace, loadRows, transposeBlocks } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";

/** Rows of A that one kernel can take. */
export const GEMV_ROWS = 4;
const LINE_BYTES = 64;
/** Words of 4 bytes in a line. */
const WORDS = LINE_BYTES / 4;
/** Squares of 4 × 4 words across a line. */
const SQUARES = WORDS / 4;

type Weight = "f32" | "bf16";
const bytesOf = (element: Weight): 2 | 4 => (element === "bf16" ? 2 : 4);

/** Vectors of W's rows at once: with the rows of A enough independent sums to hide the latency of the multiply-add. */
const groups = (rows: number): number => (rows <= 2 ? 4 : 2);

/** Columns of C, rows of W, that are one item. */
export function gemvColumns(target: Target, rows: number): number {
  return groups(rows) * target.lanes;
}

/** A line of each row of an item. */
const bufferFloats = (target: Target): number => gemvColumns(target, 1) * WORDS;

/** Bytes of one thread's workspace: two such buffers. */
export function gemvWorkspaceBytes(target: Target): number {
  return 2 * 4 * bufferFloats(target);
}

/** Whether `gemv[element][rows - 1]` takes these sizes; `gemm` takes all. */
export function fitsGemv(target: Target, element: Weight, rows: number, n: number, k: number): boolean {
  return rows <= GEMV_ROWS && n % gemvColumns(target, rows) === 0 && (k * bytesOf(element)) % LINE_BYTES === 0;
}

const args = {
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
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  /** `gemvWorkspaceBytes` a thread. */
  workspace: "f32*",
} as const;

/** The places of `count` rows, `stride` bytes apart, that share one base and need few registers besides. */
function strided(stride: Index, count: number): (base: Pointer) => Pointer[] {
  const odd = new Map<number, Index>();
  for (let i = 1; i < count; i += 2) odd.set(i, stride.mul(i));
  return (base) =>
    Array.from({ length: count }, (_, i) => {
      if (i === 0) return base;
      const scale = (i & -i) as 1 | 2 | 4 | 8;
      return base.atStride(odd.get(i / scale)!, scale);
    });
}

function gemvKernel(element: Weight, rows: number) {
  return defineKernel(`gemv_${element}_${rows}`, args, (k, args) => {
    const { depth } = k.target.gemm;
    const { lanes } = k;
    const count = groups(rows);
    const bytes = bytesOf(element);
    const lineElements = LINE_BYTES / bytes;
    const wRowBytes = args.ldw.mul(bytes);
    const wRows = strided(wRowBytes, lanes);
    const aRows = strided(args.lda.mul(4), rows);
    const { slot, release } = claimWorkspace(k, args.slots);
    const buffer = args.workspace.atByte(slot.mul(gemvWorkspaceBytes(k.target))).fixed();

    /** Quarter `s` of the lines of one vector of rows into a buffer: [word of 4 bytes][group][row]. */
    const transposeQuarter = (w: Pointer, to: Pointer, s: number): void =>
      transposeBlocks(k, loadRows(k, wRows(w.atByte(s * (LINE_BYTES / SQUARES))))).forEach((words, i) => {
        to.at((s * 4 + i) * count * lanes).store(words);
      });
    /** Adds what one word of each row gives: two products of bf16 elements, or one of f32. */
    const multiplyWord = (a: Pointer, from: Pointer, sums: readonly VF[][]): void => {
      const words = () => sums[0].map((_, g) => from.at(g * lanes).load());
      const add = (j: number, values: VF[]): void =>
        aRows(a.at(j)).forEach((row, r) => {
          const factor = row.broadcast();
          values.forEach((value, g) => {
            sums[r][g].addProduct(factor, value);
          });
        });
      if (element === "bf16") {
        add(
          0,
          words().map((word) => word.bits().shl(16).float()),
        );
        add(
          1,
          words().map((word) => word.bits().and(-0x10000).float()),
        );
      } else add(0, words());
    };
    const eachGroup = (w: Pointer, to: Pointer, body: (w: Pointer, to: Pointer) => void): void => {
      const group = k.variable(w);
      const place = k.variable(to);
      // Four rows of A need one register too many: the counter, used once in some hundred instructions, may be spilled.
      // Sixteen rows of W need more.
      k.loop({ to: count, maySpill: rows === GEMV_ROWS || lanes > 8 }, () => {
        body(group, place);
        group.advanceBytes(wRowBytes.mul(lanes));
        place.advance(lanes);
      });
    };

    k.loop({ from: k.begin, to: k.end }, (item) => {
      const column = item.mul(count * lanes);
      const w = k.variable(args.w.atByte(column.mul(wRowBytes)).as("f32"));
      // The processor does not foresee the jumps from row to row; the next item is asked for in order, meanwhile.
      const ahead = k.variable(w.atByte(wRowBytes.mul(count * lanes)));
      const source = k.variable(args.source.at(args.sourceColumn.mul(column)));
      const sourceRow = k.variable(args.sourceRow);
      const sourceGroup = k.variable(args.sourceColumn.mul(lanes));
      const a = k.variable(args.a);
      const now = k.variable(buffer);
      const next = k.variable(buffer.at(bufferFloats(k.target)));
      eachGroup(w, now, (group, place) => {
        for (let s = 0; s < SQUARES; s++) transposeQuarter(group, place, s);
      });
      const left = k.variable(args.k);
      k.loop({ to: args.k, step: depth }, (p) => {
        const sums = Array.from({ length: rows }, () => Array.from({ length: count }, () => k.variable(k.zero())));
        k.loop({ to: args.k.sub(p).min(depth), step: lineElements }, () => {
          // After the last line there is none: it is transposed once more, for nothing.
          left.decrease(lineElements);
          k.if(left.gt(0), () => w.advanceBytes(LINE_BYTES));
          const from = k.variable(now);
          // Transposing the next lines keeps other units busy than multiplying by these.
          eachGroup(w, next, (group, place) => {
            for (let s = 0; s < SQUARES; s++) {
              transposeQuarter(group, place, s);
              for (let i = 0; i < WORDS / SQUARES / count; i++) {
                multiplyWord(a, from, sums);
                a.advance(4 / bytes);
                from.advance(count * lanes);
              }
              for (let line = 0; line < lanes / SQUARES; line++) ahead.atByte(line * LINE_BYTES).prefetch();
              ahead.advanceBytes((lanes / SQUARES) * LINE_BYTES);
            }
          });
          const done = k.variable(now);
          now.set(next);
          next.set(done);
        });
        const alpha = args.alpha.splat();
        const to = k.variable(args.c.at(column));
        const before = k.variable(source);
        for (const row of sums) {
          const place = k.variable(before);
          row.forEach((sum, g) => {
            to.at(g * lanes).store(sum.fma(alpha, place.load()));
            place.advance(sourceGroup);
          });
          to.advance(args.ldc);
          before.advanceBytes(sourceRow);
        }
        source.set(args.c.at(column));
        sourceRow.set(args.ldc.mul(4));
        sourceGroup.set(lanes);
      });
    });
    release();
  });
}

const byRows = (element: Weight) => Array.from({ length: GEMV_ROWS }, (_, i) => gemvKernel(element, i + 1));

/** `gemv[element of W][rows − 1]`. Items are groups of `gemvColumns` columns. */
export const gemv = { f32: byRows("f32"), bf16: byRows("bf16") } as const;
