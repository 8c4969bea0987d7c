/**
 * `attention-gradients.ts` on matrix tiles, laid out as in `attention-tile-parts.ts`: P = 2^(scores − lse) and
 * dS = P·(V·gradᵀ − δ) lie transposed, [key][column]. One kernel over columns gives dqᵀ = Kᵀ·dS and δ; one over keys gives
 * dk = dS·q and dv = P·grad, where the words of P and dS pair columns.
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
  transposeTiles,
} from "./attention-tile-parts.ts";
import { COLUMN_ITEM, COLUMN_ITEM_WORDS, TILES_COMMON, turnColumns } from "./attention-tiles.ts";

const GRADIENT = {
  q: "f32*",
  qRow: "index",
  qHead: "index",
  grad: "f32*",
  gradRow: "index",
  gradHead: "index",
  /** [heads, queries], from the forward kernel. */
  lse: "f32*",
  /** [heads, queries]: written by the kernel over columns, read by the one over keys. */
  delta: "f32*",
  /** log2 e times what multiplies the scores. */
  scale: "f32",
  /** Keys and values as rows. */
  packedK: "u16*",
  packedV: "u16*",
} as const;

/** Keys that the kernel over columns takes at a time. */
const BLOCK = 128;
/** Keys that an item of the kernel over keys has. */
export const KEY_BLOCK = 256;
/** Columns that it takes at a time. */
const CHUNK = 128;

const places = <N extends string>(sizes: { readonly [K in N]: number }) => {
  let end = 0;
  const at = {} as Record<N, number>;
  for (const name in sizes) {
    at[name] = end;
    end += sizes[name];
  }
  return { at, end };
};

/** Places in a thread's workspace, in bytes; those that grow with the head's size follow. */
const OVER_COLUMNS = places({
  ...{ q: 8 * SIDE, grad: 8 * SIDE, visible: LINE, lse: LINE, delta: LINE, flag: 64 },
  ...{ scores: (BLOCK / SIDE) * SCORE_BYTES, products: (BLOCK / SIDE) * SCORE_BYTES },
});
const OVER_KEYS = places({
  ...{
    q: 8 * CHUNK,
    grad: 8 * CHUNK,
    visible: 4 * CHUNK,
    reach: 4 * CHUNK,
    lse: 4 * CHUNK,
    delta: 4 * CHUNK,
    flag: 64,
  },
  ...{ scores: (CHUNK / SIDE) * SCORE_BYTES, products: (CHUNK / SIDE) * SCORE_BYTES },
});

const columnsBytes = (size: number, parts: Parts): number =>
  OVER_COLUMNS.end + 3 * groupBytes(size, parts) + 2 * size * LINE;
const keysBytes = (size: number, parts: Parts): number =>
  OVER_KEYS.end + (1 + (4 * CHUNK) / SIDE) * groupBytes(size, parts) + 2 * 4 * KEY_BLOCK * size;

/** Bytes of one thread's workspace, enough for both kernels, for heads of `size` elements. */
export const attentionTilesBackwardWorkspaceBytes = (size: number, parts: Parts): number =>
  Math.max(columnsBytes(size, parts), keysBytes(size, parts));

/** P and dS of some scores and products of grad and values; 0 where hidden. */
function gradients(
  k: Builder,
  score: VF,
  product: VF,
  column: { lse: VF; delta: VF },
  seen?: ReturnType<VF["compare"]>,
) {
  const p = exp2(k, score.sub(column.lse));
  const ds = p.mul(product.sub(column.delta));
  return seen ? { p: seen.select(p, k.zero()), ds: seen.select(ds, k.zero()) } : { p, ds };
}

