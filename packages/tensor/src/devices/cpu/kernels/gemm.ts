/**
 * Matrix product `C = alpha·A·B (+ C) (+ bias)`, f32 sums, blocked for the caches (Goto & van de Geijn, 2008).
 *
 * A is packed once, by a kernel of its own, into tiles of as many rows as the register tile has. Each thread takes
 * columns of C (or rows, when there are few columns), packs the B it needs for them and multiplies.
 *
 * The sum of one output is cut every `depth` elements of the inner dimension; each piece is summed in order from 0 and
 * added to C in order. So an output depends on its row of A and its column of B alone, bit for bit: not on the number
 * of rows, nor on how the work is divided.
 */

import type { Builder } from "../lang/builder.ts";
import { type Arguments, defineKernel } from "../lang/kernel.ts";
import { claimWorkspace, eachColumn } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";

/** f32 elements of a cache line. */
const LINE = 16;
/**
 * Elements of A's tiles that are asked for ahead: some 500 cycles of work, what the next cache but one takes. The processor's
 * own prefetching ends with the page, and a tile is hardly longer.
 */
const AHEAD = 512;

export const panelColumns = ({ gemm, lanes }: Target): number => gemm.vectors * lanes;
/** Columns whose B is packed at a time: some 512. */
const blockPanels = (target: Target): number => Math.floor(512 / panelColumns(target));

/** f32 elements from one packed tile of A to the next: storing whole vectors may run past a tile's end. */
function tileStride(target: Target, inner: number): number {
  const { depth, rows } = target.gemm;
  return Math.min(depth, Math.ceil(inner / target.lanes) * target.lanes) * rows + target.lanes;
}

function tileStrideOf(k: Builder, inner: Index): Index {
  const { depth, rows } = k.target.gemm;
  const rounded = inner.add(k.lanes - 1).alignDown(k.lanes);
  return rounded.min(depth).mul(rows).add(k.lanes);
}

// ---- packing of A ----

const packArgs = {
  /** A [m, k], or [k, m] for the transposing kernel. */
  a: "f32*",
  packed: "f32*",
  m: "index",
  k: "index",
  /** Elements from one row of the given matrix to the next. */
  lda: "index",
  /** Tiles of rows in all: ⌈m / rows of the register tile⌉. */
  tiles: "index",
} as const;

/** Packs A into `[block of the inner dimension][tile of rows][k][row]`. An item is a tile of rows. */
function packKernel(name: string, transposed: boolean) {
  return defineKernel(name, packArgs, (k, args) => {
    const { rows, depth } = k.target.gemm;
    const stride = tileStrideOf(k, args.k);
    const blockStride = stride.mul(args.tiles);
    k.loop({ from: k.begin, to: k.end }, (tile) => {
      const row = tile.mul(rows);
      const to = k.variable(args.packed.at(tile.mul(stride)));
      k.loop({ to: args.k, step: depth }, (p) => {
        const length = args.k.sub(p).min(depth);
        if (transposed) copyTile(k, args, row, p, length, to);
        else transposeTile(k, args, row, p, length, to);
        to.advance(blockStride);
      });
    });
  });
}

function transposeTile(k: Builder, args: Arguments<typeof packArgs>, row: Index, p: Index, length: Index, to: Pointer) {
  const last = args.m.sub(1);
  const lda = args.lda;
  // Rows past the end repeat the last one; what they give is never stored.
  packTile(k, (i) => args.a.at(row.add(i).min(last).mul(lda).add(p)).fixed(), length, to);
}

/**
 * Rows of a tile into `[k][row]`, a vector of rows at a time. The last ones come first: their vectors run past the
 * tile's rows, over places that are written afterwards.
 */
export function packTile(
  k: Builder,
  rowAt: (i: number) => Pointer,
  length: Index,
  to: Pointer,
  change = (column: VF) => column,
): void {
  const { rows } = k.target.gemm;
  for (const first of rowVectors(k).toReversed()) {
    const from = Array.from({ length: k.lanes }, (_, i) => rowAt(first + i));
    const place = k.variable(to.at(first));
    eachColumn(k, from, length, (columns) => {
      columns.forEach((column, j) => {
        place.at(j * rows).store(change(column));
      });
      place.advance(columns.length * rows);
    });
  }
}

/** The first rows of the vectors that a tile's rows take. */
const rowVectors = (k: Builder): number[] =>
  Array.from({ length: Math.ceil(k.target.gemm.rows / k.lanes) }, (_, v) => v * k.lanes);

