/**
 * Matrix product with bf16 weights on matrix tiles: `C = alpha·A·B (+ source)`, A f32, as exact as f32 sums are.
 *
 * Tiles multiply bf16 and add f32. B is bf16 already; each number of A is taken as a sum of two bf16 numbers, 16 bits of
 * mantissa, and multiplied twice. Where the first is not finite the second is 0. Numbers below 2^-126 count as 0: the
 * tile unit knows no subnormal ones.
 *
 * A is packed once by a kernel of its own; each thread packs the B it needs, as in `gemm.ts`. The sum of an output runs
 * over its row and column alone, in pieces of `DEPTH`, whatever the number of rows.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace, loadRows, transposeBlocks } from "../lang/math.ts";
import { beginTiles, endTiles, loadTile, multiplyTiles, storeTile, zeroTile } from "../lang/tiles.ts";
import type { Index, Pointer } from "../lang/values.ts";
import { toBf16 } from "./vector-math.ts";

/** Rows and columns of the block of C that four tiles hold. */
const SIDE = 32;
/** Rows of a tile. */
const ROWS = 16;
/** Inner elements of a tile of A or B. */
const STEP = 32;
const TILE_BYTES = 1024;
/** Both parts of both tiles of a group of rows. */
const GROUP_BYTES = 4 * TILE_BYTES;
/** Both tiles of a panel of columns. */
const PANEL_BYTES = 2 * TILE_BYTES;
/** Inner elements summed at a time. */
const DEPTH = 1024;
const BLOCK_COLUMNS = 512;
/** The tiles' sums of one block of C. */
const SUMS_BYTES = 4 * TILE_BYTES;

// ---- packing of A ----

/** `[step of the inner dimension][group of rows][half of the rows][part][row][32]`, in bf16. An item is a group of rows. */
export const packTilesA = defineKernel(
  "pack_tiles_a",
  { a: "f32*", packed: "u16*", m: "index", k: "index", lda: "index", groups: "index" },
  (k, args) => {
    const stride = args.groups.mul(GROUP_BYTES);
    k.loop({ from: k.begin, to: k.end }, (group) => {
      const to = k.variable(args.packed.atByte(group.mul(GROUP_BYTES)));
      k.loop({ to: args.k, step: STEP }, (p) => {
        const left = args.k.sub(p);
        k.loop({ to: SIDE }, (r) => {
          // Rows past the end repeat the last one; what they give is never stored.
          const row = group.mul(SIDE).add(r).min(args.m.sub(1));
          const from = args.a.at(row.mul(args.lda).add(p)).fixed();
          const place = to.atByte(r.mul(STEP * 2).add(r.sar(4).mul(TILE_BYTES))).fixed();
          for (const first of [0, k.lanes]) {
            const x = from.at(first).load(left.sub(first));
            const high = toBf16(x);
            const taken = high.shl(16).float();
            const rest = taken.abs().compare("lt", Number.POSITIVE_INFINITY).select(x.sub(taken), k.zero());
            place.at(first).store(high);
            place.atByte(TILE_BYTES).at(first).store(toBf16(rest));
          }
        });
        to.advanceBytes(stride);
      });
    });
  },
);

// ---- the product ----

interface Block {
  readonly b: Pointer;
  readonly ldb: Index;
  readonly p: Index;
  readonly length: Index;
  readonly column: Index;
  readonly columnEnd: Index;
  readonly to: Pointer;
}

/** Bytes of a packed panel of `length` inner elements. */
const panelBytes = (length: Index): Index =>
  length
    .add(STEP - 1)
    .sar(Math.log2(STEP))
    .mul(PANEL_BYTES);

