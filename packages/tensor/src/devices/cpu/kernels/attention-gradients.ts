/**
 * Gradients of `attention.ts`, scores recomputed from the log-sum-exp (FlashAttention-2, Dao 2023):
 * P = exp(scale·q·kᵀ − lse), dS = scale·P·(grad·vᵀ − δ) with δ = Σ grad·out; dq = dS·k, dk = dSᵀ·q, dv = Pᵀ·grad.
 *
 * Two kernels, so that no two threads add to the same place: one over queries gives dq and δ, then one over keys gives dk
 * and dv.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { F32, Index, Pointer } from "../lang/values.ts";
import {
  addProducts,
  addressFloats,
  COMMON,
  eachRow,
  ITEM,
  ITEM_WORDS,
  itemRows,
  keyBlock,
  packedFloats,
  packKeys,
  packRows,
  QKV,
  scoreTile,
  storeTile,
  tileSums,
} from "./attention-parts.ts";
import { panelColumns } from "./gemm.ts";
import { expOfNegative } from "./vector-math.ts";

const GRADIENT = {
  grad: "f32*",
  gradRow: "index",
  gradHead: "index",
  /** [heads, queries], from the forward kernel. */
  lse: "f32*",
  /** [heads, queries]: written by the kernel over queries, read by the one over keys. */
  delta: "f32*",
} as const;

/** Words (i32) of an item of the kernel over keys: {@link ITEM} for all queries of a sequence, then its block of keys. */
export const KEY_ITEM = { ...ITEM, block: 5, end: 6 } as const;
export const KEY_ITEM_WORDS = 7;

/** What is known of the rows of an item: the places of its lists in the workspace. */
interface RowFacts {
  readonly lse: number;
  readonly delta: number;
  readonly visible: number;
  /** Where the row begins in q and in grad, 64 bits each. */
  readonly q: number;
  readonly grad: number;
}

/** Places in a thread's workspace, in f32; `scoreRows` rows of scores come first. */
function places(target: Target, scoreRows: number): RowFacts & { scores: number; products: number; end: number } {
  const rows = itemRows(target);
  const products = scoreRows * keyBlock(target);
  const lse = 2 * products;
  const q = lse + 3 * rows;
  const grad = q + addressFloats(target);
  return {
    scores: 0,
    products,
    lse,
    delta: lse + rows,
    visible: lse + 2 * rows,
    q,
    grad,
    end: grad + addressFloats(target),
  };
}

/** Bytes of one thread's workspace, enough for both kernels, for heads of `size` elements. */
export function attentionBackwardWorkspaceBytes(target: Target, size: number): number {
  return (
    4 * (places(target, itemRows(target)).end + 2 * target.lanes + (4 * itemRows(target) + 4 * keyBlock(target)) * size)
  );
}

/** The same in kernel code, in f32. */
const workspaceFloats = (k: Builder, size: Index): Index =>
  size.mul(4 * itemRows(k.target) + 4 * keyBlock(k.target)).add(places(k.target, itemRows(k.target)).end + 2 * k.lanes);

/**
 * Turns a row of scores into P and the row of products grad·v into dS. `visible` counts keys from the block's first on;
 * what lies behind becomes 0.
 */
function gradientRow(
  k: Builder,
  scores: Pointer,
  products: Pointer,
  row: { lse: F32; delta: F32; visible: Index; scale: F32 },
): void {
  const visible = row.visible.splat();
  const [lse, delta, scale] = [row.lse.splat(), row.delta.splat(), row.scale.splat()];
  for (let c = 0; c < keyBlock(k.target); c += k.lanes) {
    const seen = visible.compare("gt", k.laneNumbers(c));
    const p = expOfNegative(k, scores.at(c).load().sub(lse));
    const ds = p.mul(products.at(c).load().sub(delta)).mul(scale);
    scores.at(c).store(seen.select(p, k.zero()));
    products.at(c).store(seen.select(ds, k.zero()));
  }
}

