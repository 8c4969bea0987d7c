/**
 * Causal attention with grouped queries, the scores never written out whole (FlashAttention-2, Dao 2023).
 *
 * An item is some consecutive queries of one sequence with all heads that share a key head. The keys pass by in blocks
 * counted from the sequence's first one, so a row's sums do not depend on which rows share its item. The products are
 * register tiles as in `gemm.ts`.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { Index, Pointer } from "../lang/values.ts";
import {
  addProducts,
  addressFloats,
  byLayout,
  COMMON,
  eachRow,
  ITEM,
  ITEM_WORDS,
  itemRows,
  KEY_BIAS,
  type KeyLayout,
  keyBlock,
  layoutName,
  packedFloats,
  packKeys,
  packRows,
  QKV,
  scoreTile,
  storeTile,
  unpackKeys,
} from "./attention-parts.ts";
import { panelColumns } from "./gemm.ts";
import { expOfNegative, log } from "./vector-math.ts";

/** Places in a thread's workspace, in f32: fixed ones first, then those that grow with the head's size. */
function places(target: Target) {
  const rows = itemRows(target);
  const scores = 0;
  const maximum = scores + target.gemm.rows * keyBlock(target);
  const sum = maximum + rows;
  const visible = sum + rows;
  const added = visible + rows;
  const factor = added + rows;
  const addresses = factor + rows;
  return { scores, maximum, sum, visible, added, factor, addresses, end: addresses + addressFloats(target) };
}

/** Vectors of a head's size in a thread's workspace: packed rows, outputs, packed keys, and keys out of their blocks. */
const vectorsOf = (target: Target, blocks: boolean): number =>
  2 * itemRows(target) + (blocks ? 2 : 1) * keyBlock(target);

/** Bytes of one thread's workspace for heads of `size` elements. */
export function attentionWorkspaceBytes(target: Target, size: number, blocks = false): number {
  return 4 * (places(target).end + target.lanes + vectorsOf(target, blocks) * size);
}

const attentionArgs = {
  ...QKV,
  out: "f32*",
  outRow: "index",
  outHead: "index",
  lse: "f32*",
  ...COMMON,
  ...KEY_BIAS,
  /** The row of each key, where items count their keys in it. */
  keyRows: "i32*",
} as const;

function attentionKernel(layout: KeyLayout) {
  const { paged, blocks } = layout;
  return defineKernel(`attention${layoutName(layout)}`, attentionArgs, (k, args) => {
    const { rows, vectors } = k.target.gemm;
    const columns = panelColumns(k.target);
    const blockKeys = keyBlock(k.target);
    const place = places(k.target);
    const { slot, release } = claimWorkspace(k, args.slots);
    const workspaceFloats = args.size.mul(vectorsOf(k.target, blocks)).add(place.end + k.lanes);
    const workspace = args.workspace.at(slot.mul(workspaceFloats)).fixed();
    const packed = workspace.at(place.end);
    const outputs = packed.at(packedFloats(k, args.size)).fixed();
    const keys = outputs.at(args.size.mul(itemRows(k.target))).fixed();
    const unpacked = keys.at(args.size.mul(blockKeys));

    k.loop({ from: k.begin, to: k.end }, (item) => {
      const words = args.items.at(item.mul(ITEM_WORDS)).fixed();
      const word = (name: keyof typeof ITEM) => words.at(ITEM[name]).loadIndex();
      const firstHead = word("kvHead").mul(args.group);
      const q = args.q.at(word("query").mul(args.qRow).add(firstHead.mul(args.qHead))).fixed();
      const head = (tensor: Pointer, row: Index, stride: Index) => {
        const place = (from: Pointer, offset: Index) => (blocks ? from.atByte(offset) : from.at(offset)).fixed();
        const first = place(tensor, word("kvHead").mul(stride));
        return paged ? first : place(first, word("key").mul(row));
      };
      const numbers = paged ? args.keyRows.at(word("key")).fixed() : undefined;
      const keyHead = head(args.k, args.kRow, args.kHead);
      const valueHead = head(args.v, args.vRow, args.vHead);

      eachRow(k, word("queries"), args.group, (query, head, row) => {
        const from = q.at(query.mul(args.qRow).add(head.mul(args.qHead)));
        workspace.at(place.addresses).as("i64").at(row).store(from.value());
        workspace
          .as("i32")
          .at(place.visible)
          .at(row)
          .store(query.add(word("keys")));
        workspace.at(place.maximum).at(row).store(k.float(Number.NEGATIVE_INFINITY));
        workspace.at(place.sum).at(row).store(k.float(0));
      });
      const rowCount = word("queries").mul(args.group);
      packRows(k, workspace.at(place.addresses), rowCount, args.size, packed, args.scale);
      k.loop({ to: args.size.mul(itemRows(k.target)), step: k.lanes }, (i) => outputs.at(i).store(k.zero()));

      const seen = word("keys").add(word("queries")).sub(1);
      k.loop({ to: seen, step: blockKeys }, (block) => {
        const end = block.add(blockKeys).min(seen);
        if (blocks) {
          const count = end.sub(block);
          unpackKeys(k, keyHead, args.kRow, args.size, block, count, unpacked, numbers, {
            at: args.bias.at(word("kvHead").mul(args.biasHead)).fixed(),
            rotations: args.rotations.at(block.mul(args.rotationsRow)).fixed(),
            row: args.rotationsRow,
          });
          packKeys(k, unpacked, args.size, args.size, k.index(0), count, keys);
          unpackKeys(k, valueHead, args.vRow, args.size, block, count, unpacked, numbers);
        } else {
          packKeys(k, keyHead, args.kRow, args.size, block, end, keys, numbers);
        }
        const tile = k.variable(packed);
        const output = k.variable(outputs);
        k.loop({ to: rowCount, step: rows }, (row) => {
          const last = row.add(rows).min(rowCount).sub(1);
          const visible = workspace.as("i32").at(place.visible).at(last).loadIndex();
          const count = visible.sub(block).min(blockKeys);
          k.if(count.gt(0), () => {
            scoreTile(k, tile, keys, args.size, count, workspace.at(place.scores));
            k.loop({ to: rows }, (i) => softmaxRow(k, workspace, i, row.add(i), block));
            takeFactors(k, workspace, row);
            k.loop({ to: args.size, step: columns }, (j) => {
              const before = k.variable(output.at(j));
              const factor = workspace.at(place.factor).at(row).fixed();
              const sums = Array.from({ length: rows }, (_, r) => {
                const scale = factor.at(r).broadcast();
                const line = Array.from({ length: vectors }, (_, v) =>
                  k.variable(
                    before
                      .at(v * k.lanes)
                      .load()
                      .mul(scale),
                  ),
                );
                before.advance(args.size);
                return line;
              });
              const weights = { at: workspace.at(place.scores), row: blockKeys, step: 1 };
              if (blocks) {
                addProducts(k, sums, count, weights, { at: unpacked.at(j), step: args.size });
              } else {
                const values = numbers ? valueHead.at(j) : valueHead.at(block.mul(args.vRow)).fixed().at(j);
                addProducts(k, sums, count, weights, { at: values, step: args.vRow, numbers: numbers?.at(block) });
              }
              storeTile(k, sums, output.at(j), args.size);
            });
          });
          tile.advance(args.size.mul(rows));
          output.advance(args.size.mul(rows));
        });
      });

      const out = args.out.at(word("query").mul(args.outRow).add(firstHead.mul(args.outHead))).fixed();
      const output = k.variable(outputs);
      eachRow(k, word("queries"), args.group, (query, head, row) => {
        const sum = workspace.at(place.sum).at(row).loadF32();
        const inverse = k.float(1).div(sum).splat();
        const to = out.at(query.mul(args.outRow).add(head.mul(args.outHead))).fixed();
        k.loop({ to: args.size, step: k.lanes }, (i) => to.at(i).store(output.at(i).load().mul(inverse)));
        output.advance(args.size);
        k.if(args.lse.value().ne(0), () => {
          const at = head.add(firstHead).mul(args.headStride).add(query).add(word("query"));
          const total = log(k, sum.splat()).first().add(workspace.at(place.maximum).at(row).loadF32());
          args.lse.at(at).store(total);
        });
      });
    });
    release();
  });
}

