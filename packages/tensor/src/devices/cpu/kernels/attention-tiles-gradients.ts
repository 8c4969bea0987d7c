/**
 * `attention-gradients.ts` on matrix tiles, laid out as in `attention-tile-parts.ts`: P = 2^(scores − lse) and
 * dS = P·(V·gradᵀ − δ) with δ = Σ grad·out lie transposed, [key][column]; dqᵀ = Kᵀ·dS, dk = dS·q, dv = P·grad.
 *
 * An item is a stretch of a sequence's columns with one key head. It makes all of its columns' dq, and what they add to dk and
 * dv, which a second kernel sums over the stretches, in order. So no two threads add to the same place, and a stretch is a
 * matter of the sequence alone.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import { beginTiles, endTiles } from "../lang/tiles.ts";
import type { Index, Pointer } from "../lang/values.ts";
import {
  bySize,
  Columns,
  clear,
  exp2,
  FiniteCheck,
  finish,
  groupBytes,
  hideScores,
  inTurn,
  interleave,
  joinHalves,
  LINE,
  multiplySides,
  type Parts,
  packedSide,
  packPairs,
  packRows,
  pauses,
  places,
  ROWS,
  SCORE_BYTES,
  SIDE,
  scaleColumns,
  splitParts,
  stepBytes,
  swap,
  TILE_ROW,
  transposeTiles,
  turnColumns,
} from "./attention-tile-parts.ts";
import { TILES_COMMON } from "./attention-tiles.ts";

/**
 * Words (i32) of an item: as `COLUMN_ITEM`, but with all columns of the stretch, and the first of its groups of sums and
 * their number: one for each group of keys that its last query sees.
 */
export const STRETCH_ITEM = {
  query: 0,
  head: 1,
  columns: 2,
  keys: 3,
  kvHead: 4,
  packed: 5,
  sums: 6,
  groups: 7,
} as const;
export const STRETCH_ITEM_WORDS = 8;

/** Bytes of a group of sums: dk of 32 keys, then dv. */
export const sumsBytes = (size: number): number => 2 * 4 * SIDE * size;

/** Places in a thread's workspace, in bytes; those that grow with the head's size follow. */
const PLACES = places({
  ...{ q: 8 * SIDE, grad: 8 * SIDE, visible: LINE, lse: LINE, delta: LINE, flag: 64 },
  ...{ scores: 2 * SCORE_BYTES, products: 2 * SCORE_BYTES, gradients: 2 * SCORE_BYTES },
});

/** Bytes of one thread's workspace for heads of `size` elements. */
export const attentionTilesBackwardWorkspaceBytes = (size: number, parts: Parts): number =>
  PLACES.end + 5 * groupBytes(size, parts) + 2 * size * LINE;