/** dq [queries, heads, size] and δ. Items as in `attention`. */
export const attentionBackwardQueries = defineKernel(
  "attention_backward_queries",
  {
    ...{ ...QKV, ...GRADIENT, out: "f32*", outRow: "index", outHead: "index" },
    ...{ gradQ: "f32*", gradQRow: "index", gradQHead: "index", ...COMMON },
  },
  (k, args) => {
    const { rows } = k.target.gemm;
    const blockKeys = keyBlock(k.target);
    const place = places(k.target, rows);
    const { slot, release } = claimWorkspace(k, args.slots);
    const workspace = args.workspace.at(slot.mul(workspaceFloats(k, args.size))).fixed();
    const itemFloats = args.size.mul(itemRows(k.target));
    const packedQ = workspace.at(place.end).fixed();
    const packedGrad = packedQ.at(packedFloats(k, args.size)).fixed();
    const gradients = packedGrad.at(packedFloats(k, args.size)).fixed();
    const keys = gradients.at(itemFloats).fixed();
    const values = keys.at(args.size.mul(blockKeys)).fixed();

    k.loop({ from: k.begin, to: k.end }, (item) => {
      const words = args.items.at(item.mul(ITEM_WORDS)).fixed();
      const word = (name: keyof typeof ITEM) => words.at(ITEM[name]).loadIndex();
      const firstHead = word("kvHead").mul(args.group);
      const rowsOf = (tensor: Pointer, row: Index, stride: Index) => {
        const first = tensor.at(word("query").mul(row).add(firstHead.mul(stride))).fixed();
        return (query: Index, head: Index) => first.at(query.mul(row).add(head.mul(stride))).fixed();
      };
      const head = (tensor: Pointer, row: Index, stride: Index) =>
        tensor.at(word("key").mul(row).add(word("kvHead").mul(stride))).fixed();
      const keyHead = head(args.k, args.kRow, args.kHead);
      const valueHead = head(args.v, args.vRow, args.vHead);

      const q = rowsOf(args.q, args.qRow, args.qHead);
      const grad = rowsOf(args.grad, args.gradRow, args.gradHead);
      const out = rowsOf(args.out, args.outRow, args.outHead);
      eachRow(k, word("queries"), args.group, (query, headOfGroup, row) => {
        const g = grad(query, headOfGroup);
        const o = out(query, headOfGroup);
        workspace.at(place.q).as("i64").at(row).store(q(query, headOfGroup).value());
        workspace.at(place.grad).as("i64").at(row).store(g.value());
        const sum = k.variable(k.zero());
        k.loop({ to: args.size, step: k.lanes }, (i) => sum.set(g.at(i).load().fma(o.at(i).load(), sum)));
        const delta = sum.sum();
        const at = headOfGroup.add(firstHead).mul(args.headStride).add(query).add(word("query"));
        args.delta.at(at).store(delta);
        workspace.at(place.delta).at(row).store(delta);
        workspace.at(place.lse).at(row).store(args.lse.at(at).loadF32());
        workspace
          .as("i32")
          .at(place.visible)
          .at(row)
          .store(query.add(word("keys")));
      });
      const rowCount = word("queries").mul(args.group);
      packRows(k, workspace.at(place.q), rowCount, args.size, packedQ, args.scale);
      packRows(k, workspace.at(place.grad), rowCount, args.size, packedGrad);
      k.loop({ to: itemFloats, step: k.lanes }, (i) => gradients.at(i).store(k.zero()));

      const seen = word("keys").add(word("queries")).sub(1);
      k.loop({ to: seen, step: blockKeys }, (block) => {
        const end = block.add(blockKeys).min(seen);
        packKeys(k, keyHead, args.kRow, args.size, block, end, keys);
        packKeys(k, valueHead, args.vRow, args.size, block, end, values);
        const offset = k.variable(k.index(0));
        k.loop({ to: rowCount, step: rows }, (row) => {
          const last = row.add(rows).min(rowCount).sub(1);
          const count = workspace.as("i32").at(place.visible).at(last).loadIndex().sub(block).min(blockKeys);
          k.if(count.gt(0), () => {
            scoreTile(k, packedQ.at(offset).fixed(), keys, args.size, count, workspace.at(place.scores));
            scoreTile(k, packedGrad.at(offset).fixed(), values, args.size, count, workspace.at(place.products));
            k.loop({ to: rows }, (i) => {
              const fact = (at: number) => workspace.at(at).at(row.add(i)).loadF32();
              const line = (at: number) => workspace.at(at).at(i.mul(blockKeys)).fixed();
              gradientRow(k, line(place.scores), line(place.products), {
                ...{ lse: fact(place.lse), delta: fact(place.delta), scale: args.scale },
                visible: workspace.as("i32").at(place.visible).at(row.add(i)).loadIndex().sub(block),
              });
            });
            const weights = { at: workspace.at(place.products), row: blockKeys, step: 1 };
            const right = keyHead.at(block.mul(args.kRow)).fixed();
            addToRows(k, gradients.at(offset).fixed(), args.size, count, weights, right, args.kRow);
          });
          offset.increase(args.size.mul(rows));
        });
      });

      const gradQ = rowsOf(args.gradQ, args.gradQRow, args.gradQHead);
      const from = k.variable(gradients);
      eachRow(k, word("queries"), args.group, (query, headOfGroup) => {
        const to = gradQ(query, headOfGroup);
        k.loop({ to: args.size, step: k.lanes }, (i) => to.at(i).store(from.at(i).load()));
        from.advance(args.size);
      });
    });
    release();
  },
);

