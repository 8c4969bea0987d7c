// Causal attention with grouped queries, forward: scores of a tile of queries with a tile of keys, softmax carried along
// by a running maximum and sum (Dao et al., FlashAttention, 2022), times the values.
//
// An item is a run of queries of one sequence with all query heads of one key/value head. Keys are taken in tiles counted
// from the sequence's first, so a query's result depends on its own row and its keys alone.
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import {
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
import { exp, log } from "./vector-math.ts";

/** i64 fields of an item: first query row, queries, first key row, keys that the first query sees, key/value head. */
export const FORWARD_ITEM_FIELDS = 5;

/** Places in a thread's workspace, in f32 from its start. */
export interface ForwardWorkspace {
  /** Queries of each row tile, packed and scaled. */
  readonly queryTile: number;
  readonly keyPanel: number;
  readonly outputTile: number;
  readonly keys: number;
  readonly scores: number;
  readonly outputs: number;
  /** Per row: running maximum, sum, and the factor of the last tile. */
  readonly rows: number;
  readonly total: number;
}

/** @param rowTiles row tiles of an item: heads of a group times tiles of queries */
export function forwardWorkspace(target: Target, size: number, rowTiles: number): ForwardWorkspace {
  const tile = attentionTile(target);
  const queryTile = packedFloats(size, tile.rows, target.lanes);
  const keyPanel = packedFloats(size, tile.width, target.lanes);
  const outputTile = headBlocks(size, tile) * tile.rows * tile.width;
  const keys = rowTiles * queryTile;
  const scores = keys + (tile.keys / tile.width) * keyPanel;
  const outputs = scores + tile.rows * tile.keys;
  const rows = outputs + rowTiles * outputTile;
  const total = rows + 3 * rowTiles * tile.rows + target.lanes;
  return { queryTile, keyPanel, outputTile, keys, scores, outputs, rows, total: Math.ceil(total / 16) * 16 };
}

export const attentionKernel = defineKernel(
  "attention",
  {
    work: "i64*",
    /** Row strides (s) and head strides (h), in elements. */
    ...{ q: "f32*", sq: "index", hq: "index", k: "f32*", sk: "index", hk: "index" },
    ...{ v: "f32*", sv: "index", hv: "index", out: "f32*", so: "index", ho: "index" },
    /** [heads, lseRows], or anywhere with `wantLse` 0. */
    ...{ lse: "f32*", lseRows: "index", wantLse: "index" },
    /** Elements of a head; query heads of a key/value head; row tiles of queries of an item. */
    ...{ size: "index", group: "index", subtiles: "index", scale: "f32" },
    /** See ForwardWorkspace. */
    ...{ queryTile: "index", keyPanel: "index", outputTile: "index", keys: "index", scores: "index" },
    ...{ outputs: "index", rows: "index", total: "index", slots: "i32*", workspace: "f32*" },
  },
  (k, args) => {
    const tile = attentionTile(k.target);
    const { slot, release } = claimWorkspace(k, args.slots);
    const space = args.workspace.at(slot.mul(args.total)).fixed();
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const fields = args.work.at(item.mul(FORWARD_ITEM_FIELDS)).fixed();
      const [query, queries, key, sees, kvHead] = [0, 1, 2, 3, 4].map((field) =>
        k.variable(fields.at(field).loadIndex()),
      );
      const keys = sees!.add(queries!).sub(1);
      const firstHead = kvHead!.mul(args.group);
      const tiles = args.group.mul(args.subtiles);
      /** Runs the body for every row tile that has a query: its number, its head, its first query within the item. */
      const eachRowTile = (body: (t: typeof item, head: typeof item, first: typeof item) => void) =>
        k.loop({ to: args.group }, (g) => {
          k.loop({ to: args.subtiles }, (sub) => {
            const first = sub.mul(tile.rows);
            k.if(queries!.gt(first), () => body(g.mul(args.subtiles).add(sub), firstHead.add(g), first));
          });
        });
      const rowState = (t: typeof item) => space.at(args.rows.add(t.mul(3 * tile.rows))).fixed();

      const last = query!.add(queries!).sub(1);
      eachRowTile((t, head, first) => {
        const rows = { first: args.q.at(head.mul(args.hq)).fixed(), stride: args.sq, row: query!.add(first), last };
        packRowTile(k, tile, rows, args.size, space.at(t.mul(args.queryTile)), args.scale.splat());
      });
      const clear = space.at(args.outputs).fixed();
      k.loop({ to: tiles.mul(args.outputTile), step: k.lanes }, (i) => clear.at(i).store(k.zero()));
      k.loop({ to: tiles }, (t) => {
        const state = rowState(t);
        k.loop({ to: tile.rows }, (r) => {
          state.at(r).store(k.float(Number.NEGATIVE_INFINITY));
          state.at(r.add(tile.rows)).store(k.float(0));
        });
      });

      k.loop({ to: keys, step: tile.keys }, (start) => {
        const panels = space.at(args.keys).fixed();
        const rows = {
          first: args.k.at(kvHead!.mul(args.hk)).fixed(),
          stride: args.sk,
          row: key!.add(start),
          last: key!.add(keys).sub(1),
        };
        packPanels(k, tile, rows, args.size, panels, args.keyPanel);
        eachRowTile((t, _head, first) => {
          const scores = space.at(args.scores).fixed();
          const panel = k.variable(panels);
          k.loop({ to: tile.keys, step: tile.width }, (offset) => {
            const sums = productTile(k, tile, space.at(t.mul(args.queryTile)), panel, args.size);
            const place = scores.at(offset).fixed();
            for (const [r, row] of sums.entries()) {
              for (const [v, sum] of row.entries()) place.at(r * tile.keys + v * k.lanes).store(sum);
            }
            panel.advance(args.keyPanel);
          });

          // The first query of the row tile sees this many keys of the key tile, each further one more.
          const visible = sees!.add(first).sub(start);
          const state = rowState(t);
          k.loop({ to: tile.rows }, (r) => {
            const row = scores.at(r.mul(tile.keys)).fixed();
            const hidden = k.float(Number.NEGATIVE_INFINITY);
            k.loop({ from: visible.add(r).max(0), to: tile.keys }, (j) => row.at(j).store(hidden));
            const place = state.at(r).fixed();
            const before = place.broadcast();
            const greatest = k.variable(before);
            k.loop({ to: tile.keys, step: k.lanes }, (j) => greatest.set(greatest.max(row.at(j).load())));
            const maximum = greatest.maximum();
            place.store(maximum);
            const shift = maximum.splat();
            const sum = k.variable(k.zero());
            k.loop({ to: tile.keys, step: k.lanes }, (j) => {
              const value = exp(k, row.at(j).load().sub(shift));
              row.at(j).store(value);
              sum.set(sum.add(value));
            });
            const factor = exp(k, before.sub(shift)).maximum();
            place.at(2 * tile.rows).store(factor);
            place.at(tile.rows).store(place.at(tile.rows).loadF32().mul(factor).add(sum.sum()));
          });

          const count = keys.sub(start).min(tile.keys);
          const output = space.at(args.outputs.add(t.mul(args.outputTile))).fixed();
          const values = args.v.at(kvHead!.mul(args.hv)).fixed().at(key!.add(start).mul(args.sv)).fixed();
          eachHeadBlock(k, tile, args.size, (element, block, left) => {
            const place = output.at(block.mul(tile.rows * tile.width)).fixed();
            const sums = Array.from({ length: tile.rows }, (_, r) => {
              const factor = state.at(2 * tile.rows + r).broadcast();
              return loadAcross(k, tile, place.at(r * tile.width)).map((sum) => k.variable(sum.mul(factor)));
            });
            const value = k.variable(values.at(element).fixed());
            const score = k.variable(scores);
            k.repeat(count, () => {
              accumulate(sums, loadAcross(k, tile, value, left), (r) => score.at(r * tile.keys).broadcast());
              value.advance(args.sv);
              score.advance(1);
            });
            for (const [r, row] of sums.entries()) {
              for (const [v, sum] of row.entries()) place.at(r * tile.width + v * k.lanes).store(sum);
            }
          });
        });
      });

      eachRowTile((t, head, first) => {
        const state = rowState(t);
        const output = space.at(args.outputs.add(t.mul(args.outputTile))).fixed();
        const out = args.out.at(head.mul(args.ho)).fixed();
        k.loop({ to: queries!.sub(first).min(tile.rows) }, (r) => {
          const row = query!.add(first).add(r);
          const sum = state.at(r.add(tile.rows)).broadcast();
          const share = k.vector(1).div(sum);
          const to = out.at(row.mul(args.so)).fixed();
          const from = k.variable(output.at(r.mul(tile.width)).fixed());
          k.loop({ to: args.size, step: tile.width }, (element) => {
            const left = args.size.sub(element);
            for (let v = 0; v < tile.vectors; v++) {
              to.at(element)
                .fixed()
                .at(v * k.lanes)
                .store(
                  from
                    .at(v * k.lanes)
                    .load()
                    .mul(share),
                  left.sub(v * k.lanes),
                );
            }
            from.advance(tile.rows * tile.width);
          });
          k.if(args.wantLse.ne(0), () => {
            const value = state.at(r).broadcast().add(log(k, sum)).maximum();
            args.lse.at(head.mul(args.lseRows).add(row)).store(value);
          });
        });
      });
    });
    release();
  },
);
