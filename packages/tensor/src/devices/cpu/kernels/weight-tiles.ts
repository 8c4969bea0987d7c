/**
 * Matrix product with bf16 weights on matrix tiles: `C = alpha·A·W (+ source)`, A f32, W given as [n, k], the way weights
 * lie (`nt`), or as [k, n] (`nn`), as gradients to inputs need it.
 *
 * `nt`: tiles take rows of W as they lie; the tiles then hold blocks of Cᵀ, which are transposed on their way into C. `nn`: W is
 * packed in panels some blocks wide, since each of its rows lies on another page. A thread packs the rows of A that it
 * needs by itself: the way through the cache that all threads share costs more than doing it twice. A finished block goes
 * into C some rows in every step of the next one, and the next panel of W is packed in these steps: the vector units work
 * beside the tile unit.
 *
 * f32 numbers are taken as sums of bf16 numbers, as in `gemm-tiles.ts`. The sum of an output runs over its row and column
 * alone, step by step, whatever the number of rows.
 */

import type { Builder } from "../lang/builder.ts";
import { type Arguments, defineKernel } from "../lang/kernel.ts";
import { claimWorkspace, loadRows, transposeBlocks } from "../lang/math.ts";
import { beginTiles, endTiles, loadTile, multiplyTiles, storeTile, streamTile, zeroTile } from "../lang/tiles.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";
import type { Terms } from "./gemm-tiles.ts";
import {
  finitePairs,
  PAIR_BYTES,
  packTileColumns,
  packTileRows,
  ROWS,
  SIDE,
  STEP,
  stepsOf,
  TILE_BYTES,
} from "./tile-packing.ts";
import { COPIED_STEPS, type Packing, PairsPacking, RowsPacking, repeat } from "./weight-packing.ts";

export type WeightForm = "nn" | "nt";

/** How a product is cut, so that an item's part of A, with two terms, takes at most a megabyte of the second-level cache. */
const CUT = {
  /** Rows of W are long: one block of them is packed at a time. */
  nt: { whole: 1024, depth: 1024, groups: 8, panelBlocks: 1 },
  /** A panel takes so many blocks that the piece it has of each row of W is worth the fetching of another page. */
  nn: { whole: 1024, depth: 640, groups: 8, panelBlocks: 4 },
} as const;
/** Inner elements at most of which the sums need not wait for the rest. */
const MOST_DEPTH = 1024;
const MOST_TERMS = 3;
/** Blocks of C in one item whose sums wait for the next inner elements. */
const ITEM_SUMS = 256;
/** The tiles' sums of one block of C. */
const SUMS_BYTES = 4 * TILE_BYTES;
const SUMS_ROW = SIDE * 4;
/** A block of W as deep as any. */
const BLOCK_BYTES = (MOST_DEPTH / STEP) * PAIR_BYTES;
/** A packed panel of W. */
const PANEL_BYTES = Math.max(CUT.nn.panelBlocks, CUT.nt.panelBlocks) * BLOCK_BYTES;
/** Of an item in the plan's table: first block of columns of C and the one after the last, the same of groups of rows. */
const ITEM_WORDS = 4;
/** Rows of C that are stored at a time, and rows of sums that are looked at. */
const ROWS_AT_ONCE = 4;

/** What lies in a thread's workspace, and how many bytes it has. */
const WORKSPACE = {
  sums: SUMS_BYTES,
  /** Sums of the block at hand while an earlier one is mended. */
  saved: SUMS_BYTES,
  /** A number that tells whether all sums are finite. */
  flag: 64,
  /** A step of W without what is not finite. */
  finite: PAIR_BYTES,
  /** Where a tile is stored for nobody. */
  idle: TILE_BYTES,
  /** The panel at hand and the next one. */
  panels: 2 * PANEL_BYTES,
  /** A block of W for a block of C that is made again. */
  spare: BLOCK_BYTES,
  /** A step of rows of A on their way into columns. */
  rows: MOST_TERMS * PAIR_BYTES,
  spareGroup: MOST_TERMS * BLOCK_BYTES,
  /** An item's rows of A. */
  groups: Math.max(CUT.nn.groups, CUT.nt.groups) * MOST_TERMS * BLOCK_BYTES,
  partials: ITEM_SUMS * SUMS_BYTES,
};