function backwardKernel(size: number, parts: Parts) {
  return defineKernel(
    `attention_tiles_backward_${size}_${parts}`,
    {
      ...{ q: "f32*", qRow: "index", qHead: "index", grad: "f32*", gradRow: "index", gradHead: "index" },
      ...{ out: "f32*", outRow: "index", outHead: "index", gradQ: "f32*", gradQRow: "index", gradQHead: "index" },
      ...TILES_COMMON,
      /** [heads, queries], from the forward kernel. */
      lse: "f32*",
      /** Groups of sums. */
      sums: "f32*",
      /** log2 e times what multiplies the scores. */
      scale: "f32",
      /** What multiplies the scores. */
      gradScale: "f32",
      /** Keys and values as rows, and keys transposed. */
      packedK: "u16*",
      packedV: "u16*",
      turnedK: "u16*",
    },
    (k, args) => {
      const { slot, release } = claimWorkspace(k, args.slots);
      const bytes = groupBytes(size, parts);
      const workspace = args.workspace.atByte(slot.mul(attentionTilesBackwardWorkspaceBytes(size, parts))).fixed();
      const line = (name: keyof typeof PLACES.at) => workspace.atByte(PLACES.at[name]);
      const half = (name: keyof typeof PLACES.at) => [line(name), line(name).at(ROWS)];
      const [columnsQ, columnsGrad, pairsQ, pairsGrad, rows] = [0, 1, 2, 3, 4].map((i) =>
        workspace.atByte(PLACES.end + i * bytes),
      );
      const gradQSums = workspace.atByte(PLACES.end + 5 * bytes);
      const turned = gradQSums.atByte(size * LINE);
      const finite = new FiniteCheck(k);
      beginTiles(k);

      k.loop({ from: k.begin, to: k.end }, (item) => {
        const words = args.items.at(item.mul(STRETCH_ITEM_WORDS)).fixed();
        const word = (name: keyof typeof STRETCH_ITEM) => words.at(STRETCH_ITEM[name]).loadIndex();
        const firstHead = word("kvHead").mul(args.group);
        const rowsOf = (tensor: Pointer, row: Index, stride: Index) => {
          const first = tensor.at(word("query").mul(row).add(firstHead.mul(stride))).fixed();
          return (query: Index, head: Index) => first.at(query.mul(row).add(head.mul(stride))).fixed();
        };
        const firstSums = args.sums.atByte(word("sums").mul(sumsBytes(size))).fixed();
        const fresh = k.variable(firstSums);
        k.repeat(word("groups").mul(2), () => {
          clear(k, fresh, SIDE * size);
          fresh.advance(SIDE * size);
        });
        const [columns, results] = [0, 1].map(() => new Columns(k, word("head"), args.group));
        const strides = { packed: k.index(TILE_ROW), line: k.index(LINE), sums: k.index(4 * size) };

        k.loop({ to: word("columns"), step: SIDE }, (column) => {
          const left = word("columns").sub(column);
          const q = rowsOf(args.q, args.qRow, args.qHead);
          const grad = rowsOf(args.grad, args.gradRow, args.gradHead);
          const out = rowsOf(args.out, args.outRow, args.outHead);
          const first = k.variable(k.index(0));
          const reach = k.variable(first);
          columns.next(SIDE, left, ({ query, head, number }) => {
            const [g, o] = [grad(query, head), out(query, head)];
            line("q").as("i64").at(number).store(q(query, head).value());
            line("grad").as("i64").at(number).store(g.value());
            const total = k.variable(k.zero());
            for (let i = 0; i < size; i += ROWS) total.set(g.at(i).load().fma(o.at(i).load(), total));
            line("delta").at(number).store(total.sum());
            const at = head.add(firstHead).mul(args.headStride).add(query).add(word("query"));
            line("lse").at(number).store(args.lse.at(at).loadF32().mul(Math.LOG2E));
            // Columns past the end repeat the last one and see nothing.
            reach.set(query.add(word("keys")));
            const visible = k.variable(reach);
            k.if(number.ge(left), () => visible.set(0));
            line("visible").as("i32").at(number).store(visible);
            k.if(number.eq(0), () => first.set(visible));
          });
          k.if(left.lt(SIDE), () => first.set(0));
          for (const [name, turnedTo, pairedTo] of [
            ["q", columnsQ, pairsQ],
            ["grad", columnsGrad, pairsGrad],
          ] as const) {
            const rowAt = (r: Index) => k.pointer(line(name).as("i64").at(r).loadIndex(), "f32");
            const factor = name === "q" ? args.scale : undefined;
            const packing = { rowAt, size: k.index(size), parts, finite, factor };
            packRows(k, { ...packing, to: rows });
            transposeTiles(k, rows, k.index(size), parts, turnedTo);
            packPairs(k, { ...packing, to: pairedTo });
          }
          clear(k, gradQSums, size * SIDE);

          const place = word("packed").mul(bytes);
          const [packedK, packedV] = [args.packedK, args.packedV].map((all) => k.variable(all.atByte(place)));
          const turnedK = k.variable(args.turnedK.atByte(place));
          const sums = k.variable(firstSums);
          const pair = (name: "scores" | "products" | "gradients") =>
            [0, SCORE_BYTES].map((at) => k.variable(line(name).atByte(at)));
          const [[scores, otherScores], [products, otherProducts], [gradients, otherGradients]] = [
            ...[pair("scores"), pair("products"), pair("gradients")],
          ];
          const packed = (at: Pointer) => packedSide(at, strides.packed, parts);
          const multiply = (left: Pointer, right: Pointer, to: Pointer) =>
            multiplySides(k, {
              ...{ left: packed(left), right: packed(right), steps: size / SIDE, parts },
              sums: { at: to, row: strides.line, below: ROWS * LINE },
            });
          const next = (toScores: Pointer, toProducts: Pointer) =>
            inTurn(multiply(packedK, columnsQ, toScores), multiply(packedV, columnsGrad, toProducts));
          const hide = (key: Index) => k.if(first.lt(key.add(SIDE)), () => hideScores(k, scores, key, half("visible")));
          const steps = Array.from({ length: size / SIDE }, (_, step) => step);
          /** dq and what is added to dk and dv, of the group before. */
          const add = () =>
            inTurn(
              ...steps.map((step) =>
                multiplySides(k, {
                  left: packed(turnedK.atByte(step * stepBytes(parts))),
                  right: { at: otherGradients, step: 0, part: ROWS * LINE, tile: 4 * ROWS, row: strides.line },
                  ...{ steps: 1, parts },
                  sums: { at: gradQSums.atByte(step * SIDE * LINE), row: strides.line, below: ROWS * LINE, add: true },
                }),
              ),
              ...[
                { left: otherProducts, right: pairsQ, to: sums },
                { left: otherScores, right: pairsGrad, to: sums.at(SIDE * size) },
              ].flatMap(({ left, right, to }) =>
                steps.map((step) =>
                  multiplySides(k, {
                    left: { at: left, step: 0, part: LINE / 2, tile: ROWS * LINE, row: strides.line },
                    right: packed(right.atByte(step * stepBytes(parts))),
                    ...{ steps: 1, parts },
                    sums: { at: to.at(step * SIDE), row: strides.sums, below: ROWS * 4 * size, add: true },
                  }),
                ),
              ),
            );

          finish(next(scores, products));
          const key = k.variable(k.index(0));
          k.repeat(reach.add(SIDE - 1).sar(5), () => {
            hide(key);
            const facts = { lse: half("lse"), delta: half("delta"), parts };
            const both = () => differentiate(k, { ...facts, scores, products, gradients });
            // Loads and stores of tiles have vectors to wait beside.
            k.if(
              key.gt(0),
              () => {
                const run = add();
                interleave({ run: both(), pauses: ROWS }, { run, pauses: 3 * pauses(size / SIDE, parts) });
                turnedK.advanceBytes(bytes);
                sums.advanceBytes(sumsBytes(size));
              },
              () => finish(both()),
            );
            packedK.advanceBytes(bytes);
            packedV.advanceBytes(bytes);
            key.increase(SIDE);
            k.if(key.lt(reach), () => finish(next(otherScores, otherProducts)));
            swap(k, scores, otherScores);
            swap(k, products, otherProducts);
            swap(k, gradients, otherGradients);
          });
          finish(add());

          const scale = args.gradScale.splat();
          scaleColumns(k, gradQSums, size, [scale, scale]);
          turnColumns(k, gradQSums, size, turned);
          const from = k.variable(turned);
          const gradQ = rowsOf(args.gradQ, args.gradQRow, args.gradQHead);
          results.next(left.min(SIDE), left, ({ query, head }) => {
            const to = gradQ(query, head);
            for (let i = 0; i < size; i += ROWS) to.at(i).store(from.at(i).load());
            from.advance(size);
          });
        });
      });
      endTiles(k);
      finite.report(line("flag"), args.flag);
      release();
    },
  );
}

