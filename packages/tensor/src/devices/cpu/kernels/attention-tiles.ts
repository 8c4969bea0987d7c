/**
 * `attention.ts` on matrix tiles (FlashAttention-2, Dao 2023), for sequences of several queries: scores K·Qᵀ and their
 * product with the values are made of tiles, the softmax between them of vectors. See `attention-tile-parts.ts` for the layout.
 *
 * Keys and values are packed once, by a kernel of its own. An item is a group of columns; keys pass by in groups, and the
 * next one's scores are made between the weights of one. Numbers that are not finite are left to `attention.ts`: `flag`
 * becomes 1 then.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import { beginTiles, endTiles } from "../lang/tiles.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";
import { byLayout, KEY_BIAS, type KeyLayout, layoutName, unpackKeys } from "./attention-parts.ts";
import {
  bySize,
  Columns,
  clear,
  exp2,
  FiniteCheck,
  finish,
  groupBytes,
  groupBytesOf,
  hideScores,
  inTurn,
  interleave,
  LINE,
  multiplySides,
  type Parts,
  packedSide,
  packPairs,
  packRows,
  pairWords,
  pauses,
  places,
  ROWS,
  SCORE_BYTES,
  SIDE,
  scaleColumns,
  stepBytes,
  swap,
  TILE_ROW,
  transposeTiles,
  turnColumns,
} from "./attention-tile-parts.ts";
import { log } from "./vector-math.ts";

export const TILES_COMMON = {
  headStride: "index",
  /** Query heads that share a key head. */
  group: "index",
  items: "i32*",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  workspace: "f32*",
  /** An i32 that becomes 1 when numbers are met that tiles do not take. */
  flag: "i32*",
} as const;

/** Words (i32) of a group of keys: the first, how many (at most 32), their head, and the first one's place in its sequence. */
export const KEY_GROUP = { key: 0, keys: 1, kvHead: 2, place: 3 } as const;
export const KEY_GROUP_WORDS = 4;

/**
 * Words of an item: the query and head (of its key head's) of its first column, how many columns (at most 32), the keys that
 * its first query sees, the key head, and the first packed group of its sequence's keys.
 */
export const COLUMN_ITEM = { query: 0, head: 1, columns: 2, keys: 3, kvHead: 4, packed: 5 } as const;
export const COLUMN_ITEM_WORDS = 6;

const packArgs = {
  rows: "f32*",
  row: "index",
  head: "index",
  size: "index",
  /** Rows as left tiles, unless 0. */
  plain: "u16*",
  /** Elements as left tiles, unless 0. */
  transposed: "u16*",
  groups: "i32*",
  ...KEY_BIAS,
  /** The row of each key, where groups count their keys in it. */
  keyRows: "i32*",
  slots: "i32*",
  workspace: "f32*",
  flag: "i32*",
} as const;

/** Keys or values [row, head, element] in parts; an item is a group of {@link KEY_GROUP}. */
function packKernel(parts: Parts, layout: KeyLayout) {
  const { paged, blocks } = layout;
  return defineKernel(`attention_tiles_pack_${parts}${layoutName(layout)}`, packArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const bytes = groupBytesOf(args.size, parts);
    // The group's rows, out of their blocks, lie behind the scratch.
    const rowsBytes = args.size.mul(blocks ? 4 * SIDE : 0);
    const pairs = args.workspace.atByte(slot.mul(bytes.add(rowsBytes).add(64))).fixed();
    const scratch = pairs.atByte(bytes).fixed();
    const unpacked = scratch.atByte(64).fixed();
    const finite = new FiniteCheck(k);
    k.loop({ from: k.begin, to: k.end }, (group) => {
      const words = args.groups.at(group.mul(KEY_GROUP_WORDS)).fixed();
      const word = (name: keyof typeof KEY_GROUP) => words.at(KEY_GROUP[name]).loadIndex();
      const place = (from: Pointer, offset: Index) => (blocks ? from.atByte(offset) : from.at(offset)).fixed();
      const head = place(args.rows, word("kvHead").mul(args.head));
      const first = paged ? head : place(head, word("key").mul(args.row));
      const numbers = args.keyRows.at(word("key")).fixed();
      if (blocks) {
        unpackKeys(
          ...([k, first, args.row, args.size, k.index(0), word("keys"), unpacked] as const),
          paged ? numbers : undefined,
          {
            at: args.bias.at(word("kvHead").mul(args.biasHead)).fixed(),
            rotations: args.rotations.at(word("place").mul(args.rotationsRow)).fixed(),
            row: args.rotationsRow,
          },
        );
      }
      const last = word("keys").sub(1);
      // Rows past the end repeat the last one: their weights are 0.
      const rowAt = (r: Index) => {
        const key = r.min(last);
        if (blocks) return unpacked.at(key.mul(args.size)).fixed();
        return first.at((paged ? numbers.at(key).loadIndex() : key).mul(args.row)).fixed();
      };
      const packing = { rowAt, size: args.size, parts, finite };
      const form = bytes.mul(group);
      k.if(args.plain.value().ne(0), () => packRows(k, { ...packing, to: args.plain.atByte(form).fixed() }));
      k.if(args.transposed.value().ne(0), () => {
        packPairs(k, { ...packing, to: pairs });
        transposeTiles(k, pairs, args.size, parts, args.transposed.atByte(form).fixed());
      });
    });
    finite.report(scratch, args.flag);
    release();
  });
}