/** B [k, n] into `[panel][step][tile][row / 2][column][row % 2]`; what lies beyond is 0. */
function packTilesB(k: Builder, { b, ldb, p, length, column, columnEnd, to }: Block): void {
  const words = b.as("u16");
  const pairs = length
    .add(STEP - 1)
    .alignDown(STEP)
    .sar(1);
  const panel = k.variable(to);
  k.loop({ from: column, to: columnEnd, step: SIDE }, (j) => {
    k.loop({ to: pairs, maySpill: true }, (pair) => {
      const row = pair.mul(2);
      const place = panel.atByte(pair.mul(64).add(pair.sar(4).mul(TILE_BYTES))).fixed();
      const at = k.variable(words.at(p.add(row).mul(ldb)).fixed().at(j));
      for (let tile = 0; tile < 2; tile++) {
        const width = columnEnd.sub(j).sub(tile * ROWS);
        // Rows past the end are read with no lanes.
        const some = (left: Index) => {
          const count = k.variable(width);
          k.if(left.le(0), () => count.set(0));
          return count;
        };
        const low = at.at(tile * ROWS).loadInt(some(length.sub(row)));
        const high = at
          .at(ldb)
          .fixed()
          .at(tile * ROWS)
          .loadInt(some(length.sub(row).sub(1)));
        place
          .atByte(tile * TILE_BYTES)
          .as("i32")
          .store(low.or(high.shl(16)));
      }
    });
    panel.advanceBytes(panelBytes(length));
  });
}

/** B given as [n, k], the way weights lie: neighbours in a row are the pairs already. k is a multiple of 8. */
function packTilesBTransposed(k: Builder, { b, ldb, p, length, column, columnEnd, to }: Block): void {
  const panel = k.variable(to);
  const last = columnEnd.sub(1);
  k.loop({ from: column, to: columnEnd, step: SIDE }, (j) => {
    for (let tile = 0; tile < 2; tile++) {
      const rows = Array.from({ length: ROWS }, (_, i) =>
        b
          .at(
            j
              .add(tile * ROWS + i)
              .min(last)
              .mul(ldb)
              .add(p),
          )
          .as("f32")
          .fixed(),
      );
      const place = k.variable(panel.atByte(tile * TILE_BYTES).as("f32"));
      // Four words of every row at a time, and a whole step filled up with zeros.
      k.loop({ to: length.add(STEP - 1).alignDown(STEP), step: STEP, maySpill: true }, (i) => {
        for (let s = 0; s < STEP / 8; s++) {
          const lines = Array.from({ length: 4 }, (_, w) => place.at((s * 4 + w) * ROWS));
          k.if(
            length.sub(i).gt(s * 8),
            () =>
              transposeBlocks(
                k,
                loadRows(
                  k,
                  rows.map((row) => row.atByte(i.mul(2)).atByte(s * 16)),
                ),
              ).forEach((words, w) => {
                lines[w].store(words);
              }),
            () => {
              for (const line of lines) line.store(k.zero());
            },
          );
        }
        place.advanceBytes(PANEL_BYTES);
      });
    }
    panel.advanceBytes(panelBytes(length));
  });
}

function tilesKernel(transposed: boolean) {
  return defineKernel(
    `gemm_tiles_${transposed ? "nt" : "nn"}`,
    {
      /** A as `packTilesA` left it. */
      packed: "u16*",
      b: "bf16*",
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
      /** Whether an item is a group of rows rather than a panel of columns. */
      byRows: "index",
      /** One i32 flag a thread, 0 at first. */
      slots: "i32*",
      /** `TILES_WORKSPACE_BYTES` a thread. */
      workspace: "f32*",
    },
    (k, args) => {
      const { slot, release } = claimWorkspace(k, args.slots);
      const sums = args.workspace.atByte(slot.mul(TILES_WORKSPACE_BYTES)).fixed();
      const packedB = sums.atByte(SUMS_BYTES).fixed();
      const firstGroup = k.variable(k.index(0));
      const lastGroup = k.variable(args.groups);
      const firstColumn = k.variable(k.index(0));
      const lastColumn = k.variable(args.n);
      k.if(
        args.byRows.ne(0),
        () => {
          firstGroup.set(k.begin);
          lastGroup.set(k.end);
        },
        () => {
          firstColumn.set(k.begin.mul(SIDE));
          lastColumn.set(k.end.mul(SIDE).min(args.n));
        },
      );
      beginTiles(k);
      k.loop({ from: firstColumn, to: lastColumn, step: BLOCK_COLUMNS }, (column) => {
        const columnEnd = column.add(BLOCK_COLUMNS).min(lastColumn);
        k.loop({ to: args.k, step: DEPTH }, (p) => {
          const length = args.k.sub(p).min(DEPTH);
          const block = { b: args.b, ldb: args.ldb, p, length, column, columnEnd, to: packedB };
          if (transposed) packTilesBTransposed(k, block);
          else packTilesB(k, block);
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
            const rows = args.packed.atByte(before.mul(GROUP_BYTES)).fixed();
            const panel = k.variable(packedB);
            k.loop({ from: column, to: columnEnd, step: SIDE }, (j) => {
              const steps = length.add(STEP - 1).sar(Math.log2(STEP));
              tileBlock(k, rows, args.groups.mul(GROUP_BYTES), panel, steps, sums);
              panel.advanceBytes(panelBytes(length));
              const row = group.mul(SIDE);
              const to = k.variable(args.c.at(row.mul(args.ldc).add(j)));
              const from = k.variable(source.atByte(row.mul(sourceRow)).fixed().at(sourceColumn.mul(j)));
              const sum = k.variable(sums);
              const width = columnEnd.sub(j);
              const alpha = args.alpha.splat();
              const rowBytes = args.ldc.mul(4);
              k.repeat(args.m.sub(row).min(SIDE), () => {
                for (let v = 0; v < 2; v++) {
                  const count = width.sub(v * ROWS);
                  const value = sum
                    .at(v * ROWS)
                    .load()
                    .fma(alpha, from.at(v * ROWS).load(count));
                  to.at(v * ROWS).store(value, count);
                }
                sum.advance(SIDE);
                to.advanceBytes(rowBytes);
                from.advanceBytes(sourceRow);
              });
            });
          });
        });
      });
      endTiles(k);
      release();
    },
  );
}

