// Gradients of attention (FlashAttention-2, Dao 2023): probabilities are made again from the scores and each row's
// log-sum-exp. One kernel goes along the keys for the gradient to the queries, one along the queries for those to keys and
// values, so that every sum has one owner and one order.
//
// P = exp(scale·q·k − lse), dP = grad·v, dS = P·(dP − delta)·scale; dq = Σ dS·k, dk = Σ dS·q, dv = Σ P·grad.
import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";
import {
  type AttentionTile,
  accumulate,
  attentionTile,
  eachHeadBlock,
  headBlocks,
  loadAcross,
  packedFloats,
  packPanels,
  packRowTile,
  productTile,
} from "./attention-tile.ts";
import { rowPointer, sumOver } from "./rows.ts";
import { exp } from "./vector-math.ts";

/** delta[head · rows + row] = Σ grad · out over a head's elements; an item is a row. */
export const attentionDeltaKernel = defineKernel(
  "attentionDelta",
  {
    ...{ heads: "index", size: "index", rows: "index", delta: "f32*" },
    ...{ g: "f32*", sg: "index", hg: "index", o: "f32*", so: "index", ho: "index" },
  },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const g = k.variable(rowPointer(args.g, row, args.sg));
      const o = k.variable(rowPointer(args.o, row, args.so));
      const delta = k.variable(args.delta.at(row).fixed());
      k.repeat(args.heads, () => {
        const size = args.size;
        delta.store(sumOver(k, size, (i, count) => g.at(i).load(count).mul(o.at(i).load(count))));
        g.advance(args.hg);
        o.advance(args.ho);
        delta.advance(args.rows);
      });
    });
  },
);

/** Places in a thread's workspace, in f32 from its start; both kernels use the same. */
export interface BackwardWorkspace {
  /** One packed row tile: queries, then gradients. */
  readonly rowTile: number;
  readonly panel: number;
  readonly keys: number;
  readonly values: number;
  readonly probabilities: number;
  readonly differences: number;
  readonly sums: number;
  /** f32 of the sums of `tile.rows` rows. */
  readonly sumTile: number;
  readonly total: number;
}

/** @param rowTiles row tiles whose sums are kept: those of an item's queries, or of a tile of keys, twice */
export function backwardWorkspace(target: Target, size: number, rowTiles: number): BackwardWorkspace {
  const tile = attentionTile(target);
  const rowTile = packedFloats(size, tile.rows, target.lanes);
  const panel = packedFloats(size, tile.width, target.lanes);
  const sumTile = headBlocks(size, tile) * tile.rows * tile.width;
  const panels = (tile.keys / tile.width) * panel;
  const keys = 2 * rowTile;
  const values = keys + panels;
  const probabilities = values + panels;
  const differences = probabilities + tile.rows * tile.keys;
  const sums = differences + tile.rows * tile.keys;
  const total = sums + Math.max(rowTiles, (2 * tile.keys) / tile.rows) * sumTile;
  return {
    ...{ rowTile, panel, keys, values, probabilities, differences, sums, sumTile },
    total: Math.ceil(total / 16) * 16 + 16,
  };
}

const sharedArgs = {
  work: "i64*",
  /** Row strides (s) and head strides (h), in elements. */
  q: "f32*",
  sq: "index",
  hq: "index",
  k: "f32*",
  sk: "index",
  hk: "index",
  v: "f32*",
  sv: "index",
  hv: "index",
  g: "f32*",
  sg: "index",
  hg: "index",
  /** [heads, rows] each. */
  lse: "f32*",
  lseRows: "index",
  delta: "f32*",
  deltaRows: "index",
  size: "index",
  group: "index",
  scale: "f32",
  /** See BackwardWorkspace. */
  rowTile: "index",
  panel: "index",
  keys: "index",
  values: "index",
  probabilities: "index",
  differences: "index",
  sums: "index",
  sumTile: "index",
  total: "index",
  slots: "i32*",
  workspace: "f32*",
} as const;

/** Rows of one operand of an item, packed or read from `row` on and never beyond `last`. */
interface Rows {
  readonly first: Pointer;
  readonly stride: Index;
  readonly row: Index;
  readonly last: Index;
}

