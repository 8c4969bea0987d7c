/**
 * Matrix product on matrix tiles: `C = alpha·A·B (+ source)`, A f32, B f32 or bf16.
 *
 * Tiles multiply bf16 and add f32, so each f32 number is taken as a sum of bf16 numbers (`tile-packing.ts`). Two of them, 16
 * bits of mantissa, are as exact as f32 sums of some length are. B in bf16 is one by itself: products a₀·b + a₁·b. With both in f32:
 * a₀·b₀ + a₁·b₀ + a₀·b₁. Numbers below 2^-126 count as 0: the tile unit knows no subnormal ones.
 *
 * A is packed once by a kernel of its own; each thread packs the B it needs, as in `gemm.ts`. The sum of an output runs
 * over its row and column alone, in pieces of `DEPTH`, whatever the number of rows.
 */

import type { Builder } from "../lang/builder.ts";
import { type Arguments, defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import { beginTiles, endTiles, loadTile, multiplyTiles, storeTile, zeroTile } from "../lang/tiles.ts";
import type { Index, Pointer } from "../lang/values.ts";
import {
  blockOf,
  copyFinite,
  PAIR_BYTES,
  packTilesB,
  packTilesBTransposed,
  ROWS,
  SIDE,
  STEP,
  stepsOf,
  TILE_BYTES,
} from "./tile-packing.ts";

export { packTilesA } from "./tile-packing.ts";

/** Parts that an f32 number is taken as; with both sides in f32 three are not offered, `gemm.ts` is as fast. */
export type Terms = 1 | 2 | 3;
export type TilesElement = "f32" | "bf16";

/** Inner elements summed at a time. */
const DEPTH = 1024;
/** Numbers of B that an item packs at a time, each part counted. */
const PACKED_NUMBERS = 512 * DEPTH;
/** Columns of an item at most. */
const itemColumns = (partsB: number): number => PACKED_NUMBERS / DEPTH / partsB;
/** Of an item in the plan's table: first group of rows and the one after the last, first column and the one after the last. */
const ITEM_WORDS = 4;
/** The tiles' sums of one block of C. */
const SUMS_BYTES = 4 * TILE_BYTES;
/** First parts of a panel or group, what is not finite left out. */
const FINITE_BYTES = (DEPTH / STEP) * PAIR_BYTES;
/** Room for a number that tells whether all sums are finite. */
const FLAG_BYTES = 64;

const tilesArgs = {
  /** A as `packTilesA` left it. */
  packed: "u16*",
  b: "f32*",
  c: "f32*",
  /** What the sums are added to, as in `gemm`. */
  source: "f32*",
  sourceRow: "index",
  sourceColumn: "index",
  alpha: "f32",
  m: "index",
  n: "index",
  k: "index",
  groups: "index",
  ldb: "index",
  ldc: "index",
  /** The plan's table. */
  items: "i32*",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  /** `TILES_WORKSPACE_BYTES` a thread. */
  workspace: "f32*",
} as const;

function tilesKernel(element: TilesElement, transposed: boolean, terms: Terms) {
  const partsB = element === "bf16" ? 1 : terms;
  return defineKernel(`gemm_tiles_${element}_${transposed ? "nt" : "nn"}_${terms}`, tilesArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const sums = args.workspace.atByte(slot.mul(TILES_WORKSPACE_BYTES)).fixed();
    const packedB = sums.atByte(SUMS_BYTES + FLAG_BYTES + 2 * FINITE_BYTES).fixed();
    beginTiles(k);
    const item = k.variable(args.items.at(k.begin.mul(ITEM_WORDS)));
    k.repeat(k.end.sub(k.begin), () => {
      const [firstGroup, lastGroup, column, columnEnd] = [0, 1, 2, 3].map((word) => item.at(word).loadIndex());
      item.advance(ITEM_WORDS);
      k.loop({ to: args.k, step: DEPTH }, (p) => {
        const length = args.k.sub(p).min(DEPTH);
        const steps = stepsOf(length);
        const b = { b: args.b.as(element), ldb: args.ldb, p, length, column, columnEnd, to: packedB, parts: partsB };
        if (transposed) packTilesBTransposed(k, b);
        else packTilesB(k, b);
        const source = k.variable(args.source);
        const sourceRow = k.variable(args.sourceRow);
        const sourceColumn = k.variable(args.sourceColumn);
        k.if(p.gt(0), () => {
          source.set(args.c);
          sourceRow.set(args.ldc.mul(4));
          sourceColumn.set(1);
        });
        k.loop({ from: firstGroup, to: lastGroup }, (group) => {
          const before = args.groups.mul(p.sar(Math.log2(STEP))).add(group);
          const rows = args.packed.atByte(before.mul(terms * PAIR_BYTES)).fixed();
          const panel = k.variable(packedB);
          const row = group.mul(SIDE);
          const rowsLeft = args.m.sub(row).min(SIDE);
          k.loop({ from: column, to: columnEnd, step: SIDE }, (j) => {
            const place = { a: rows, aStride: args.groups.mul(terms * PAIR_BYTES), b: panel, steps, to: sums };
            tileBlock(k, { ...place, partsA: terms, partsB, rowsLeft });
            panel.advanceBytes(steps.mul(partsB * PAIR_BYTES));
            storeBlock(k, args, {
              sums,
              to: args.c.at(row.mul(args.ldc).add(j)),
              from: source.atByte(row.mul(sourceRow)).fixed().at(sourceColumn.mul(j)),
              sourceRow,
              rowsLeft,
              width: columnEnd.sub(j),
            });
          });
        });
      });
    });
    endTiles(k);
    release();
  });
}