/** Bytes of one thread's workspace. */
export const WEIGHT_TILES_WORKSPACE_BYTES = Object.values(WORKSPACE).reduce((sum, bytes) => sum + bytes);

const halfStep = Math.log2(STEP);

const weightTilesArgs = {
  a: "f32*",
  w: "u16*",
  c: "f32*",
  /** What the sums are added to, as in `gemm`. */
  source: "f32*",
  sourceRow: "index",
  sourceColumn: "index",
  alpha: "f32",
  m: "index",
  k: "index",
  /** Inner elements that are summed at a time. */
  depth: "index",
  /** Elements from row to row of A, and of W. */
  lda: "index",
  ldw: "index",
  ldc: "index",
  /** The plan's table. */
  items: "i32*",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  /** `WEIGHT_TILES_WORKSPACE_BYTES` a thread. */
  workspace: "f32*",
} as const;

type Args = Arguments<typeof weightTilesArgs>;

function weightTilesKernel(form: WeightForm, terms: Terms) {
  return defineKernel(`gemm_weight_tiles_${form}_${terms}`, weightTilesArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const product = new WeightProduct(
      k,
      args,
      form,
      terms,
      args.workspace.atByte(slot.mul(WEIGHT_TILES_WORKSPACE_BYTES)),
    );
    beginTiles(k);
    const item = k.variable(args.items.at(k.begin.mul(ITEM_WORDS)));
    k.repeat(k.end.sub(k.begin), () => {
      const [firstBlock, lastBlock, firstGroup, lastGroup] = [0, 1, 2, 3].map((word) => item.at(word).loadIndex());
      item.advance(ITEM_WORDS);
      product.item({ firstBlock, lastBlock, firstGroup, lastGroup });
    });
    product.finish();
    endTiles(k);
    release();
  });
}

interface Item {
  readonly firstBlock: Index;
  readonly lastBlock: Index;
  readonly firstGroup: Index;
  readonly lastGroup: Index;
}

/** A panel to be packed: its blocks of columns of C from `block` on, inner elements from p on. */
interface Packed {
  readonly block: Index;
  readonly lastBlock: Index;
  readonly p: Index;
  readonly length: Index;
  readonly to: Pointer;
}

/** Builds the code that multiplies: blocks of C one after another, each stored while the next is made. */
class WeightProduct {
  private readonly k: Builder;
  private readonly args: Args;
  private readonly form: WeightForm;
  private readonly terms: Terms;
  private readonly places: { readonly [K in keyof typeof WORKSPACE]: Pointer };
  /** The block whose sums wait, its rows that are to be stored, and pieces of rows to be looked at: -1 when judged. */
  private readonly waiting: {
    readonly row: Index;
    readonly column: Index;
    readonly rows: Index;
    readonly unseen: Index;
  };
  private readonly sum: Pointer;
  private readonly to: Pointer;
  private readonly from: Pointer;
  /** Rows of C that will be stored. */
  private readonly coming: Pointer;
  /** Rows of sums looked at so far, added up, so that what is not finite shows. */
  private readonly total: VF;

  constructor(k: Builder, args: Args, form: WeightForm, terms: Terms, workspace: Pointer) {
    this.k = k;
    this.args = args;
    this.form = form;
    this.terms = terms;
    let place = workspace.fixed();
    const places: Record<string, Pointer> = {};
    for (const [name, bytes] of Object.entries(WORKSPACE)) {
      places[name] = place;
      place = place.atByte(bytes).fixed();
    }
    this.places = places as typeof this.places;
    const number = () => k.variable(k.index(0));
    this.waiting = { row: number(), column: number(), rows: number(), unseen: number() };
    this.sum = k.variable(this.places.sums);
    this.to = k.variable(args.c);
    this.from = k.variable(args.source);
    this.coming = k.variable(args.c);
    this.total = k.variable(k.zero());
  }