interface Scores {
  readonly queries: Pointer;
  readonly gradients: Pointer;
  readonly keys: Pointer;
  readonly values: Pointer;
  readonly panel: Index;
  readonly size: Index;
  /** First of the row tile's numbers. */
  readonly lse: Pointer;
  readonly delta: Pointer;
  /** Rows of the tile that exist. */
  readonly rows: Index;
  /** Keys of the key tile that the first row sees; each further row sees one more, up to `keys`. */
  readonly visible: Index;
  readonly scale: () => VF;
  readonly probabilities: Pointer;
  readonly differences: Pointer;
}

/** Writes P and dS of a row tile with a key tile, [tile.rows][tile.keys]; 0 where a row does not see the key or does not exist. */
function scoreTile(k: Builder, tile: AttentionTile, given: Scores): void {
  const { probabilities, differences } = given;
  k.loop({ to: tile.rows * tile.keys, step: k.lanes }, (i) => {
    probabilities.at(i).store(k.zero());
    differences.at(i).store(k.zero());
  });
  const keys = k.variable(given.keys.fixed());
  const values = k.variable(given.values.fixed());
  k.loop({ to: tile.keys, step: tile.width }, (offset) => {
    const seen = given.visible.sub(offset);
    const p = probabilities.at(offset).fixed();
    const d = differences.at(offset).fixed();
    /** Every row that exists, with its vectors and how many of their lanes it sees. */
    const each = (sums: readonly (readonly VF[])[], body: (r: number, v: number, sum: VF, count: Index) => void) => {
      for (const [r, row] of sums.entries()) {
        k.if(given.rows.gt(r), () => {
          for (const [v, sum] of row.entries()) body(r, v, sum, seen.add(r - v * k.lanes));
        });
      }
    };
    each(productTile(k, tile, given.queries, keys, given.size), (r, v, sum, count) => {
      const value = exp(k, sum.sub(given.lse.at(r).broadcast()));
      p.at(r * tile.keys + v * k.lanes).store(value, count);
    });
    each(productTile(k, tile, given.gradients, values, given.size), (r, v, sum, count) => {
      const place = r * tile.keys + v * k.lanes;
      const value = p
        .at(place)
        .load()
        .mul(sum.sub(given.delta.at(r).broadcast()))
        .mul(given.scale());
      d.at(place).store(value, count);
    });
    keys.advance(given.panel);
    values.advance(given.panel);
  });
}

/**
 * Adds Σ over `count` rows of factor · row to the sums of one row tile, block by block of a head's elements. Factors of
 * row i lie at `factors.at(i · step + r · apart)` for row r of the tile.
 */
function addProducts(
  k: Builder,
  tile: AttentionTile,
  size: Index,
  sums: Pointer,
  factors: { first: Pointer; step: number; apart: number },
  rows: { first: Pointer; stride: Index; count: Index },
): void {
  eachHeadBlock(k, tile, size, (element, block, left) => {
    const place = sums.at(block.mul(tile.rows * tile.width)).fixed();
    const tileSums = Array.from({ length: tile.rows }, (_, r) =>
      loadAcross(k, tile, place.at(r * tile.width)).map((sum) => k.variable(sum)),
    );
    const value = k.variable(rows.first.at(element).fixed());
    const factor = k.variable(factors.first);
    k.repeat(rows.count, () => {
      accumulate(tileSums, loadAcross(k, tile, value, left), (r) => factor.at(r * factors.apart).broadcast());
      value.advance(rows.stride);
      factor.advance(factors.step);
    });
    for (const [r, row] of tileSums.entries()) {
      for (const [v, sum] of row.entries()) place.at(r * tile.width + v * k.lanes).store(sum);
    }
  });
}

/** Writes the sums of up to `tile.rows` rows to where they belong. */
function storeRows(
  k: Builder,
  tile: AttentionTile,
  size: Index,
  sums: Pointer,
  to: { first: Pointer; stride: Index },
  count: Index,
): void {
  k.loop({ to: count.min(tile.rows) }, (r) => {
    const place = to.first.at(r.mul(to.stride)).fixed();
    const from = k.variable(sums.at(r.mul(tile.width)).fixed());
    k.loop({ to: size, step: tile.width }, (element) => {
      const left = size.sub(element);
      const target = place.at(element).fixed();
      for (let v = 0; v < tile.vectors; v++)
        target.at(v * k.lanes).store(from.at(v * k.lanes).load(), left.sub(v * k.lanes));
      from.advance(tile.rows * tile.width);
    });
  });
}

function clear(k: Builder, place: Pointer, floats: Index): void {
  k.loop({ to: floats, step: k.lanes }, (i) => place.at(i).store(k.zero()));
}