interface Block {
  /** A's and B's first tiles. */
  readonly a: Pointer;
  readonly aStride: Index;
  readonly b: Pointer;
  readonly steps: Index;
  readonly to: Pointer;
  readonly partsA: number;
  readonly partsB: number;
  /** Rows that count: above 0, at most SIDE. */
  readonly rowsLeft: Index;
}

/** The sums of one block, `[row][column]`; those of its lower half only where it has rows there. */
function tileBlock(k: Builder, block: Block): void {
  const { rowsLeft, to, steps } = block;
  const either = (finiteA?: Pointer, finiteB?: Pointer) =>
    k.if(
      rowsLeft.gt(ROWS),
      () => multiplyBlock(k, block, 2, finiteA, finiteB),
      () => multiplyBlock(k, block, 1, finiteA, finiteB),
    );
  either();
  if (block.partsA === 1) return;
  // A number that is not finite must meet the other side's first part alone: 0, or an infinity of another sign, would make a
  // NaN of it. There, and where sums overflow, all is done again with such numbers only in the products of first parts.
  const flag = to.atByte(SUMS_BYTES).fixed();
  const total = k.variable(k.zero());
  const sum = k.variable(to);
  k.repeat(rowsLeft, () => {
    total.set(total.add(sum.load()).add(sum.at(ROWS).load()));
    sum.advance(SIDE);
  });
  flag.store(total.sub(total).compare("eq", 0).select(k.zero(), k.vector(1)).maximum());
  k.if(flag.as("i32").loadIndex().ne(0), () => {
    const finiteB = flag.atByte(FLAG_BYTES).fixed();
    copyFinite(k, block.b, k.index(block.partsB * PAIR_BYTES), steps, finiteB);
    if (block.partsB === 1) return either(undefined, finiteB);
    const finiteA = finiteB.atByte(FINITE_BYTES).fixed();
    copyFinite(k, block.a, block.aStride, steps, finiteA);
    either(finiteA, finiteB);
  });
}

/** Products of parts: those whose places add up to less than the number of parts. */
function multiplyBlock(k: Builder, block: Block, halves: number, finiteA?: Pointer, finiteB?: Pointer): void {
  const { partsA, partsB, steps, to } = block;
  k.comment(`${halves * ROWS} x ${SIDE} sums in tiles${finiteB ? ", finite parts apart" : ""}`);
  const row = k.index(TILE_BYTES / ROWS);
  const [left, right] = [k.variable(block.a), k.variable(block.b)];
  const [leftFinite, rightFinite] = [finiteA, finiteB].map((finite) => finite && k.variable(finite));
  for (let tile = 0; tile < 2 * halves; tile++) zeroTile(k, tile);
  k.repeat(steps, () => {
    for (let j = 0; j < partsB; j++) {
      for (let i = 0; i + j < partsA; i++) {
        const b = i > 0 && j === 0 ? rightFinite : undefined;
        if (i === 0 || (b && i === 1)) {
          const from = b ?? right.atByte(j * PAIR_BYTES);
          for (let side = 0; side < 2; side++) loadTile(k, 6 + side, from.atByte(side * TILE_BYTES), row);
        }
        const from = (j > 0 && i === 0 ? leftFinite : undefined) ?? left.atByte(i * PAIR_BYTES);
        for (let half = 0; half < halves; half++) {
          loadTile(k, 4 + half, from.atByte(half * TILE_BYTES), row);
          for (let side = 0; side < 2; side++) multiplyTiles(k, 2 * half + side, 4 + half, 6 + side);
        }
      }
    }
    left.advanceBytes(block.aStride);
    right.advanceBytes(partsB * PAIR_BYTES);
    for (const finite of [leftFinite, rightFinite]) finite?.advanceBytes(PAIR_BYTES);
  });
  const stride = k.index(SIDE * 4);
  for (let tile = 0; tile < 2 * halves; tile++) {
    const at = (tile >> 1) * ROWS * SIDE + (tile & 1) * ROWS;
    storeTile(k, tile, to.at(at), stride);
  }
}