function columnsKernel(parts: Parts) {
  return defineKernel(
    `attention_tiles_backward_queries_${parts}`,
    {
      ...{ ...GRADIENT, out: "f32*", outRow: "index", outHead: "index" },
      ...{ gradQ: "f32*", gradQRow: "index", gradQHead: "index", ...TILES_COMMON },
      /** Keys transposed. */
      turnedK: "u16*",
      /** What multiplies the scores. */
      gradScale: "f32",
    },
    (k, args) => {
      const { slot, release } = claimWorkspace(k, args.slots);
      const bytes = groupBytesOf(args.size, parts);
      const own = bytes
        .mul(3)
        .add(args.size.mul(2 * LINE))
        .add(OVER_COLUMNS.end);
      const workspace = args.workspace.atByte(slot.mul(own)).fixed();
      const line = (name: keyof typeof OVER_COLUMNS.at) => workspace.atByte(OVER_COLUMNS.at[name]);
      const columnsQ = workspace.atByte(OVER_COLUMNS.end).fixed();
      const columnsGrad = columnsQ.atByte(bytes).fixed();
      const rows = columnsGrad.atByte(bytes).fixed();
      const sums = rows.atByte(bytes).fixed();
      const turned = sums.atByte(args.size.mul(LINE)).fixed();
      const finite = new FiniteCheck(k);
      beginTiles(k);

      k.loop({ from: k.begin, to: k.end }, (item) => {
        const words = args.items.at(item.mul(COLUMN_ITEM_WORDS)).fixed();
        const word = (name: keyof typeof COLUMN_ITEM) => words.at(COLUMN_ITEM[name]).loadIndex();
        const firstHead = word("kvHead").mul(args.group);
        const rowsOf = (tensor: Pointer, row: Index, stride: Index) => {
          const first = tensor.at(word("query").mul(row).add(firstHead.mul(stride))).fixed();
          return (query: Index, head: Index) => first.at(query.mul(row).add(head.mul(stride))).fixed();
        };
        const q = rowsOf(args.q, args.qRow, args.qHead);
        const grad = rowsOf(args.grad, args.gradRow, args.gradHead);
        const out = rowsOf(args.out, args.outRow, args.outHead);
        new Columns(k, word("head"), args.group).next(SIDE, word("columns"), ({ query, head, number }) => {
          const [g, o] = [grad(query, head), out(query, head)];
          line("q").as("i64").at(number).store(q(query, head).value());
          line("grad").as("i64").at(number).store(g.value());
          line("visible")
            .as("i32")
            .at(number)
            .store(query.add(word("keys")));
          const sum = k.variable(k.zero());
          k.loop({ to: args.size, step: ROWS }, (i) => sum.set(g.at(i).load().fma(o.at(i).load(), sum)));
          const delta = sum.sum();
          const at = head.add(firstHead).mul(args.headStride).add(query).add(word("query"));
          args.delta.at(at).store(delta);
          line("delta").at(number).store(delta);
          line("lse").at(number).store(args.lse.at(at).loadF32().mul(Math.LOG2E));
        });
        const rowAt = (name: "q" | "grad") => (r: Index) => k.pointer(line(name).as("i64").at(r).loadIndex(), "f32");
        const packing = { size: args.size, parts, to: rows, finite };
        packRows(k, { ...packing, rowAt: rowAt("q"), factor: args.scale });
        transposeTiles(k, rows, args.size, parts, columnsQ);
        packRows(k, { ...packing, rowAt: rowAt("grad") });
        transposeTiles(k, rows, args.size, parts, columnsGrad);
        k.loop({ to: args.size.mul(SIDE), step: ROWS }, (i) => sums.at(i).store(k.zero()));

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
          const steps = args.size.sar(5);
          const row = k.index(LINE);
          for (const [left, right, to] of [
            [args.packedK, columnsQ, line("scores")],
            [args.packedV, columnsGrad, line("products")],
          ]) {
            const [packed, scores] = [k.variable(left.atByte(place)), k.variable(to)];
            k.repeat(groups, () => {
              const sides = [packed, right].map((side) => packedSide(side, parts * PAIR_BYTES));
              multiplySides(k, sides[0], sides[1], steps, parts, { at: scores, row });
              packed.advanceBytes(bytes);
              scores.advanceBytes(SCORE_BYTES);
            });
          }
          // Groups that every column sees whole.
          const whole = word("keys").sub(block).max(0).sar(5).min(groups);
          const [scores, products] = [k.variable(line("scores")), k.variable(line("products"))];
          const key = k.variable(block);
          const columns = [0, 1].map((half) => {
            const [lse, delta] = [
              line("lse")
                .at(half * ROWS)
                .load(),
              line("delta")
                .at(half * ROWS)
                .load(),
            ];
            return { lse, delta };
          });
          const turn = (count: Index, hidden: boolean) =>
            k.repeat(count, () => {
              k.repeat(k.index(ROWS), () => {
                const here = [0, ROWS].map((i) => key.add(i).splat());
                columns.forEach((column, half) => {
                  const at = [0, ROWS].map((i) => i * SIDE + half * ROWS);
                  const ds = at.map((place, i) => {
                    const visible = () =>
                      line("visible")
                        .as("i32")
                        .at(half * ROWS)
                        .loadInt();
                    const seen = hidden ? visible().compare("gt", here[i]) : undefined;
                    return gradients(k, scores.at(place).load(), products.at(place).load(), column, seen).ds;
                  });
                  pairWords(ds[0], ds[1], parts).forEach((pair, part) => {
                    products.at(at[part]).as("i32").store(pair);
                  });
                });
                key.increase(1);
                scores.advance(SIDE);
                products.advance(SIDE);
              });
              key.increase(ROWS);
              scores.advance(ROWS * SIDE);
              products.advance(ROWS * SIDE);
            });
          turn(whole, false);
          turn(groups.sub(whole), true);
          const turnedK = k.variable(args.turnedK.atByte(place));
          const to = k.variable(sums);
          k.repeat(steps, () => {
            const ds = { at: line("products"), step: SCORE_BYTES, part: ROWS * LINE, tile: 4 * ROWS, row: LINE };
            multiplySides(k, packedSide(turnedK, bytes), ds, groups, parts, { at: to, row, add: true });
            turnedK.advanceBytes(parts * PAIR_BYTES);
            to.advanceBytes(SIDE * LINE);
          });
        });

        const scale = args.gradScale.splat();
        turnColumns(k, sums, args.size, turned, [scale, scale]);
        const gradQ = rowsOf(args.gradQ, args.gradQRow, args.gradQHead);
        const from = k.variable(turned);
        new Columns(k, word("head"), args.group).next(word("columns"), word("columns"), ({ query, head }) => {
          const to = gradQ(query, head);
          k.loop({ to: args.size, step: ROWS }, (i) => to.at(i).store(from.at(i).load()));
          from.advance(args.size);
        });
      });
      endTiles(k);
      finite.report(line("flag"), args.flag);
      release();
    },
  );
}