/**
 * out = softmax(scale·q·kᵀ)·v; an item's `keys` counts what its first query sees. `lse`, unless 0, receives the
 * log-sum-exp of the scaled scores, [heads, queries]. By how keys and values lie: `attentionKernels[paged][blocks]`.
 */
export const attentionKernels = byLayout(attentionKernel);
/** That for f32 keys one after another. */
export const attention = attentionKernels[0][0];

/**
 * Takes a block's scores of row `i` of a tile, `row` of the item, into the row's running maximum and sum, turns them into
 * weights relative to the new maximum, and leaves their sum and how far the maximum moved.
 */
function softmaxRow(k: Builder, workspace: Pointer, i: Index, row: Index, block: Index): void {
  const place = places(k.target);
  const blockKeys = keyBlock(k.target);
  const scores = workspace.at(place.scores).at(i.mul(blockKeys)).fixed();
  const visible = workspace.as("i32").at(place.visible).at(row).loadIndex().sub(block).splat();
  const before = workspace.at(place.maximum).at(row).loadF32();
  const greatest = k.variable(before.splat());
  const hidden = k.vector(Number.NEGATIVE_INFINITY);
  const parts = Array.from({ length: blockKeys / k.lanes }, (_, c) => c * k.lanes);
  for (const c of parts) {
    const score = visible.compare("gt", k.laneNumbers(c)).select(scores.at(c).load(), hidden);
    scores.at(c).store(score);
    greatest.set(greatest.max(score));
  }
  const maximum = greatest.maximum();
  workspace.at(place.maximum).at(row).store(maximum);
  const shift = maximum.splat();
  const sum = k.variable(k.zero());
  for (const c of parts) {
    const weight = expOfNegative(k, scores.at(c).load().sub(shift));
    scores.at(c).store(weight);
    sum.set(sum.add(weight));
  }
  workspace.at(place.factor).at(row).store(before.sub(maximum));
  workspace.at(place.added).at(row).store(sum.sum());
}

/** The factors of a tile's rows from `row` on, and their sums, all at once. */
function takeFactors(k: Builder, workspace: Pointer, row: Index): void {
  const place = places(k.target);
  for (let first = 0; first < k.target.gemm.rows; first += k.lanes) {
    const left = k.target.gemm.rows - first;
    const count = left < k.lanes ? k.index(left) : undefined;
    const at = (list: number) => workspace.at(list + first).at(row);
    const factor = expOfNegative(k, at(place.factor).load(count));
    at(place.factor).store(factor, count);
    at(place.sum).store(at(place.sum).load(count).mul(factor).add(at(place.added).load(count)), count);
  }
}