/** dq [queries, heads, size], and stretches' sums for dk and dv, for heads of `size` elements. Items: {@link STRETCH_ITEM}. */
export const attentionTilesBackward = bySize(backwardKernel);

interface Differentiated {
  readonly scores: Pointer;
  readonly products: Pointer;
  readonly lse: readonly Pointer[];
  readonly delta: readonly Pointer[];
  readonly gradients: Pointer;
  readonly parts: Parts;
}

/**
 * Turns scores and products of 32 keys into P and dS, as left tiles in parts in the same places and dS also as right tiles;
 * pauses after each pair of rows.
 */
function* differentiate(k: Builder, given: Differentiated): Generator<void, void> {
  const { scores, products, gradients, parts } = given;
  const [lse, delta] = [given.lse, given.delta].map((both) => both.map((at) => at.load()));
  for (let row = 0; row < ROWS; row++) {
    const rows = [row, row + ROWS].map((r) => {
      const both = [0, 1].map((half) => {
        const at = r * SIDE + half * ROWS;
        const p = exp2(k, scores.at(at).load().sub(lse[half]));
        const ds = p.mul(products.at(at).load().sub(delta[half]));
        return { p: splitParts(p, parts), ds: splitParts(ds, parts) };
      });
      for (let part = 0; part < parts; part++) {
        const at = r * SIDE + part * ROWS;
        scores.at(at).as("i32").store(joinHalves(both[0].p[part], both[1].p[part]));
        products.at(at).as("i32").store(joinHalves(both[0].ds[part], both[1].ds[part]));
      }
      return both;
    });
    for (const half of [0, 1]) {
      for (let part = 0; part < parts; part++) {
        const word = joinHalves(rows[0][half].ds[part], rows[1][half].ds[part]);
        gradients
          .at((row + part * ROWS) * SIDE + half * ROWS)
          .as("i32")
          .store(word);
      }
    }
    yield;
  }
}