/** i64 fields of an item: first query row, queries, first key row, keys that the first query sees, key/value head. */
export const QUERY_ITEM_FIELDS = 5;

/** Gradient to the queries. An item is a run of queries of one sequence with all query heads of one key/value head. */
export const attentionQueryGradKernel = defineKernel(
  "attentionQueryGrad",
  { ...sharedArgs, subtiles: "index", out: "f32*", so: "index", ho: "index" },
  (k, args) => {
    const tile = attentionTile(k.target);
    const { slot, release } = claimWorkspace(k, args.slots);
    const space = args.workspace.at(slot.mul(args.total)).fixed();
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const fields = args.work.at(item.mul(QUERY_ITEM_FIELDS)).fixed();
      const [query, queries, key, sees, kvHead] = [0, 1, 2, 3, 4].map((field) =>
        k.variable(fields.at(field).loadIndex()),
      );
      const keys = sees!.add(queries!).sub(1);
      const last = query!.add(queries!).sub(1);
      const firstHead = kvHead!.mul(args.group);
      const eachRowTile = (body: (sums: Pointer, head: Index, first: Index) => void) =>
        k.loop({ to: args.group }, (g) => {
          k.loop({ to: args.subtiles }, (sub) => {
            const first = sub.mul(tile.rows);
            const place = args.sums.add(g.mul(args.subtiles).add(sub).mul(args.sumTile));
            k.if(queries!.gt(first), () => body(space.at(place).fixed(), firstHead.add(g), first));
          });
        });
      clear(k, space.at(args.sums).fixed(), args.group.mul(args.subtiles).mul(args.sumTile));
      k.loop({ to: keys, step: tile.keys }, (start) => {
        const of = (first: Pointer, stride: Index): Rows => ({
          first,
          stride,
          row: key!.add(start),
          last: key!.add(keys).sub(1),
        });
        const keyRows = of(args.k.at(kvHead!.mul(args.hk)).fixed(), args.sk);
        packPanels(k, tile, keyRows, args.size, space.at(args.keys), args.panel);
        packPanels(
          k,
          tile,
          of(args.v.at(kvHead!.mul(args.hv)).fixed(), args.sv),
          args.size,
          space.at(args.values),
          args.panel,
        );
        eachRowTile((sums, head, first) => {
          const row = query!.add(first);
          const tileRows = (pointer: Pointer, stride: Index): Rows => ({ first: pointer, stride, row, last });
          const gradients = space.at(args.rowTile).fixed();
          packRowTile(
            k,
            tile,
            tileRows(args.q.at(head.mul(args.hq)).fixed(), args.sq),
            args.size,
            space,
            args.scale.splat(),
          );
          packRowTile(k, tile, tileRows(args.g.at(head.mul(args.hg)).fixed(), args.sg), args.size, gradients);
          const differences = space.at(args.differences).fixed();
          scoreTile(k, tile, {
            ...{
              queries: space,
              gradients,
              keys: space.at(args.keys),
              values: space.at(args.values),
              panel: args.panel,
            },
            ...{ size: args.size, scale: () => args.scale.splat(), rows: queries!.sub(first) },
            lse: args.lse.at(head.mul(args.lseRows).add(row)).fixed(),
            delta: args.delta.at(head.mul(args.deltaRows).add(row)).fixed(),
            visible: sees!.add(first).sub(start),
            ...{ probabilities: space.at(args.probabilities).fixed(), differences },
          });
          const count = keys.sub(start).min(tile.keys);
          const from = keyRows.first.at(keyRows.row.mul(args.sk)).fixed();
          const factors = { first: differences, step: 1, apart: tile.keys };
          addProducts(k, tile, args.size, sums, factors, { first: from, stride: args.sk, count });
        });
      });
      eachRowTile((sums, head, first) => {
        const to = args.out.at(head.mul(args.ho)).fixed().at(query!.add(first).mul(args.so)).fixed();
        storeRows(k, tile, args.size, sums, { first: to, stride: args.so }, queries!.sub(first));
      });
    });
    release();
  },
);

/**
 * i64 fields of an item: first query row of the sequence, its queries, first key row of the tile, its keys, how many keys
 * from the tile's first on the sequence's first query sees (negative: it comes before them), key/value head.
 */
export const KEY_ITEM_FIELDS = 6;