interface Stored {
  readonly sums: Pointer;
  readonly to: Pointer;
  readonly from: Pointer;
  readonly sourceRow: Index;
  readonly rowsLeft: Index;
  /** Columns that are left. */
  readonly width: Index;
}

/** Sums into C, times alpha and added to what they are added to. */
function storeBlock(k: Builder, args: Arguments<typeof tilesArgs>, block: Stored): void {
  const { width, sourceRow } = block;
  const to = k.variable(block.to);
  const from = k.variable(block.from);
  const sum = k.variable(block.sums);
  const alpha = args.alpha.splat();
  const rowBytes = args.ldc.mul(4);
  k.repeat(block.rowsLeft, () => {
    for (let v = 0; v < 2; v++) {
      const [first, count] = [v * ROWS, width.sub(v * ROWS)];
      const value = sum.at(first).load().fma(alpha, from.at(first).load(count));
      to.at(first).store(value, count);
    }
    sum.advance(SIDE);
    to.advanceBytes(rowBytes);
    from.advanceBytes(sourceRow);
  });
}

function forms(element: TilesElement, terms: Terms) {
  return { nn: tilesKernel(element, false, terms), nt: tilesKernel(element, true, terms) };
}

/**
 * `gemmTiles[element of B][terms][form]`: `nn` takes B [k, n], `nt` takes B as [n, k]. Items: blocks of C.
 */
export const gemmTiles = {
  bf16: { 1: forms("bf16", 1), 2: forms("bf16", 2), 3: forms("bf16", 3) },
  f32: { 1: forms("f32", 1), 2: forms("f32", 2) },
} as const;

/** Bytes of one thread's workspace. */
export const TILES_WORKSPACE_BYTES = SUMS_BYTES + FLAG_BYTES + 2 * FINITE_BYTES + 2 * PACKED_NUMBERS;

/** What the choice between tiles and vectors depends on: nothing that differs between the rows of A. */
export interface TilesShape {
  readonly element: TilesElement;
  readonly form: "nn" | "nt";
  readonly n: number;
  /** The inner dimension. */
  readonly k: number;
  readonly terms: Terms;
}

/** Whether tiles take a product. With both sides in f32, small ones and three terms are left to vectors. */
export function fitsTiles({ element, form, n, k, terms }: TilesShape): boolean {
  if (form === "nt" && k % blockOf(element) !== 0) return false;
  return element === "bf16" || (terms !== 3 && n >= SIDE && k >= STEP);
}

export interface TilesPlan {
  /** Groups of rows; also the number of items of the packing kernel. */
  readonly groups: number;
  readonly packedBytes: number;
  /** Blocks of C; each is an item, for any thread. */
  readonly items: number;
  /** The kernel's table of items. */
  readonly table: Int32Array;
}

/** Cycles that packing a step of a panel of B takes, by a rough count, and fetching a step of a group of A from the shared cache. */
const PACK_CYCLES = 200;
const FETCH_CYCLES = 200;
/** A multiplication of tiles starts every 16 cycles; a block's step has four. */
const MULTIPLY_CYCLES = 64;

/**
 * Cuts C into blocks. Each packs its part of B and reads its part of A, so blocks should be large both ways, yet as many as
 * there are threads, or a multiple.
 */
export function planTiles(shape: TilesShape & { m: number }, threads: number): TilesPlan {
  const { element, m, n, k, terms } = shape;
  const groups = Math.ceil(m / SIDE);
  const panels = Math.ceil(n / SIDE);
  const partsB = element === "bf16" ? 1 : terms;
  const widest = Math.min(panels, itemColumns(partsB) / SIDE);
  const products = partsB === 1 ? terms : (terms * (terms + 1)) / 2;
  let [rows, columns, least] = [groups, widest, Number.POSITIVE_INFINITY];
  for (let cuts = 1; cuts <= Math.min(groups, 2 * threads); cuts++) {
    const height = Math.ceil(groups / cuts);
    for (let width = 1; width <= widest; width++) {
      const rounds = Math.ceil((Math.ceil(groups / height) * Math.ceil(panels / width)) / threads);
      const row = Math.max(width * products * MULTIPLY_CYCLES, terms * FETCH_CYCLES);
      const cycles = rounds * (width * partsB * PACK_CYCLES + height * row);
      if (cycles < least) [rows, columns, least] = [height, width, cycles];
    }
  }
  const table: number[] = [];
  for (let column = 0; column < n; column += columns * SIDE) {
    for (let group = 0; group < groups; group += rows) {
      table.push(group, Math.min(group + rows, groups), column, Math.min(column + columns * SIDE, n));
    }
  }
  return {
    groups,
    packedBytes: Math.ceil(k / STEP) * groups * terms * PAIR_BYTES,
    items: table.length / ITEM_WORDS,
    table: Int32Array.from(table),
  };
}
