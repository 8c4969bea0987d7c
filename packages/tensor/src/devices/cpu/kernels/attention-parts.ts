/** What the attention kernels share: how work is cut into items, rows packed for the register tiles, and their product. */

import { BLOCKS } from "../../../dtype.ts";
import type { Builder } from "../lang/builder.ts";
import type { Target } from "../lang/target.ts";
import type { F32, Index, Pointer, VF } from "../lang/values.ts";
import { packBTransposed, packTile, panelColumns } from "./gemm.ts";

/** Rows (queries times heads of a group) that an item may have; a multiple of every target's tile. */
export const itemRows = ({ gemm }: Target): number => Math.ceil(96 / gemm.rows) * gemm.rows;

/** Keys of a block: whole panels of columns and whole tiles of rows. */
export function keyBlock(target: Target): number {
  let keys = panelColumns(target);
  while (keys < 48 || keys % target.gemm.rows) keys += panelColumns(target);
  return keys;
}

/** Words (i32) of the description of an item. */
export const ITEM = { query: 0, queries: 1, key: 2, keys: 3, kvHead: 4 } as const;
export const ITEM_WORDS = 5;

/** Tensors [row, head, element] and their strides in elements (in bytes where they are blocks), as argument fields. */
export const QKV = {
  q: "f32*",
  qRow: "index",
  qHead: "index",
  k: "f32*",
  kRow: "index",
  kHead: "index",
  v: "f32*",
  vRow: "index",
  vHead: "index",
} as const;

/** What is added to keys in blocks, see `KeyBias`: zeros with strides of 0 where there is none. */
export const KEY_BIAS = {
  bias: "f32*",
  biasHead: "index",
  rotations: "f32*",
  rotationsRow: "index",
} as const;

export const COMMON = {
  /** From head to head of what holds one number for each head and query. */
  headStride: "index",
  /** Query heads that share a key head. */
  group: "index",
  /** Elements of a head: a multiple of the target's panel width. */
  size: "index",
  scale: "f32",
  /** The items' descriptions, {@link ITEM_WORDS} each. */
  items: "i32*",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  workspace: "f32*",
} as const;

/** Runs `body` for each query and, within it, each head of the group; `row` counts them. */
export function eachRow(
  k: Builder,
  queries: Index,
  group: Index,
  body: (query: Index, head: Index, row: Index) => void,
): void {
  const row = k.variable(k.index(0));
  k.loop({ to: queries }, (query) => {
    k.loop({ to: group }, (head) => {
      body(query, head, row);
      row.increase(1);
    });
  });
}

/** f32 places for the addresses of an item's rows. */
export const addressFloats = (target: Target): number => 2 * itemRows(target);

/** f32 places for an item's packed rows of `size` elements: storing whole vectors runs past the last one. */
export const packedFloats = (k: Builder, size: Index): Index => size.mul(itemRows(k.target)).add(k.lanes);

/** Packs rows, times `factor`, into tiles `[element][row of the tile]`; `addresses` (i64) tells where each begins. */
export function packRows(k: Builder, addresses: Pointer, count: Index, size: Index, to: Pointer, factor?: F32): void {
  const { rows } = k.target.gemm;
  const tile = k.variable(to);
  const last = count.sub(1);
  k.loop({ to: count, step: rows }, (row) => {
    // Rows past the end repeat the last one; what they give is not used.
    const from = (i: number) => k.pointer(addresses.as("i64").at(row.add(i).min(last)).loadIndex(), "f32");
    const scale = factor?.splat();
    packTile(k, from, size, tile, (column) => (scale ? column.mul(scale) : column));
    tile.advance(size.mul(rows));
  });
}

export type Sums = readonly (readonly VF[])[];

/** A register tile of variables, as whole as the target's. */
export function tileSums(k: Builder, initial: (row: number, vector: number) => VF): VF[][] {
  const { rows, vectors } = k.target.gemm;
  return Array.from({ length: rows }, (_, r) => Array.from({ length: vectors }, (_, v) => k.variable(initial(r, v))));
}

/**
 * `sums[r] += Σ over count of a[step·aStep + r·aRow] · b[step·bStep …]`. Strides in elements. With `numbers` (i32) step i
 * of b is the one of that number.
 */
export function addProducts(
  k: Builder,
  sums: Sums,
  count: Index,
  left: { at: Pointer; row: number; step: number },
  right: { at: Pointer; step: number | Index; numbers?: Pointer },
): void {
  const a = k.variable(left.at);
  if (right.numbers) {
    const number = k.variable(right.numbers);
    k.repeat(count, () => {
      const b = right.at.at(number.loadIndex().mul(k.index(0).add(right.step))).fixed();
      const values = sums[0].map((_, v) => b.at(v * k.lanes).load());
      sums.forEach((row, r) => {
        const factor = a.at(r * left.row).broadcast();
        row.forEach((sum, v) => {
          sum.addProduct(factor, values[v]);
        });
      });
      a.advance(left.step);
      number.advance(1);
    });
    return;
  }
  const b = k.variable(right.at);
  const bStep = typeof right.step === "number" ? right.step * 4 : right.step.mul(4);
  k.repeat(count, () => {
    const values = sums[0].map((_, v) => b.at(v * k.lanes).load());
    sums.forEach((row, r) => {
      const factor = a.at(r * left.row).broadcast();
      row.forEach((sum, v) => {
        sum.addProduct(factor, values[v]);
      });
    });
    a.advance(left.step);
    b.advanceBytes(bStep);
  });
}