function copyTile(k: Builder, args: Arguments<typeof packArgs>, row: Index, p: Index, length: Index, to: Pointer) {
  const { rows } = k.target.gemm;
  const lda = args.lda;
  const from = k.variable(args.a.at(p.mul(lda)).fixed().at(row));
  const place = k.variable(to);
  const firsts = rowVectors(k);
  const step = (counts: readonly (Index | undefined)[]) => () => {
    counts.forEach((count, v) => {
      place.at(firsts[v]).store(from.at(firsts[v]).load(count));
    });
    place.advance(rows);
    from.advance(lda);
  };
  const count = args.m.sub(row);
  k.if(
    count.ge(firsts.length * k.lanes),
    () => k.repeat(length, step(firsts.map(() => undefined))),
    () => k.repeat(length, step(firsts.map((first) => count.sub(first)))),
  );
}

export const packA = packKernel("pack_a", false);
export const packATransposed = packKernel("pack_a_transposed", true);

// ---- the product ----

const gemmArgs = {
  /** A as `packA` left it. */
  packed: "f32*",
  b: "f32*",
  c: "f32*",
  /** What the sums are added to: C itself, a bias, or a line of zeros, told by the two strides. */
  source: "f32*",
  /** Bytes from row to row of `source`: 4·ldc, or 0. */
  sourceRow: "index",
  /** Elements from column to column of `source`: 1, or 0. */
  sourceColumn: "index",
  alpha: "f32",
  m: "index",
  n: "index",
  k: "index",
  tiles: "index",
  ldb: "index",
  ldc: "index",
  /** Columns whose B is packed at a time: whole panels, no more than the workspace holds. */
  blockColumns: "index",
  /** Whether an item is a tile of rows rather than a panel of columns. */
  byRows: "index",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  /** `gemmWorkspaceBytes` a thread. */
  workspace: "f32*",
} as const;

function gemmKernel(element: "f32" | "bf16", transposed: boolean) {
  return defineKernel(`gemm_${element}_${transposed ? "nt" : "nn"}`, gemmArgs, (k, args) => {
    const { rows, depth, blockRows } = k.target.gemm;
    const columns = panelColumns(k.target);
    const { slot, release } = claimWorkspace(k, args.slots);
    const packedB = args.workspace.at(slot.mul(gemmWorkspaceBytes(k.target) / 4)).fixed();
    const firstTile = k.variable(k.index(0));
    const lastTile = k.variable(args.tiles);
    const firstColumn = k.variable(k.index(0));
    const lastColumn = k.variable(args.n);
    k.if(
      args.byRows.ne(0),
      () => {
        firstTile.set(k.begin);
        lastTile.set(k.end);
      },
      () => {
        firstColumn.set(k.begin.mul(columns));
        lastColumn.set(k.end.mul(columns).min(args.n));
      },
    );
    k.loop({ from: firstColumn, to: lastColumn, step: args.blockColumns }, (column) => {
      const columnEnd = column.add(args.blockColumns).min(lastColumn);
      const packedBlock = k.variable(args.packed);
      k.loop({ to: args.k, step: depth }, (p) => {
        const length = args.k.sub(p).min(depth);
        const b = { b: args.b.as(element), ldb: args.ldb, p, length, column, columnEnd, to: packedB };
        if (transposed) packBTransposed(k, b);
        else packB(k, b);
        const source = k.variable(args.source);
        const sourceRow = k.variable(args.sourceRow);
        const sourceColumn = k.variable(args.sourceColumn);
        k.if(p.gt(0), () => {
          source.set(args.c);
          sourceRow.set(args.ldc.mul(4));
          sourceColumn.set(1);
        });
        k.loop({ from: firstTile, to: lastTile, step: blockRows / rows }, (block) => {
          const blockEnd = block.add(blockRows / rows).min(lastTile);
          k.loop({ from: column, to: columnEnd, step: columns }, (j) => {
            const panel = packedB.at(j.sub(column).mul(length)).fixed();
            const width = columnEnd.sub(j);
            const stride = tileStrideOf(k, args.k);
            const a = k.variable(packedBlock.at(block.mul(stride)));
            k.loop({ from: block, to: blockEnd }, (tile) => {
              const row = tile.mul(rows);
              multiplyTile(k, {
                a,
                panel,
                length,
                c: args.c.at(row.mul(args.ldc).add(j)).fixed(),
                ldc: args.ldc.mul(4),
                source: source.atByte(row.mul(sourceRow)).fixed().at(sourceColumn.mul(j)).fixed(),
                sourceRow,
                alpha: () => args.alpha.splat(),
                rowsLeft: args.m.sub(row),
                width,
              });
              a.advance(tileStrideOf(k, args.k));
            });
          });
        });
        packedBlock.advance(tileStrideOf(k, args.k).mul(args.tiles));
      });
    });
    release();
  });
}

