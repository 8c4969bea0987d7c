/**
 * `attention.ts` on matrix tiles (FlashAttention-2, Dao 2023), for sequences of several queries: scores K·Qᵀ and their
 * product with the values are made of tiles, the softmax between them of vectors. See `attention-tile-parts.ts` for the layout.
 *
 * Keys and values are packed once, by a kernel of its own. An item is a group of columns; keys pass by in blocks, whose
 * weights take the place of the scores. Numbers that are not finite are left to `attention.ts`: `flag` becomes 1 then.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import { beginTiles, endTiles } from "../lang/tiles.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";
import {
  Columns,
  exp2,
  FiniteCheck,
  groupBytes,
  groupBytesOf,
  LINE,
  multiplySides,
  PAIR_BYTES,
  type Parts,
  packedSide,
  packPairs,
  packRows,
  pairWords,
  ROWS,
  SCORE_BYTES,
  SIDE,
  transposeSquare,
  transposeTiles,
} from "./attention-tile-parts.ts";
import { log } from "./vector-math.ts";

export const TILES_COMMON = {
  headStride: "index",
  /** Query heads that share a key head. */
  group: "index",
  /** Elements of a head: a multiple of 32. */
  size: "index",
  items: "i32*",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  workspace: "f32*",
  /** An i32 that becomes 1 when numbers are met that tiles do not take. */
  flag: "i32*",
} as const;

/** Words (i32) of a group of keys: the first, how many (at most 32), their head. */
export const KEY_GROUP = { key: 0, keys: 1, kvHead: 2 } as const;
export const KEY_GROUP_WORDS = 3;

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
  slots: "i32*",
  workspace: "f32*",
  flag: "i32*",
} as const;

/** Keys or values [row, head, element] in parts; an item is a group of {@link KEY_GROUP}. */
function packKernel(parts: Parts) {
  return defineKernel(`attention_tiles_pack_${parts}`, packArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const bytes = groupBytesOf(args.size, parts);
    const pairs = args.workspace.atByte(slot.mul(bytes.add(64))).fixed();
    const scratch = pairs.atByte(bytes).fixed();
    const finite = new FiniteCheck(k);
    k.loop({ from: k.begin, to: k.end }, (group) => {
      const words = args.groups.at(group.mul(KEY_GROUP_WORDS)).fixed();
      const word = (name: keyof typeof KEY_GROUP) => words.at(KEY_GROUP[name]).loadIndex();
      const first = args.rows.at(word("key").mul(args.row).add(word("kvHead").mul(args.head))).fixed();
      const last = word("keys").sub(1);
      // Rows past the end repeat the last one: their weights are 0.
      const rowAt = (r: Index) => first.at(r.min(last).mul(args.row)).fixed();
      const packing = { rowAt, size: args.size, parts, finite };
      const place = bytes.mul(group);
      k.if(args.plain.value().ne(0), () => packRows(k, { ...packing, to: args.plain.atByte(place).fixed() }));
      k.if(args.transposed.value().ne(0), () => {
        packPairs(k, { ...packing, to: pairs });
        transposeTiles(k, pairs, args.size, parts, args.transposed.atByte(place).fixed());
      });
    });
    finite.report(scratch, args.flag);
    release();
  });
}

export const attentionTilesPack = { 1: packKernel(1), 2: packKernel(2) } as const;

/** Bytes of one thread's workspace. */
export const packWorkspaceBytes = (size: number, parts: Parts): number => groupBytes(size, parts) + 64;

/** Keys of a block. */
const BLOCK = 256;

/** Places in a thread's workspace, in bytes; those that grow with the head's size follow. */
const PLACE = (() => {
  let at = 0;
  const take = (bytes: number) => {
    at += bytes;
    return at - bytes;
  };
  return {
    q: take(8 * SIDE),
    visible: take(LINE),
    maximum: take(LINE),
    sum: take(LINE),
    factor: take(LINE),
    flag: take(64),
    scores: take((BLOCK / SIDE) * SCORE_BYTES),
    end: at,
  };
})();

/** Bytes of one thread's workspace for heads of `size` elements. */
export const attentionTilesWorkspaceBytes = (size: number, parts: Parts): number =>
  PLACE.end + 2 * groupBytes(size, parts) + 2 * size * LINE;