/** `attentionTilesPack[parts][paged][blocks]` */
export const attentionTilesPack = {
  1: byLayout((layout) => packKernel(1, layout)),
  2: byLayout((layout) => packKernel(2, layout)),
} as const;

/** Bytes of one thread's workspace. */
export const packWorkspaceBytes = (size: number, parts: Parts, blocks = false): number =>
  groupBytes(size, parts) + 64 + (blocks ? 4 * SIDE * size : 0);

/** Places in a thread's workspace, in bytes; those that grow with the head's size follow. */
const PLACES = places({
  ...{ q: 8 * SIDE, visible: LINE, maximum: LINE, sum: LINE, factor: LINE, flag: 64 },
  ...{ scores: 2 * SCORE_BYTES, weights: SCORE_BYTES },
});

/** Bytes of one thread's workspace for heads of `size` elements. */
export const attentionTilesWorkspaceBytes = (size: number, parts: Parts): number =>
  PLACES.end + 2 * groupBytes(size, parts) + 2 * size * LINE;

/** Scores that exceed the maximum so far by less, in units of ln 2, do not move it: weights may be as large as 2 to that power. */
const SLACK = 16;

function attentionKernel(size: number, parts: Parts) {
  return defineKernel(
    `attention_tiles_${size}_${parts}`,
    {
      ...{ q: "f32*", qRow: "index", qHead: "index", out: "f32*", outRow: "index", outHead: "index", lse: "f32*" },
      ...TILES_COMMON,
      /** log2 e times what multiplies the products. */
      scale: "f32",
      packedK: "u16*",
      packedV: "u16*",
    },
    (k, args) => {
      const { slot, release } = claimWorkspace(k, args.slots);
      const bytes = groupBytes(size, parts);
      const workspace = args.workspace.atByte(slot.mul(attentionTilesWorkspaceBytes(size, parts))).fixed();
      const line = (name: keyof typeof PLACES.at) => workspace.atByte(PLACES.at[name]);
      const half = (name: keyof typeof PLACES.at) => [line(name), line(name).at(ROWS)];
      const columns = workspace.atByte(PLACES.end);
      const rows = columns.atByte(bytes);
      const outputs = rows.atByte(bytes);
      const turned = outputs.atByte(size * LINE);
      const finite = new FiniteCheck(k);
      beginTiles(k);

      k.loop({ from: k.begin, to: k.end }, (item) => {
        const words = args.items.at(item.mul(COLUMN_ITEM_WORDS)).fixed();
        const word = (name: keyof typeof COLUMN_ITEM) => words.at(COLUMN_ITEM[name]).loadIndex();
        const firstHead = word("kvHead").mul(args.group);
        const each = () => new Columns(k, word("head"), args.group);
        const q = args.q.at(word("query").mul(args.qRow).add(firstHead.mul(args.qHead))).fixed();
        each().next(SIDE, word("columns"), ({ query, head, number }) => {
          const from = q.at(query.mul(args.qRow).add(head.mul(args.qHead)));
          line("q").as("i64").at(number).store(from.value());
          line("visible")
            .as("i32")
            .at(number)
            .store(query.add(word("keys")));
        });
        const rowAt = (r: Index) => k.pointer(line("q").as("i64").at(r).loadIndex(), "f32");
        packRows(k, { rowAt, size: k.index(size), parts, to: rows, factor: args.scale, finite });
        transposeTiles(k, rows, k.index(size), parts, columns);
        clear(k, outputs, size * SIDE);

        const seen = line("visible")
          .as("i32")
          .at(SIDE - 1)
          .loadIndex();
        const place = word("packed").mul(bytes);
        const packedK = k.variable(args.packedK.atByte(place));
        const packedV = k.variable(args.packedV.atByte(place));
        const [scores, nextScores] = [k.variable(line("scores")), k.variable(line("scores").atByte(SCORE_BYTES))];
        const weights = line("weights");
        const strides = { packed: k.index(TILE_ROW), line: k.index(LINE) };
        const products = (to: Pointer) =>
          multiplySides(k, {
            left: packedSide(packedK, strides.packed, parts),
            right: packedSide(columns, strides.packed, parts),
            ...{ steps: size / SIDE, parts, sums: { at: to, row: strides.line, below: ROWS * LINE } },
          });
        const addValues = () =>
          inTurn(
            ...Array.from({ length: size / SIDE }, (_, step) =>
              multiplySides(k, {
                left: packedSide(packedV.atByte(step * stepBytes(parts)), strides.packed, parts),
                right: { at: weights, step: 0, part: ROWS * LINE, tile: 4 * ROWS, row: strides.line },
                ...{ steps: 1, parts },
                sums: { at: outputs.atByte(step * SIDE * LINE), row: strides.line, below: ROWS * LINE, add: true },
              }),
            ),
          );

        const key = k.variable(k.index(0));
        const mask = () => k.if(word("keys").lt(key.add(SIDE)), () => hideScores(k, scores, key, half("visible")));
        finish(products(scores));
        packedK.advanceBytes(bytes);
        mask();
        greatestScores(scores).forEach((maximum, i) => {
          half("maximum")[i].store(maximum);
          half("sum")[i].store(k.zero());
        });
        k.repeat(seen.add(SIDE - 1).sar(5), () => {
          k.if(key.gt(0), () => {
            mask();
            const greatest = greatestScores(scores);
            const above = greatest.map((maximum, i) => maximum.sub(half("maximum")[i].load()));
            line("flag").store(above[0].max(above[1]).compare("gt", SLACK).select(k.vector(1), k.zero()).maximum());
            k.if(line("flag").as("i32").loadIndex().ne(0), () => {
              const factors = greatest.map((maximum, i) => {
                const before = half("maximum")[i].load();
                const moved = above[i].compare("gt", SLACK).select(maximum, before);
                const factor = exp2(k, before.sub(moved));
                half("maximum")[i].store(moved);
                half("sum")[i].store(half("sum")[i].load().mul(factor));
                return factor;
              });
              scaleColumns(k, outputs, size, factors);
            });
          });
          interleave(
            { run: weigh(k, scores, weights, half("maximum"), half("sum"), parts), pauses: ROWS },
            { run: products(nextScores), pauses: pauses(size / SIDE, parts) },
          );
          finish(addValues());
          swap(k, scores, nextScores);
          packedK.advanceBytes(bytes);
          packedV.advanceBytes(bytes);
          key.increase(SIDE);
        });
        const sums = half("sum").map((at) => at.load());
        scaleColumns(
          k,
          outputs,
          size,
          sums.map((sum) => k.vector(1).div(sum)),
        );
        sums.forEach((sum, i) => {
          half("sum")[i].store(half("maximum")[i].load().fma(Math.LN2, log(k, sum)));
        });
        turnColumns(k, outputs, size, turned);
        const out = args.out.at(word("query").mul(args.outRow).add(firstHead.mul(args.outHead))).fixed();
        const from = k.variable(turned);
        each().next(word("columns"), word("columns"), ({ query, head, number }) => {
          const to = out.at(query.mul(args.outRow).add(head.mul(args.outHead))).fixed();
          for (let i = 0; i < size; i += ROWS) to.at(i).store(from.at(i).load());
          from.advance(size);
          k.if(args.lse.value().ne(0), () => {
            const at = head.add(firstHead).mul(args.headStride).add(query).add(word("query"));
            args.lse.at(at).store(line("sum").at(number).loadF32());
          });
        });
      });
      endTiles(k);
      finite.report(line("flag"), args.flag);
      release();
    },
  );
}