/** dq [queries, heads, size] and δ; `[parts]`. Items as in `attentionTiles`. */
export const attentionTilesBackwardQueries = { 1: columnsKernel(1), 2: columnsKernel(2) } as const;

/**
 * Words (i32) of an item of the kernel over keys: query and head of the first column that may see them, columns from there
 * on, keys that its query sees, the key head, the packed group of the first key, its row, the number of keys, and of
 * keys before them in the sequence.
 */
export const KEY_ITEM = { ...COLUMN_ITEM, key: 6, count: 7, before: 8 } as const;
export const KEY_ITEM_WORDS = 9;

function keysKernel(parts: Parts) {
  return defineKernel(
    `attention_tiles_backward_keys_${parts}`,
    {
      ...{ ...GRADIENT, gradK: "f32*", gradKRow: "index", gradKHead: "index" },
      ...{ gradV: "f32*", gradVRow: "index", gradVHead: "index", ...TILES_COMMON },
    },
    (k, args) => {
      const { slot, release } = claimWorkspace(k, args.slots);
      const bytes = groupBytesOf(args.size, parts);
      const chunkBytes = bytes.mul(CHUNK / SIDE);
      const blockBytes = args.size.mul(4 * KEY_BLOCK);
      const own = bytes
        .mul(1 + (4 * CHUNK) / SIDE)
        .add(blockBytes.mul(2))
        .add(OVER_KEYS.end);
      const workspace = args.workspace.atByte(slot.mul(own)).fixed();
      const line = (name: keyof typeof OVER_KEYS.at) => workspace.atByte(OVER_KEYS.at[name]);
      const rows = workspace.atByte(OVER_KEYS.end).fixed();
      const columnsQ = rows.atByte(bytes).fixed();
      const columnsGrad = columnsQ.atByte(chunkBytes).fixed();
      const pairsQ = columnsGrad.atByte(chunkBytes).fixed();
      const pairsGrad = pairsQ.atByte(chunkBytes).fixed();
      const gradKeys = pairsGrad.atByte(chunkBytes).fixed();
      const gradValues = gradKeys.atByte(blockBytes).fixed();
      const finite = new FiniteCheck(k);
      beginTiles(k);

      k.loop({ from: k.begin, to: k.end }, (item) => {
        const words = args.items.at(item.mul(KEY_ITEM_WORDS)).fixed();
        const word = (name: keyof typeof KEY_ITEM) => words.at(KEY_ITEM[name]).loadIndex();
        const firstHead = word("kvHead").mul(args.group);
        const rowsOf = (tensor: Pointer, row: Index, stride: Index) => {
          const first = tensor.at(word("query").mul(row).add(firstHead.mul(stride))).fixed();
          return (query: Index, head: Index) => first.at(query.mul(row).add(head.mul(stride))).value();
        };
        const q = rowsOf(args.q, args.qRow, args.qHead);
        const grad = rowsOf(args.grad, args.gradRow, args.gradHead);
        const keyGroups = word("count")
          .add(SIDE - 1)
          .sar(5);
        k.loop({ to: keyGroups.mul(SIDE).mul(args.size), step: ROWS }, (i) => {
          gradKeys.at(i).store(k.zero());
          gradValues.at(i).store(k.zero());
        });

        const columns = new Columns(k, word("head"), args.group);
        k.loop({ to: word("columns"), step: CHUNK }, (chunk) => {
          const left = word("columns").sub(chunk);
          columns.next(CHUNK, left, ({ query, head, number }) => {
            line("q").as("i64").at(number).store(q(query, head));
            line("grad").as("i64").at(number).store(grad(query, head));
            const at = head.add(firstHead).mul(args.headStride).add(query).add(word("query"));
            line("lse").at(number).store(args.lse.at(at).loadF32().mul(Math.LOG2E));
            line("delta").at(number).store(args.delta.at(at).loadF32());
            // Columns past the end repeat the last one and see nothing.
            const reach = query.add(word("keys"));
            const visible = k.variable(reach);
            k.if(number.ge(left), () => visible.set(0));
            line("reach").as("i32").at(number).store(reach);
            line("visible").as("i32").at(number).store(visible);
          });
          const groups = left
            .min(CHUNK)
            .add(SIDE - 1)
            .sar(5);
          k.loop({ to: groups }, (group) => {
            const place = group.mul(bytes);
            for (const [name, turned, paired] of [
              ["q", columnsQ, pairsQ],
              ["grad", columnsGrad, pairsGrad],
            ] as const) {
              const list = line(name).as("i64").at(group.mul(SIDE)).fixed();
              const rowAt = (r: Index) => k.pointer(list.at(r).loadIndex(), "f32");
              const packing = { rowAt, size: args.size, parts, finite, factor: name === "q" ? args.scale : undefined };
              packRows(k, { ...packing, to: rows });
              transposeTiles(k, rows, args.size, parts, turned.atByte(place).fixed());
              packPairs(k, { ...packing, to: paired.atByte(place).fixed() });
            }
          });

          const sumsRow = args.size.mul(4);
          const row = k.index(LINE);
          k.loop({ to: keyGroups }, (keyGroup) => {
            const key = word("before").add(keyGroup.mul(SIDE));
            const first = k.variable(k.index(0));
            const reachOf = (group: Index) =>
              line("reach")
                .as("i32")
                .at(group.mul(SIDE))
                .at(SIDE - 1)
                .loadIndex();
            k.loop({ to: groups }, (group) => k.if(reachOf(group).le(key), () => first.increase(1)));
            const place = bytes.mul(word("packed").add(keyGroup));
            const packed = [args.packedK, args.packedV].map((side) => side.atByte(place).fixed());
            k.loop({ from: first, to: groups }, (group) => {
              const at = (all: Pointer) => all.atByte(group.mul(SCORE_BYTES)).fixed();
              const [scores, products] = [at(line("scores")), at(line("products"))];
              const steps = args.size.sar(5);
              for (const [left, right, to] of [
                [packed[0], columnsQ, scores],
                [packed[1], columnsGrad, products],
              ]) {
                const sides = [left, right.atByte(group.mul(bytes)).fixed()].map((side) =>
                  packedSide(side, parts * PAIR_BYTES),
                );
                multiplySides(k, sides[0], sides[1], steps, parts, { at: to, row });
              }
              const column = group.mul(SIDE);
              const wholly = line("visible").as("i32").at(column).loadIndex().sub(key).sub(SIDE);
              k.if(
                wholly.min(left.sub(column).sub(SIDE)).ge(0),
                () => gradientLines(k, { parts, line, column, scores, products }),
                () => gradientLines(k, { parts, line, column, scores, products, key }),
              );
            });
            const count = groups.sub(first);
            const lines = { step: SCORE_BYTES, part: LINE / 2, tile: ROWS * LINE, row: LINE };
            for (const [left, right, sums] of [
              [line("scores"), pairsGrad, gradValues],
              [line("products"), pairsQ, gradKeys],
            ]) {
              const from = left.atByte(first.mul(SCORE_BYTES)).fixed();
              const pairs = k.variable(right.atByte(first.mul(bytes)));
              const to = k.variable(sums.atByte(keyGroup.mul(sumsRow).mul(SIDE)));
              k.repeat(args.size.sar(5), () => {
                const place = { at: to, row: sumsRow, add: true };
                multiplySides(k, { at: from, ...lines }, packedSide(pairs, bytes), count, parts, place);
                pairs.advanceBytes(parts * PAIR_BYTES);
                to.advance(SIDE);
              });
            }
          });
        });

        for (const [sums, tensor, row, head, factor] of [
          // The scores' factor is in q already, with log2 e.
          [gradKeys, args.gradK, args.gradKRow, args.gradKHead, Math.LN2],
          [gradValues, args.gradV, args.gradVRow, args.gradVHead, 1],
        ] as const) {
          const from = k.variable(sums);
          const to = k.variable(tensor.at(word("key").mul(row).add(word("kvHead").mul(head))));
          k.repeat(word("count"), () => {
            k.loop({ to: args.size, step: ROWS }, (i) => {
              const value = from.at(i).load();
              to.at(i).store(factor === 1 ? value : value.mul(factor));
            });
            from.advance(args.size);
            to.advance(row);
          });
        }
      });
      endTiles(k);
      finite.report(line("flag"), args.flag);
      release();
    },
  );
}