  /** All blocks of an item: some inner elements of all, then the next ones. While a panel is multiplied, the next is packed. */
  item({ firstBlock, lastBlock, firstGroup, lastGroup }: Item): void {
    const { k, args, places, form } = this;
    const { panelBlocks } = CUT[form];
    const panel = k.variable(places.panels);
    const other = k.variable(places.panels.atByte(PANEL_BYTES));
    const lengthAt = (p: Index) => args.k.sub(p).min(args.depth);
    const first = k.index(0);
    this.packing({ block: firstBlock, lastBlock, p: first, length: lengthAt(first), to: panel }).finish();
    k.loop({ to: args.k, step: args.depth }, (p) => {
      const steps = stepsOf(lengthAt(p));
      k.loop({ from: firstGroup, to: lastGroup }, (group) => {
        this.packGroup(group, p, lengthAt(p), this.groupAt(group.sub(firstGroup), steps));
      });
      const partial = k.variable(places.partials);
      k.loop({ from: firstBlock, to: lastBlock, step: panelBlocks }, (begin) => {
        const next = k.variable(begin.add(panelBlocks));
        const nextP = k.variable(p);
        k.if(next.ge(lastBlock), () => {
          next.set(firstBlock);
          nextP.increase(args.depth);
        });
        const packing = this.packing({ block: next, lastBlock, p: nextP, length: lengthAt(nextP).max(0), to: other });
        const from = k.variable(panel);
        k.loop({ from: begin, to: begin.add(panelBlocks).min(lastBlock) }, (block) => {
          k.loop({ from: firstGroup, to: lastGroup }, (group) => {
            const rows = args.m.sub(group.mul(SIDE)).min(SIDE);
            k.if(
              p.eq(0),
              () => zeroSums(k),
              () => moveSums(k, loadTile, partial),
            );
            const a = this.groupAt(group.sub(firstGroup), steps);
            k.if(
              rows.gt(ROWS),
              () => this.multiply(from, a, steps, 2, packing),
              () => this.multiply(from, a, steps, 1, packing),
            );
            this.finish();
            k.if(
              p.add(args.depth).lt(args.k),
              () => moveSums(k, storeTile, partial),
              () => {
                moveSums(k, storeTile, places.sums);
                this.wait(group.mul(SIDE), block.mul(SIDE), rows);
              },
            );
            partial.advanceBytes(SUMS_BYTES);
          });
          from.advanceBytes(steps.mul(PAIR_BYTES));
        });
        packing.finish();
        const made = k.variable(panel);
        panel.set(other);
        other.set(made);
      });
    });
  }

  /** Where a group of rows of A lies packed, counted from the item's first. */
  private groupAt(group: Index, steps: Index): Pointer {
    return this.places.groups.atByte(group.mul(steps.mul(this.terms * PAIR_BYTES))).fixed();
  }

  /** Packs some inner elements of a group of rows of A into `[step][part]`. */
  private packGroup(group: Index, p: Index, length: Index, to: Pointer): void {
    const { k, args, form, terms } = this;
    const place = k.variable(to);
    k.loop({ from: p, to: p.add(length), step: STEP, maySpill: true }, (q) => {
      const [row, last] = [group.mul(SIDE), args.m.sub(1)];
      const step = { a: args.a, lda: args.lda, row, last, p: q, to: place, parts: terms };
      // Aᵀ is the right factor of Cᵀ = W·Aᵀ.
      if (form === "nt") packTileColumns(k, step, this.places.rows);
      else packTileRows(k, { ...step, rows: k.index(SIDE) });
      place.advanceBytes(terms * PAIR_BYTES);
    });
  }

  /** Where W begins for a block of columns, from inner element p on. */
  private weightsAt(block: Index, p: Index): Pointer {
    const { args, form } = this;
    const column = block.mul(SIDE);
    return args.w.at(form === "nt" ? column.mul(args.ldw).add(p) : p.mul(args.ldw).add(column)).fixed();
  }