/** Gradients to keys and values. An item is a tile of keys of one sequence with one key/value head. */
export const attentionKeyGradKernel = defineKernel(
  "attentionKeyGrad",
  { ...sharedArgs, dk: "f32*", sdk: "index", hdk: "index", dv: "f32*", sdv: "index", hdv: "index" },
  (k, args) => {
    const tile = attentionTile(k.target);
    const tiles = tile.keys / tile.rows;
    const { slot, release } = claimWorkspace(k, args.slots);
    const space = args.workspace.at(slot.mul(args.total)).fixed();
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const fields = args.work.at(item.mul(KEY_ITEM_FIELDS)).fixed();
      const [query, queries, key, keys, sees, kvHead] = [0, 1, 2, 3, 4, 5].map((field) =>
        k.variable(fields.at(field).loadIndex()),
      );
      const last = query!.add(queries!).sub(1);
      const firstHead = kvHead!.mul(args.group);
      const sums = space.at(args.sums).fixed();
      clear(k, sums, args.sumTile.mul(2 * tiles));
      const of = (first: Pointer, stride: Index): Rows => ({ first, stride, row: key!, last: key!.add(keys!).sub(1) });
      packPanels(
        k,
        tile,
        of(args.k.at(kvHead!.mul(args.hk)).fixed(), args.sk),
        args.size,
        space.at(args.keys),
        args.panel,
      );
      packPanels(
        k,
        tile,
        of(args.v.at(kvHead!.mul(args.hv)).fixed(), args.sv),
        args.size,
        space.at(args.values),
        args.panel,
      );
      // The first query that sees the tile's first key; row tiles are counted from the sequence's first query.
      const begin = k.index(1).sub(sees!).max(0);
      const firstTile = k.variable(k.index(0));
      k.loop({ to: begin.sub(tile.rows - 1), step: tile.rows }, () => firstTile.increase(tile.rows));
      k.loop({ from: firstTile, to: queries!, step: tile.rows }, (first) => {
        k.loop({ to: args.group }, (g) => {
          const head = firstHead.add(g);
          const row = query!.add(first);
          const tileRows = (pointer: Pointer, stride: Index): Rows => ({ first: pointer, stride, row, last });
          const gradients = space.at(args.rowTile).fixed();
          const queryRows = tileRows(args.q.at(head.mul(args.hq)).fixed(), args.sq);
          const gradientRows = tileRows(args.g.at(head.mul(args.hg)).fixed(), args.sg);
          packRowTile(k, tile, queryRows, args.size, space, args.scale.splat());
          packRowTile(k, tile, gradientRows, args.size, gradients);
          const probabilities = space.at(args.probabilities).fixed();
          const differences = space.at(args.differences).fixed();
          const rows = queries!.sub(first);
          scoreTile(k, tile, {
            ...{
              queries: space,
              gradients,
              keys: space.at(args.keys),
              values: space.at(args.values),
              panel: args.panel,
            },
            ...{ size: args.size, scale: () => args.scale.splat(), rows },
            lse: args.lse.at(head.mul(args.lseRows).add(row)).fixed(),
            delta: args.delta.at(head.mul(args.deltaRows).add(row)).fixed(),
            visible: sees!.add(first),
            ...{ probabilities, differences },
          });
          const count = rows.min(tile.rows);
          k.loop({ to: tiles }, (t) => {
            const add = (to: Pointer, factors: Pointer, from: Rows) => {
              const first = from.first.at(row.mul(from.stride)).fixed();
              const placed = { first: factors.at(t.mul(tile.rows)).fixed(), step: tile.keys, apart: 1 };
              addProducts(k, tile, args.size, to, placed, { first, stride: from.stride, count });
            };
            add(sums.at(t.mul(args.sumTile)).fixed(), differences, queryRows);
            add(sums.at(t.add(tiles).mul(args.sumTile)).fixed(), probabilities, gradientRows);
          });
        });
      });
      k.loop({ to: tiles }, (t) => {
        const first = t.mul(tile.rows);
        const left = keys!.sub(first);
        const store = (from: Pointer, out: Pointer, stride: Index) => {
          const to = { first: out.at(key!.add(first).mul(stride)).fixed(), stride };
          storeRows(k, tile, args.size, from, to, left);
        };
        store(sums.at(t.mul(args.sumTile)).fixed(), args.dk.at(kvHead!.mul(args.hdk)).fixed(), args.sdk);
        store(sums.at(t.add(tiles).mul(args.sumTile)).fixed(), args.dv.at(kvHead!.mul(args.hdv)).fixed(), args.sdv);
      });
    });
    release();
  },
);