/** Most stretches of a sequence. */
export const MAX_STRETCHES = 8;

/** Words (i32) of an item: a group of keys as in `KEY_GROUP`, how many stretches add to it, and their groups of sums, in order. */
export const SUM_ITEM = { key: 0, keys: 1, kvHead: 2, stretches: 3, sums: 4 } as const;
export const SUM_ITEM_WORDS = 4 + MAX_STRETCHES;

/** dk and dv [keys, kvHeads, size]: the stretches' sums. Items: {@link SUM_ITEM}. */
export const attentionTilesSum = defineKernel(
  "attention_tiles_sum",
  {
    ...{ gradK: "f32*", gradKRow: "index", gradKHead: "index" },
    ...{ gradV: "f32*", gradVRow: "index", gradVHead: "index" },
    ...{ sums: "f32*", size: "index", items: "i32*" },
  },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const words = args.items.at(item.mul(SUM_ITEM_WORDS)).fixed();
      const word = (name: keyof typeof SUM_ITEM) => words.at(SUM_ITEM[name]).loadIndex();
      const each = args.size.mul(2 * SIDE);
      for (const [tensor, row, head, factor, from] of [
        // The scores' factor is in q already, with log2 e.
        [args.gradK, args.gradKRow, args.gradKHead, Math.LN2, args.sums],
        [args.gradV, args.gradVRow, args.gradVHead, 1, args.sums.at(args.size.mul(SIDE))],
      ] as const) {
        const to = tensor.at(word("key").mul(row).add(word("kvHead").mul(head))).fixed();
        const first = from.fixed();
        k.loop({ to: word("keys") }, (key) => {
          const line = to.at(key.mul(row)).fixed();
          k.loop({ to: args.size, step: k.lanes }, (i) => {
            const place = first.at(key.mul(args.size).add(i)).fixed();
            const total = k.variable(k.zero());
            const list = k.variable(words.at(SUM_ITEM.sums));
            k.repeat(word("stretches"), () => {
              total.set(total.add(place.at(list.loadIndex().mul(each)).load()));
              list.advance(1);
            });
            line.at(i).store(factor === 1 ? total : total.mul(factor));
          });
        });
      }
    });
  },
);