  /** Packs blocks of W, as many as a panel takes. */
  private packing({ block, lastBlock, p, length, to }: Packed): Packing {
    const { k, args, form } = this;
    const from = this.weightsAt(block, p);
    const stride = args.ldw.mul(2);
    if (form === "nt") return new RowsPacking(k, from, stride, stepsOf(length), to);
    return new PairsPacking(k, from, stride, length, lastBlock.sub(block).min(CUT.nn.panelBlocks), to);
  }

  /**
   * Adds the products of a group of rows of A, of which `halves` have rows that count, with a panel of W. Meanwhile the block
   * before is looked at and stored, and the next panel packed.
   */
  private multiply(panel: Pointer, group: Pointer, steps: Index, halves: number, packing: Packing): void {
    const { k, places, form, terms, waiting } = this;
    k.comment(`${halves} halves of rows against a panel of weights`);
    const row = k.index(TILE_BYTES / ROWS);
    const w = k.variable(panel);
    const a = k.variable(group);
    const [weight, other] = form === "nt" ? [4, 6] : [6, 4];
    const loadWeights = form === "nt" ? streamTile : loadTile;
    const step = () => {
      loadWeights(k, weight, w, row);
      loadWeights(k, weight + 1, w.atByte(TILE_BYTES), row);
      for (let part = 0; part < terms; part++) {
        for (let half = 0; half < halves; half++) {
          streamTile(k, other + half, a.atByte(part * PAIR_BYTES + half * TILE_BYTES), row);
          for (let side = 0; side < 2; side++) {
            if (form === "nt") multiplyTiles(k, 2 * side + half, weight + side, other + half);
            else multiplyTiles(k, 2 * half + side, other + half, weight + side);
          }
        }
      }
      // Measured: a tile's store that comes after many multiplications holds the unit up for a thousand cycles, one in every step
      // hardly does.
      storeTile(k, other, places.idle, row);
      w.advanceBytes(PAIR_BYTES);
      a.advanceBytes(terms * PAIR_BYTES);
      packing.step();
    };
    const left = k.variable(steps);
    if (terms > 1) {
      const looking = k.variable(left.min(waiting.unseen.max(0)));
      left.decrease(looking);
      repeat(k, looking, () => {
        step();
        this.look();
      });
      this.mend();
    }
    const storing = k.variable(left.min(waiting.rows.add(ROWS_AT_ONCE - 1).sar(Math.log2(ROWS_AT_ONCE))));
    left.decrease(storing);
    repeat(k, storing, () => {
      step();
      this.store();
    });
    repeat(k, left, step);
  }

  private wait(row: Index, column: Index, rows: Index): void {
    const { k, args, places, waiting, terms } = this;
    waiting.row.set(row);
    waiting.column.set(column);
    waiting.rows.set(rows);
    this.sum.set(places.sums);
    this.to.set(args.c.at(row.mul(args.ldc).add(column)));
    this.from.set(args.source.atByte(row.mul(args.sourceRow)).fixed().at(args.sourceColumn.mul(column)));
    this.coming.set(this.to);
    if (terms === 1) return;
    waiting.unseen.set(SIDE / ROWS_AT_ONCE);
    this.total.set(k.zero());
  }

  /** Looks at some rows of the sums that wait. */
  private look(): void {
    const { k, sum, total, waiting } = this;
    const vectors = Array.from({ length: 2 * ROWS_AT_ONCE }, (_, i) => sum.at(i * k.lanes).load());
    while (vectors.length > 1) vectors.push(vectors.shift()!.add(vectors.shift()!));
    total.set(total.add(vectors[0]));
    sum.advanceBytes(ROWS_AT_ONCE * SUMS_ROW);
    waiting.unseen.decrease(1);
    // The rows of C that will be stored are asked for.
    const row = this.args.ldc.mul(4);
    for (let r = 0; r < ROWS_AT_ONCE; r++) {
      this.coming.prefetch();
      this.coming.atByte(64).prefetch();
      this.coming.advanceBytes(row);
    }
  }