/** The sums of one block of 32 × 32, `[row][column]`, over `steps` tiles. */
function tileBlock(k: Builder, a: Pointer, aStride: Index, b: Pointer, steps: Index, to: Pointer): void {
  const row = k.index(64);
  const [left, right] = [k.variable(a), k.variable(b)];
  for (let tile = 0; tile < 4; tile++) zeroTile(k, tile);
  k.repeat(steps, () => {
    loadTile(k, 6, right, row);
    loadTile(k, 7, right.atByte(TILE_BYTES), row);
    for (let part = 0; part < 2; part++) {
      for (let half = 0; half < 2; half++) {
        loadTile(k, 4 + half, left.atByte((2 * half + part) * TILE_BYTES), row);
        for (let side = 0; side < 2; side++) multiplyTiles(k, 2 * half + side, 4 + half, 6 + side);
      }
    }
    left.advanceBytes(aStride);
    right.advanceBytes(PANEL_BYTES);
  });
  const stride = k.index(SIDE * 4);
  for (let tile = 0; tile < 4; tile++) {
    const at = (tile >> 1) * ROWS * SIDE + (tile & 1) * ROWS;
    storeTile(k, tile, to.at(at), stride);
  }
}

/** `gemmTiles[form]`: `nn` takes B [k, n], `nt` takes B as [n, k]. Items: panels of 32 columns, or groups of 32 rows. */
export const gemmTiles = { nn: tilesKernel(false), nt: tilesKernel(true) } as const;

/** Bytes of one thread's workspace. */
export const TILES_WORKSPACE_BYTES = SUMS_BYTES + BLOCK_COLUMNS * DEPTH * 2;

/** Whether tiles take a product with this inner dimension and B in this form. */
export const fitsTiles = (form: "nn" | "nt", inner: number): boolean => form === "nn" || inner % 8 === 0;

export interface TilesPlan {
  /** Groups of rows; also the number of items of the packing kernel. */
  readonly groups: number;
  readonly packedBytes: number;
  readonly byRows: boolean;
  readonly items: number;
  /** Items that one call should take. */
  readonly chunk: number;
}

export function planTiles(m: number, n: number, inner: number, threads: number): TilesPlan {
  const groups = Math.ceil(m / SIDE);
  const panels = Math.ceil(n / SIDE);
  const byRows = groups > panels && panels < 8 * threads;
  const items = byRows ? groups : panels;
  const chunk = Math.max(byRows ? 2 : 1, Math.ceil(items / (threads === 1 ? 1 : 4 * threads)));
  return { groups, packedBytes: Math.ceil(inner / STEP) * groups * GROUP_BYTES, byRows, items, chunk };
}