/** Adds products to a tile of rows of `size` elements each: `to += left·right`. */
function addToRows(
  k: Builder,
  to: Pointer,
  size: Index,
  count: Index,
  left: { at: Pointer; row: number; step: number },
  right: Pointer,
  rightRow: Index,
): void {
  k.loop({ to: size, step: panelColumns(k.target) }, (j) => {
    const before = k.variable(to.at(j));
    const sums = tileSums(k, (_, v) => {
      const value = before.at(v * k.lanes).load();
      if (v === k.target.gemm.vectors - 1) before.advance(size);
      return value;
    });
    addProducts(k, sums, count, left, { at: right.at(j), step: rightRow });
    storeTile(k, sums, to.at(j), size);
  });
}

/**
 * dk and dv [keys, kvHeads, size], for the keys of each item: {@link KEY_ITEM}. `chunkQueries` queries are taken at a
 * time: with their heads at most `itemRows`.
 */
export const attentionBackwardKeys = defineKernel(
  "attention_backward_keys",
  {
    ...{ ...QKV, ...GRADIENT, chunkQueries: "index" },
    ...{ gradK: "f32*", gradKRow: "index", gradKHead: "index" },
    ...{ gradV: "f32*", gradVRow: "index", gradVHead: "index", ...COMMON },
  },
  (k, args) => {
    const { rows } = k.target.gemm;
    const blockKeys = keyBlock(k.target);
    const place = places(k.target, itemRows(k.target));
    const { slot, release } = claimWorkspace(k, args.slots);
    const workspace = args.workspace.at(slot.mul(workspaceFloats(k, args.size))).fixed();
    const itemFloats = args.size.mul(itemRows(k.target));
    const blockFloats = args.size.mul(blockKeys);
    const packedQ = workspace.at(place.end).fixed();
    const packedGrad = packedQ.at(packedFloats(k, args.size)).fixed();
    const plainQ = packedGrad.at(packedFloats(k, args.size)).fixed();
    const plainGrad = plainQ.at(itemFloats).fixed();
    const keys = plainGrad.at(itemFloats).fixed();
    const values = keys.at(blockFloats).fixed();
    const gradKeys = values.at(blockFloats).fixed();
    const gradValues = gradKeys.at(blockFloats).fixed();

    k.loop({ from: k.begin, to: k.end }, (item) => {
      const words = args.items.at(item.mul(KEY_ITEM_WORDS)).fixed();
      const word = (name: keyof typeof KEY_ITEM) => words.at(KEY_ITEM[name]).loadIndex();
      const firstHead = word("kvHead").mul(args.group);
      const head = (tensor: Pointer, row: Index, stride: Index) =>
        tensor.at(word("key").mul(row).add(word("kvHead").mul(stride))).fixed();
      const pack = (tensor: Pointer, row: Index, stride: Index, to: Pointer) =>
        packKeys(k, head(tensor, row, stride), row, args.size, word("block"), word("end"), to);
      pack(args.k, args.kRow, args.kHead, keys);
      pack(args.v, args.vRow, args.vHead, values);
      k.loop({ to: blockFloats, step: k.lanes }, (i) => {
        gradKeys.at(i).store(k.zero());
        gradValues.at(i).store(k.zero());
      });

      const firstQuery = word("block").sub(word("keys")).add(1).max(0);
      k.loop({ from: firstQuery, to: word("queries"), step: args.chunkQueries }, (chunk) => {
        const queries = word("queries").sub(chunk).min(args.chunkQueries);
        const rowsOf = (tensor: Pointer, row: Index, stride: Index) => {
          const first = tensor.at(word("query").add(chunk).mul(row).add(firstHead.mul(stride))).fixed();
          return (query: Index, headOfGroup: Index) => first.at(query.mul(row).add(headOfGroup.mul(stride))).fixed();
        };
        const q = rowsOf(args.q, args.qRow, args.qHead);
        const grad = rowsOf(args.grad, args.gradRow, args.gradHead);
        const offset = k.variable(k.index(0));
        eachRow(k, queries, args.group, (query, headOfGroup, row) => {
          for (const [list, from, to] of [
            [place.q, q(query, headOfGroup), plainQ.at(offset).fixed()],
            [place.grad, grad(query, headOfGroup), plainGrad.at(offset).fixed()],
          ] as const) {
            workspace.at(list).as("i64").at(row).store(from.value());
            k.loop({ to: args.size, step: k.lanes }, (i) => to.at(i).store(from.at(i).load()));
          }
          offset.increase(args.size);
          const at = headOfGroup.add(firstHead).mul(args.headStride).add(query).add(word("query")).add(chunk);
          workspace.at(place.lse).at(row).store(args.lse.at(at).loadF32());
          workspace.at(place.delta).at(row).store(args.delta.at(at).loadF32());
          workspace
            .as("i32")
            .at(place.visible)
            .at(row)
            .store(query.add(chunk).add(word("keys")));
        });
        const rowCount = queries.mul(args.group);
        packRows(k, workspace.at(place.q), rowCount, args.size, packedQ, args.scale);
        packRows(k, workspace.at(place.grad), rowCount, args.size, packedGrad);
        const count = word("end").sub(word("block"));
        const tileOffset = k.variable(k.index(0));
        k.loop({ to: rowCount, step: rows }, (row) => {
          const lines = (at: number) => workspace.at(at).at(row.mul(blockKeys)).fixed();
          scoreTile(k, packedQ.at(tileOffset).fixed(), keys, args.size, count, lines(place.scores));
          scoreTile(k, packedGrad.at(tileOffset).fixed(), values, args.size, count, lines(place.products));
          tileOffset.increase(args.size.mul(rows));
        });
        k.loop({ to: rowCount }, (row) => {
          const fact = (at: number) => workspace.at(at).at(row).loadF32();
          const line = (at: number) => workspace.at(at).at(row.mul(blockKeys)).fixed();
          gradientRow(k, line(place.scores), line(place.products), {
            ...{ lse: fact(place.lse), delta: fact(place.delta), scale: args.scale },
            visible: workspace.as("i32").at(place.visible).at(row).loadIndex().sub(word("block")),
          });
        });
        const keyOffset = k.variable(k.index(0));
        k.loop({ to: count, step: rows }, (key) => {
          const weights = (at: number) => ({ at: workspace.at(at).at(key).fixed(), row: 1, step: blockKeys });
          const to = (all: Pointer) => all.at(keyOffset).fixed();
          addToRows(k, to(gradKeys), args.size, rowCount, weights(place.products), plainQ, args.size);
          addToRows(k, to(gradValues), args.size, rowCount, weights(place.scores), plainGrad, args.size);
          keyOffset.increase(args.size.mul(rows));
        });
      });

      const offset = k.variable(k.index(0));
      const gradK = head(args.gradK, args.gradKRow, args.gradKHead);
      const gradV = head(args.gradV, args.gradVRow, args.gradVHead);
      k.loop({ from: word("block"), to: word("end") }, (key) => {
        for (const [all, to] of [
          [gradKeys, gradK.at(key.mul(args.gradKRow)).fixed()],
          [gradValues, gradV.at(key.mul(args.gradVRow)).fixed()],
        ]) {
          const from = all.at(offset).fixed();
          k.loop({ to: args.size, step: k.lanes }, (i) => to.at(i).store(from.at(i).load()));
        }
        offset.increase(args.size);
      });
    });
    release();
  },
);