export function storeTile(k: Builder, sums: Sums, to: Pointer, rowStride: number | Index): void {
  const place = k.variable(to);
  for (const row of sums) {
    row.forEach((sum, v) => {
      place.at(v * k.lanes).store(sum);
    });
    place.advance(rowStride);
  }
}

/**
 * Keys (or values) `from … to` of a head into panels `[key panel][element][key]`.
 *
 * @param numbers i32, the row of each key, counted from `head`; that of its number unless given
 */
export function packKeys(
  k: Builder,
  head: Pointer,
  row: Index,
  size: Index,
  from: Index,
  end: Index,
  to: Pointer,
  numbers?: Pointer,
) {
  const rowOf = numbers && ((key: Index) => numbers.at(key).loadIndex());
  packBTransposed(k, { b: head, ldb: row, p: k.index(0), length: size, column: from, columnEnd: end, to, rowOf });
}

/** How keys and values lie: in rows that a table names or one after another, and as `q8_0` blocks or as f32. */
export interface KeyLayout {
  readonly paged: boolean;
  readonly blocks: boolean;
}

/** Makes a kernel for every layout of keys: `[paged][blocks]`, each 0 or 1. */
export function byLayout<K>(make: (layout: KeyLayout) => K) {
  const of = (paged: boolean) => [make({ paged, blocks: false }), make({ paged, blocks: true })] as const;
  return [of(false), of(true)] as const;
}

/** The part of a kernel's name that tells its layout. */
export const layoutName = ({ paged, blocks }: KeyLayout): string => `${paged ? "_paged" : ""}${blocks ? "_q8_0" : ""}`;

/** One row of `q8_0` blocks, `size` elements, as f32. */
export function unpackRow(k: Builder, row: Pointer, size: Index, out: Pointer): void {
  const { elements, bytes } = BLOCKS.q8_0;
  const from = k.variable(row);
  const to = k.variable(out);
  k.repeat(size.sar(Math.log2(elements)), () => {
    const scale = from.as("f16").broadcast();
    for (let i = 0; i < elements; i += k.lanes) {
      const numbers = from
        .atByte(2 + i)
        .as("i8")
        .loadInt();
      to.at(i).store(numbers.toFloat().mul(scale));
    }
    from.advanceBytes(bytes);
    to.advance(elements);
  });
}

/** Adds a head's bias, rotated by a row of cosines and sines, to a key of `size` elements. */
function addRotated(k: Builder, bias: Pointer, rotation: Pointer, size: Index, key: Pointer): void {
  const half = size.sar(1);
  const [cosines, sines] = [rotation, rotation.at(half).fixed()];
  const [low, high] = [bias, bias.at(half).fixed()];
  const upper = key.at(half).fixed();
  k.loop({ to: half, step: k.lanes }, (i) => {
    const [a, b] = [low.at(i).load(), high.at(i).load()];
    const [cos, sin] = [cosines.at(i).load(), sines.at(i).load()];
    key.at(i).store(
      key
        .at(i)
        .load()
        .add(a.mul(cos).sub(b.mul(sin))),
    );
    upper.at(i).store(
      upper
        .at(i)
        .load()
        .add(b.mul(cos).add(a.mul(sin))),
    );
  });
}

/**
 * Keys (or values) `from … from + count` of a head, as f32 one after another.
 *
 * @param row bytes from row to row
 * @param numbers as in {@link packKeys}
 * @param bias of the head, and the rotation of the first key's position
 */
export function unpackKeys(
  k: Builder,
  head: Pointer,
  row: Index,
  size: Index,
  from: Index,
  count: Index,
  to: Pointer,
  numbers?: Pointer,
  bias?: { at: Pointer; rotations: Pointer; row: Index },
): void {
  const rotation = bias && k.variable(bias.rotations);
  const out = k.variable(to);
  k.loop({ to: count }, (i) => {
    const key = from.add(i);
    unpackRow(k, head.atByte((numbers ? numbers.at(key).loadIndex() : key).mul(row)).fixed(), size, out);
    if (bias && rotation) {
      addRotated(k, bias.at, rotation, size, out);
      rotation.advance(bias.row);
    }
    out.advance(size);
  });
}

/** Products of a packed tile of rows with the first `count` packed keys, into `to` [row][key of the block]. */
export function scoreTile(k: Builder, tile: Pointer, keys: Pointer, size: Index, count: Index, to: Pointer): void {
  const columns = panelColumns(k.target);
  const panel = k.variable(keys);
  k.loop({ to: count, step: columns }, (j) => {
    const sums = tileSums(k, () => k.zero());
    addProducts(k, sums, size, { at: tile, row: 1, step: k.target.gemm.rows }, { at: panel, step: columns });
    storeTile(k, sums, to.at(j).fixed(), keyBlock(k.target));
    panel.advance(size.mul(columns));
  });
}