  /**
   * Once all sums were looked at: where one is no number, makes the block again. A number that is not finite must meet the
   * other side's first part alone: 0, or an infinity of another sign, would make a NaN of it.
   */
  private mend(): void {
    const { k, args, places, waiting, total, form, terms } = this;
    k.if(waiting.unseen.eq(0), () => {
      waiting.unseen.set(-1);
      this.sum.set(places.sums);
      places.flag.store(total.sub(total).compare("eq", 0).select(k.zero(), k.vector(1)).maximum());
      k.if(places.flag.as("i32").loadIndex().ne(0), () => {
        k.comment("finite parts apart");
        moveSums(k, storeTile, places.saved);
        zeroSums(k);
        const { spare } = places;
        k.loop({ to: args.k, step: args.depth }, (p) => {
          const length = args.k.sub(p).min(args.depth);
          const steps = stepsOf(length);
          const block = waiting.column.sar(halfStep);
          this.packing({ block, lastBlock: block.add(1), p, length, to: spare }).finish();
          this.packGroup(waiting.row.sar(halfStep), p, length, places.spareGroup);
          multiplyFinite(k, { form, terms, panel: spare, steps, group: places.spareGroup }, places.finite);
        });
        moveSums(k, storeTile, places.sums);
        moveSums(k, loadTile, places.saved);
      });
    });
  }

  /** Stores the next few rows of the block that waits: times alpha, and added to what they are added to. */
  private store(): void {
    const { k, args, form, sum, to, from } = this;
    const { rows } = this.waiting;
    const alpha = args.alpha.splat();
    const columns = (side: number): readonly VF[] => {
      if (form === "nn")
        return Array.from({ length: ROWS_AT_ONCE }, (_, r) =>
          sum
            .atByte(r * SUMS_ROW)
            .at(side * ROWS)
            .load(),
        );
      const lines = Array.from({ length: ROWS }, (_, r) => sum.atByte((side * ROWS + r) * SUMS_ROW));
      return transposeBlocks(k, loadRows(k, lines));
    };
    const values = [columns(0), columns(1)];
    for (let r = 0; r < ROWS_AT_ONCE; r++) {
      k.if(rows.gt(r), () => {
        values.forEach((side, s) => {
          to.at(s * ROWS).store(side[r].fma(alpha, from.at(s * ROWS).load()));
        });
        to.advanceBytes(args.ldc.mul(4));
        from.advanceBytes(args.sourceRow);
      });
    }
    sum.advanceBytes(form === "nn" ? ROWS_AT_ONCE * SUMS_ROW : ROWS_AT_ONCE * 4);
    rows.decrease(ROWS_AT_ONCE);
  }

  /** Stores all that waits. */
  finish(): void {
    const { k, waiting, terms } = this;
    k.if(waiting.rows.gt(0), () => {
      if (terms > 1) {
        repeat(k, waiting.unseen, () => this.look(), false);
        this.mend();
      }
      k.doWhile(() => {
        this.store();
        return waiting.rows.gt(0);
      }, true);
    });
  }
}

const zeroSums = (k: Builder): void => {
  for (let tile = 0; tile < 4; tile++) zeroTile(k, tile);
};

/** The four tiles of sums from or to memory, `[row][column]` of the 32×32 numbers they are. */
function moveSums(k: Builder, move: typeof loadTile, place: Pointer): void {
  const stride = k.index(SUMS_ROW);
  for (let tile = 0; tile < 4; tile++)
    move(k, tile, place.atByte((tile >> 1) * ROWS * SUMS_ROW + (tile & 1) * ROWS * 4), stride);
}

interface FiniteProduct {
  readonly form: WeightForm;
  readonly terms: Terms;
  readonly panel: Pointer;
  readonly group: Pointer;
  readonly steps: Index;
}