export interface Block {
  readonly b: Pointer;
  readonly ldb: Index;
  /** The inner elements p … p + length. */
  readonly p: Index;
  readonly length: Index;
  readonly column: Index;
  readonly columnEnd: Index;
  readonly to: Pointer;
  /** Row of B in which a column's elements lie, for {@link packBTransposed}; that of its number unless given. */
  readonly rowOf?: (column: Index) => Index;
}

/** B [k, n] into `[panel of columns][k][column]` as f32. */
function packB(k: Builder, { b, ldb, p, length, column, columnEnd, to }: Block): void {
  const { vectors } = k.target.gemm;
  const place = k.variable(to);
  const row = k.variable(b.at(p.mul(ldb)).fixed().at(column));
  k.loop({ from: column, to: columnEnd, step: panelColumns(k.target) }, (j) => {
    const width = columnEnd.sub(j);
    const from = k.variable(row);
    const step = (counts: readonly (Index | undefined)[]) => () => {
      counts.forEach((count, v) => {
        place.at(v * k.lanes).store(from.at(v * k.lanes).load(count));
      });
      place.advance(vectors * k.lanes);
      from.advance(ldb);
    };
    k.if(
      width.ge(panelColumns(k.target)),
      () => k.repeat(length, step(Array(vectors).fill(undefined))),
      () => k.repeat(length, step(Array.from({ length: vectors }, (_, v) => width.sub(v * k.lanes)))),
    );
    row.advance(panelColumns(k.target));
  });
}

/** B given as [n, k], the way weights of linear layers lie, into the same panels. */
export function packBTransposed(k: Builder, { b, ldb, p, length, column, columnEnd, to, rowOf }: Block): void {
  const { vectors } = k.target.gemm;
  const columns = panelColumns(k.target);
  const place = k.variable(to);
  const last = columnEnd.sub(1);
  k.loop({ from: column, to: columnEnd, step: columns }, (j) => {
    for (let v = 0; v < vectors; v++) {
      const from = Array.from({ length: k.lanes }, (_, i) => {
        // Columns past the end repeat the last one; what they give is never stored.
        const number = j.add(v * k.lanes + i).min(last);
        return b.at((rowOf ? rowOf(number) : number).mul(ldb).add(p)).fixed();
      });
      const out = k.variable(place.at(v * k.lanes));
      eachColumn(k, from, length, (vectors) => {
        vectors.forEach((vector, i) => {
          out.at(i * columns).store(vector);
        });
        out.advance(vectors.length * columns);
      });
    }
    place.advance(length.mul(columns));
  });
}

interface Tile {
  readonly a: Pointer;
  readonly panel: Pointer;
  readonly length: Index;
  readonly c: Pointer;
  /** Bytes from row to row of C. */
  readonly ldc: Index;
  readonly source: Pointer;
  readonly sourceRow: Index;
  readonly alpha: () => VF;
  readonly rowsLeft: Index;
  /** Columns of C that are left. */
  readonly width: Index;
}

/** One register tile of C, whole or cut at the lower or right edge. */
function multiplyTile(k: Builder, tile: Tile): void {
  const { rows } = k.target.gemm;
  k.if(
    tile.rowsLeft.ge(rows),
    () =>
      k.if(
        tile.width.ge(panelColumns(k.target)),
        () => registerTile(k, tile, rows, true),
        () => registerTile(k, tile, rows, false),
      ),
    () => {
      for (let r = 1; r < rows; r++) k.if(tile.rowsLeft.eq(r), () => registerTile(k, tile, r, false));
    },
  );
}