interface GradientLines {
  readonly parts: Parts;
  readonly line: (name: "lse" | "delta" | "visible") => Pointer;
  /** The first column. */
  readonly column: Index;
  readonly scores: Pointer;
  readonly products: Pointer;
  /** The first key's number, where columns see only some. */
  readonly key?: Index;
}

/** Turns scores and products of 32 keys into P and dS, as left tiles in parts in the same places. */
function gradientLines(k: Builder, { parts, line, column, scores, products, key }: GradientLines): void {
  const facts = [0, ROWS].map((half) => {
    const at = (name: "lse" | "delta" | "visible") => line(name).at(column).at(half);
    const visible = key ? at("visible").as("i32").loadInt() : undefined;
    return { lse: at("lse").load(), delta: at("delta").load(), visible };
  });
  const number = key && k.variable(key);
  const [p, ds] = [k.variable(scores), k.variable(products)];
  k.repeat(k.index(SIDE), () => {
    const here = number?.splat();
    const both = facts.map(({ lse, delta, visible }, half) => {
      const seen = visible?.compare("gt", here!);
      return gradients(k, p.at(half * ROWS).load(), ds.at(half * ROWS).load(), { lse, delta }, seen);
    });
    for (const [place, values] of [
      [p, both.map((each) => each.p)],
      [ds, both.map((each) => each.ds)],
    ] as const) {
      pairWords(values[0], values[1], parts).forEach((pair, part) => {
        place
          .at(part * ROWS)
          .as("i32")
          .store(pair);
      });
    }
    number?.increase(1);
    p.advance(SIDE);
    ds.advance(SIDE);
  });
}

/** dk and dv [keys, kvHeads, size]; `[parts]`. Items: {@link KEY_ITEM}, at most {@link KEY_BLOCK} keys each. */
export const attentionTilesBackwardKeys = { 1: keysKernel(1), 2: keysKernel(2) } as const;