/** The products of `multiply`, one step after another, with weights that are not finite in those of first parts alone. */
function multiplyFinite(k: Builder, { form, terms, panel, group, steps }: FiniteProduct, finite: Pointer): void {
  const row = k.index(TILE_BYTES / ROWS);
  const [w, a] = [k.variable(panel), k.variable(group)];
  repeat(k, k.variable(steps), () => {
    k.loop({ to: PAIR_BYTES, step: 4 * k.lanes }, (at) => {
      finite
        .as("i32")
        .atByte(at)
        .store(finitePairs(w.as("i32").atByte(at).loadInt()));
    });
    const [weight, other] = form === "nt" ? [4, 6] : [6, 4];
    for (let part = 0; part < terms; part++) {
      for (let side = 0; side < 2; side++) {
        if (part < 2) loadTile(k, weight + side, (part === 0 ? w : finite).atByte(side * TILE_BYTES), row);
        loadTile(k, other + side, a.atByte(part * PAIR_BYTES + side * TILE_BYTES), row);
      }
      for (let sum = 0; sum < 4; sum++) multiplyTiles(k, sum, 4 + (sum >> 1), 6 + (sum & 1));
    }
    w.advanceBytes(PAIR_BYTES);
    a.advanceBytes(terms * PAIR_BYTES);
  });
}

const kernels = (form: WeightForm) =>
  ({ 1: weightTilesKernel(form, 1), 2: weightTilesKernel(form, 2), 3: weightTilesKernel(form, 3) }) as const;

/** `weightTiles[form][terms]`. Items: blocks of C. */
export const weightTiles = { nn: kernels("nn"), nt: kernels("nt") } as const;

/** What decides whether these kernels take a product: nothing that differs between the rows of A. */
export function fitsWeightTiles(form: WeightForm, n: number, k: number): boolean {
  return n % SIDE === 0 && k % (form === "nt" ? COPIED_STEPS * STEP : STEP) === 0;
}

export interface WeightTilesPlan {
  /** Inner elements that are summed at a time. */
  readonly depth: number;
  readonly items: number;
  /** The kernel's table of items. */
  readonly table: Int32Array;
}

/** Of k inner elements, those summed at a time: all, or pieces of one size. */
function depthOf(form: WeightForm, k: number): number {
  const { whole, depth } = CUT[form];
  if (k <= whole) return k;
  const align = form === "nt" ? COPIED_STEPS * STEP : STEP;
  return Math.ceil(k / Math.ceil(k / depth) / align) * align;
}

/** What packing a group of rows of A takes, in products of a group with a block of W; and what reading a block of W takes. */
const GROUP_COST = 3;
const BLOCK_COST = 1;

/**
 * Cuts C [m, n] into items: few, since each packs its part of A and reads its part of W, but as many as keep all threads
 * busy to the end.
 */
export function planWeightTiles(
  form: WeightForm,
  { m, n, k }: { m: number; n: number; k: number },
  threads: number,
): WeightTilesPlan {
  const groups = Math.ceil(m / SIDE);
  const blocks = n / SIDE;
  const depth = depthOf(form, k);
  let [height, width, least] = [1, 1, Number.POSITIVE_INFINITY];
  for (let high = Math.min(groups, CUT[form].groups); high >= 1; high--) {
    const ranges = Math.ceil(groups / high);
    const most = k > depth ? Math.floor(ITEM_SUMS / high) : blocks;
    for (let cuts = Math.ceil(blocks / most); cuts <= Math.min(blocks, 8 * threads); cuts++) {
      const wide = Math.ceil(blocks / cuts);
      const rounds = Math.ceil((ranges * Math.ceil(blocks / wide)) / threads);
      const cost = rounds * (wide * high + wide * BLOCK_COST + high * GROUP_COST);
      if (cost < least) [height, width, least] = [high, wide, cost];
    }
  }
  const table: number[] = [];
  for (let group = 0; group < groups; group += height)
    for (let block = 0; block < blocks; block += width)
      table.push(block, Math.min(block + width, blocks), group, Math.min(group + height, groups));
  return { depth, items: table.length / ITEM_WORDS, table: Int32Array.from(table) };
}