function registerTile(k: Builder, tile: Tile, rows: number, whole: boolean): void {
  const { vectors, rows: tileRows, unroll } = k.target.gemm;
  const columns = panelColumns(k.target);
  k.comment(`register tile ${rows} x ${columns}${whole ? "" : ", cut"}`);
  const sums = Array.from({ length: rows }, () => Array.from({ length: vectors }, () => k.variable(k.vector(0))));
  const a = k.variable(tile.a);
  const b = k.variable(tile.panel);
  // The sums are added to C after some thousand cycles: time enough to fetch it.
  const early = k.variable(tile.c);
  for (let r = 0; r < rows; r++) {
    for (let at = 0; at < columns; at += LINE) early.at(at).prefetch(1);
    early.advanceBytes(tile.ldc);
  }
  const step = (u: number): void => {
    const right = Array.from({ length: vectors }, (_, v) => b.at(u * columns + v * k.lanes).load());
    sums.forEach((row, r) => {
      const left = a.at(u * tileRows + r).broadcast();
      row.forEach((sum, v) => {
        sum.addProduct(left, right[v]);
      });
    });
  };
  const rounds = (count: Index, steps: number): void =>
    k.repeat(count, () => {
      for (let u = 0; u < steps; u++) {
        if (steps === unroll && (u * tileRows) % LINE < tileRows) a.at(u * tileRows + AHEAD).prefetch(1);
        step(u);
      }
      a.advance(steps * tileRows);
      b.advance(steps * columns);
    });
  rounds(tile.length.sar(Math.log2(unroll)), unroll);
  if (unroll > 1) rounds(tile.length.and(unroll - 1), 1);

  const alpha = tile.alpha();
  const c = k.variable(tile.c);
  const source = k.variable(tile.source);
  for (const row of sums) {
    row.forEach((sum, v) => {
      const count = whole ? undefined : tile.width.sub(v * k.lanes);
      const before = source.at(v * k.lanes).load(count);
      c.at(v * k.lanes).store(sum.fma(alpha, before), count);
    });
    c.advanceBytes(tile.ldc);
    source.advanceBytes(tile.sourceRow);
  }
}

/** `gemm[element of B][form]`: `nn` takes B [k, n], `nt` takes B as [n, k]. */
export const gemm = {
  f32: { nn: gemmKernel("f32", false), nt: gemmKernel("f32", true) },
  bf16: { nn: gemmKernel("bf16", false), nt: gemmKernel("bf16", true) },
} as const;

// ---- what the caller needs to know ----

export interface GemmPlan {
  /** Tiles of rows; also the number of items of the packing kernel. */
  readonly tiles: number;
  /** Bytes of the packed A. */
  readonly packedBytes: number;
  readonly byRows: boolean;
  /** Independent items of the product. */
  readonly items: number;
  /** Items that one call should take: small enough for all threads to have work, large enough to reuse what it packs. */
  readonly chunk: number;
  /** Columns whose B is packed at a time, alike for all blocks of a call. */
  readonly blockColumns: number;
}

export function planGemm(target: Target, m: number, n: number, inner: number, threads: number): GemmPlan {
  const { depth, rows } = target.gemm;
  const tiles = Math.ceil(m / rows);
  const panels = Math.ceil(n / panelColumns(target));
  const packedBytes = 4 * Math.ceil(inner / depth) * tiles * tileStride(target, inner);
  const byRows = tiles > panels && panels < 8 * threads;
  const items = byRows ? tiles : panels;
  // A chunk of rows packs all of B again, so it is larger.
  const chunk = Math.max(1, threads === 1 ? items : evenChunk(items, threads, byRows ? 8 : 1));
  const panelsOfCall = Math.max(1, byRows ? panels : Math.min(chunk, panels));
  const blocks = Math.ceil(panelsOfCall / blockPanels(target));
  const blockColumns = Math.ceil(panelsOfCall / blocks) * panelColumns(target);
  return { tiles, packedBytes, byRows, items, chunk, blockColumns };
}

/**
 * Items a call, so that threads of one speed end together: up to four calls each, which even out unequal speeds. At least
 * `least` where more than one call each would be smaller.
 */
export function evenChunk(items: number, threads: number, least = 1): number {
  let best = Math.ceil(items / threads);
  let longest = best;
  for (let calls = 2; calls <= 4; calls++) {
    const chunk = Math.ceil(items / (calls * threads));
    if (chunk < least) break;
    const longer = Math.ceil(Math.ceil(items / chunk) / threads) * chunk;
    if (longer <= longest) [best, longest] = [chunk, longer];
  }
  return best;
}

/** Bytes of workspace that each thread needs. */
export function gemmWorkspaceBytes(target: Target): number {
  const columns = panelColumns(target);
  // Transposing packs whole squares, which may run past the last panel's end.
  return 4 * (blockPanels(target) * columns * target.gemm.depth + target.lanes * columns);
}