function attentionKernel(parts: Parts) {
  return defineKernel(
    `attention_tiles_${parts}`,
    {
      ...{
        q: "f32*",
        qRow: "index",
        qHead: "index",
        out: "f32*",
        outRow: "index",
        outHead: "index",
        lse: "f32*",
        ...TILES_COMMON,
      },
      /** log2 e times what multiplies the products. */
      scale: "f32",
      packedK: "u16*",
      packedV: "u16*",
    },
    (k, args) => {
      const { slot, release } = claimWorkspace(k, args.slots);
      const bytes = groupBytesOf(args.size, parts);
      const own = bytes
        .mul(2)
        .add(args.size.mul(2 * LINE))
        .add(PLACE.end);
      const workspace = args.workspace.atByte(slot.mul(own)).fixed();
      const line = (name: Exclude<keyof typeof PLACE, "end">) => workspace.atByte(PLACE[name]);
      const columns = workspace.atByte(PLACE.end).fixed();
      const rows = columns.atByte(bytes).fixed();
      const outputs = rows.atByte(bytes).fixed();
      const turned = outputs.atByte(args.size.mul(LINE)).fixed();
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
        packRows(k, { rowAt, size: args.size, parts, to: rows, factor: args.scale, finite });
        transposeTiles(k, rows, args.size, parts, columns);
        for (const half of [0, ROWS]) {
          line("maximum").at(half).store(k.vector(Number.NEGATIVE_INFINITY));
          line("sum").at(half).store(k.zero());
        }
        k.loop({ to: args.size.mul(SIDE), step: ROWS }, (i) => outputs.at(i).store(k.zero()));

        const all = line("visible")
          .as("i32")
          .at(SIDE - 1)
          .loadIndex();
        k.loop({ to: all, step: BLOCK }, (block) => {
          const groups = all
            .sub(block)
            .min(BLOCK)
            .add(SIDE - 1)
            .sar(5);
          const place = bytes.mul(word("packed").add(block.sar(5)));
          const packedK = k.variable(args.packedK.atByte(place));
          const scores = k.variable(line("scores"));
          const steps = args.size.sar(5);
          const row = k.index(LINE);
          k.repeat(groups, () => {
            const [left, right] = [packedSide(packedK, parts * PAIR_BYTES), packedSide(columns, parts * PAIR_BYTES)];
            multiplySides(k, left, right, steps, parts, { at: scores, row });
            packedK.advanceBytes(bytes);
            scores.advanceBytes(SCORE_BYTES);
          });
          // Groups that every column sees whole.
          const whole = word("keys").sub(block).max(0).sar(5).min(groups);
          softmaxBlock(k, { parts, workspace, block, whole, groups });
          k.if(block.gt(0), () => {
            const factors = [0, ROWS].map((half) => line("factor").at(half).load());
            const output = k.variable(outputs);
            k.repeat(args.size, () => {
              factors.forEach((factor, half) => {
                output.at(half * ROWS).store(
                  output
                    .at(half * ROWS)
                    .load()
                    .mul(factor),
                );
              });
              output.advance(SIDE);
            });
          });
          const packedV = k.variable(args.packedV.atByte(place));
          const output = k.variable(outputs);
          k.repeat(steps, () => {
            const weights = { step: SCORE_BYTES, part: ROWS * LINE, tile: 4 * ROWS, row: LINE };
            const right = { at: line("scores"), ...weights };
            multiplySides(k, packedSide(packedV, bytes), right, groups, parts, { at: output, row, add: true });
            packedV.advanceBytes(parts * PAIR_BYTES);
            output.advanceBytes(SIDE * LINE);
          });
        });

        const inverse = [0, ROWS].map((half) => k.vector(1).div(line("sum").at(half).load()));
        const logs = [0, ROWS].map((half) =>
          line("maximum")
            .at(half)
            .load()
            .fma(Math.LN2, log(k, line("sum").at(half).load())),
        );
        logs.forEach((total, half) => {
          line("sum")
            .at(half * ROWS)
            .store(total);
        });
        turnColumns(k, outputs, args.size, turned, inverse);
        const out = args.out.at(word("query").mul(args.outRow).add(firstHead.mul(args.outHead))).fixed();
        const from = k.variable(turned);
        each().next(word("columns"), word("columns"), ({ query, head, number }) => {
          const to = out.at(query.mul(args.outRow).add(head.mul(args.outHead))).fixed();
          k.loop({ to: args.size, step: ROWS }, (i) => to.at(i).store(from.at(i).load()));
          from.advance(args.size);
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
 * out = softmax(scale·q·kᵀ)·v, `lse` as in `attention`; `[parts]`. Items: {@link COLUMN_ITEM}, their keys packed as rows
 * and their values transposed.
 */
export const attentionTiles = { 1: attentionKernel(1), 2: attentionKernel(2) } as const;

/** Turns `[element][column]` into `[column][element]`, each column times its factor. */
export function turnColumns(k: Builder, from: Pointer, size: Index, to: Pointer, factors: readonly VF[]): void {
  const source = k.variable(from);
  k.repeat(size, () => {
    factors.forEach((factor, half) => {
      source.at(half * ROWS).store(
        source
          .at(half * ROWS)
          .load()
          .mul(factor),
      );
    });
    source.advance(SIDE);
  });
  for (const half of [0, ROWS]) {
    source.set(from.at(half));
    const place = k.variable(to.at(size.mul(half)));
    const row = size.mul(4);
    k.loop({ to: size, step: ROWS, maySpill: true }, () => {
      const line = k.variable(place);
      transposeSquare(
        k,
        (r) => source.atByte(r * LINE),
        () => {
          const here = k.variable(line);
          line.advanceBytes(row);
          return here;
        },
      );
      source.advanceBytes(ROWS * LINE);
      place.advance(ROWS);
    });
  }
}

/**
 * Turns a block's scores, in units of ln 2, into weights relative to the new maxima, as right tiles in parts in the same
 * place, and leaves the factors that what was before must be scaled by. From group `whole` on columns see only some keys.
 */
function softmaxBlock(
  k: Builder,
  {
    parts,
    workspace,
    block,
    whole,
    groups,
  }: { parts: Parts; workspace: Pointer; block: Index; whole: Index; groups: Index },
): void {
  const line = (name: Exclude<keyof typeof PLACE, "end">) => workspace.atByte(PLACE[name]);
  const halves = [0, 1];
  const lowest = k.vector(Number.NEGATIVE_INFINITY);
  const greatest = Array.from({ length: 4 }, (_, i) => [
    ...halves.map((half) =>
      k.variable(
        i
          ? lowest
          : line("maximum")
              .at(half * ROWS)
              .load(),
      ),
    ),
  ]);
  const scores = k.variable(line("scores"));
  k.repeat(whole.mul(SIDE / 4), () => {
    greatest.forEach((maxima, row) => {
      maxima.forEach((maximum, half) => {
        maximum.set(maximum.max(scores.at(row * SIDE + half * ROWS).load()));
      });
    });
    scores.advance(4 * SIDE);
  });
  const key = k.variable(block.add(whole.mul(SIDE)));
  k.repeat(groups.sub(whole).mul(SIDE), () => {
    const here = key.splat();
    for (const half of halves) {
      const seen = line("visible")
        .as("i32")
        .at(half * ROWS)
        .loadInt()
        .compare("gt", here);
      const score = seen.select(scores.at(half * ROWS).load(), lowest);
      scores.at(half * ROWS).store(score);
      greatest[0][half].set(greatest[0][half].max(score));
    }
    key.increase(1);
    scores.advance(SIDE);
  });
  const maxima = halves.map((half) => {
    const maximum = greatest.map((row): VF => row[half]).reduce((a, b) => a.max(b));
    const place = line("maximum").at(half * ROWS);
    line("factor")
      .at(half * ROWS)
      .store(exp2(k, place.load().sub(maximum)));
    place.store(maximum);
    return maximum;
  });
  const sums = halves.map((half) => {
    const at = half * ROWS;
    return k.variable(line("sum").at(at).load().mul(line("factor").at(at).load()));
  });
  scores.set(line("scores"));
  const weigh = (count: Index, hidden: boolean) =>
    k.repeat(count, () => {
      k.repeat(k.index(ROWS), () => {
        for (const half of halves) {
          const at = [0, ROWS].map((row) => scores.at(row * SIDE + half * ROWS));
          const weights = at.map((place) => {
            const score = place.load();
            const weight = exp2(k, score.sub(maxima[half]));
            return hidden ? score.compare("ne", lowest).select(weight, k.zero()) : weight;
          });
          for (const weight of weights) sums[half].set(sums[half].add(weight));
          pairWords(weights[0], weights[1], parts).forEach((word, part) => {
            at[part].as("i32").store(word);
          });
        }
        scores.advance(SIDE);
      });
      scores.advance(ROWS * SIDE);
    });
  weigh(whole, false);
  weigh(groups.sub(whole), true);
  sums.forEach((sum, half) => {
    line("sum")
      .at(half * ROWS)
      .store(sum);
  });
}