/**
 * out = softmax(scale·q·kᵀ)·v, `lse` as in `attention`, for heads of `size` elements. Items: {@link COLUMN_ITEM}, their keys
 * packed as rows and their values transposed.
 */
export const attentionTiles = bySize(attentionKernel);

/** The greatest score of each column of a group. */
function greatestScores(scores: Pointer): VF[] {
  return [0, ROWS].map((half) => {
    const row = (r: number) => scores.at(r * SIDE + half).load();
    const four = [0, 1, 2, 3].map((first) => {
      let greatest = row(first);
      for (let r = first + 4; r < SIDE; r += 4) greatest = greatest.max(row(r));
      return greatest;
    });
    return four[0].max(four[1]).max(four[2].max(four[3]));
  });
}

/** Turns scores, in units of ln 2, into weights relative to the maxima, as right tiles in parts, and adds them up; pauses after each pair of rows. */
function* weigh(
  k: Builder,
  scores: Pointer,
  weights: Pointer,
  maximum: readonly Pointer[],
  sum: readonly Pointer[],
  parts: Parts,
): Generator<void, void> {
  const maxima = maximum.map((at) => at.load());
  const sums = sum.map((at) => k.variable(at.load()));
  for (let row = 0; row < ROWS; row++) {
    maxima.forEach((greatest, half) => {
      const at = [row, row + ROWS].map((r) => r * SIDE + half * ROWS);
      const both = at.map((place) => exp2(k, scores.at(place).load().sub(greatest)));
      for (const weight of both) sums[half].set(sums[half].add(weight));
      pairWords(both[0], both[1], parts).forEach((word, part) => {
        weights.at(at[part]).as("i32").store(word);
      });
    });
    yield;
  }
  sums.forEach((total, half) => {
    sum[half].store(total);
  });
}
