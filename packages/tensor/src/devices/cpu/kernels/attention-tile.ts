// What attention's forward and backward kernels share: how queries and keys are cut into tiles, packed and multiplied.
import type { Builder } from "../lang/builder.ts";
import { eachColumn } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { Index, Pointer, VF } from "../lang/values.ts";

/** Sizes of one target's tiles. */
export interface AttentionTile {
  /** Rows of the register tile: queries when scores are made. */
  readonly rows: number;
  /** Vectors across the register tile. */
  readonly vectors: number;
  /** f32 across the register tile. */
  readonly width: number;
  /** Keys handled at a time: a multiple of both, so that they can stand on either side of a product. */
  readonly keys: number;
}

export function attentionTile({ gemm, lanes }: Target): AttentionTile {
  const rows = Math.min(6, gemm.rows);
  const width = gemm.vectors * lanes;
  let keys = 48;
  while (keys % rows !== 0 || keys % width !== 0) keys += 16;
  return { rows, vectors: gemm.vectors, width, keys };
}

/** f32 of `size` packed columns of `stride` elements: the last piece that is written may run past the end. */
export function packedFloats(size: number, stride: number, lanes: number): number {
  return (Math.ceil(size / 4) * 4 + 4) * stride + lanes;
}

/** Blocks of a head's elements, as wide as the register tile, and their number. */
export const headBlocks = (size: number, { width }: AttentionTile) => Math.ceil(size / width);

/**
 * Writes rows as columns: element i of row r goes to `to[i · stride + r]`, for as many rows as a vector has lanes.
 * `row(lane)` is where a row begins.
 */
export function packColumns(
  k: Builder,
  row: (lane: number) => Pointer,
  size: Index,
  to: Pointer,
  stride: number,
  scale?: VF,
): void {
  const rows = Array.from({ length: k.lanes }, (_, lane) => row(lane).fixed());
  const place = k.variable(to.fixed());
  eachColumn(k, rows, size, (columns) => {
    for (const [i, column] of columns.entries()) place.at(i * stride).store(scale ? column.mul(scale) : column);
    place.advance(columns.length * stride);
  });
}

/** Packs one row tile of a head: rows first … first + tile.rows, none beyond `last`. */
export function packRowTile(
  k: Builder,
  tile: AttentionTile,
  rows: { first: Pointer; stride: Index; row: Index; last: Index },
  size: Index,
  to: Pointer,
  scale?: VF,
): void {
  const at = (lane: number) => rows.first.at(rows.row.add(lane).min(rows.last).mul(rows.stride));
  packColumns(k, at, size, to, tile.rows, scale);
}

/**
 * Packs `tile.keys` rows as panels of the register tile's width: `[panel][element][row]`, panels `panelFloats` apart.
 * Rows beyond `last` repeat it.
 */
export function packPanels(
  k: Builder,
  tile: AttentionTile,
  rows: { first: Pointer; stride: Index; row: Index; last: Index },
  size: Index,
  to: Pointer,
  panelFloats: Index,
): void {
  const panel = k.variable(to.fixed());
  k.loop({ to: tile.keys, step: tile.width }, (offset) => {
    for (let v = 0; v < tile.vectors; v++) {
      const first = rows.row.add(offset).add(v * k.lanes);
      const at = (lane: number) => rows.first.at(first.add(lane).min(rows.last).mul(rows.stride));
      packColumns(k, at, size, panel.at(v * k.lanes), tile.width);
    }
    panel.advance(panelFloats);
  });
}

const UNROLL = 4;

/** The register tile of `length` products: `left` is `[element][tile.rows]`, `right` is `[element][tile.width]`, both packed. */
export function productTile(k: Builder, tile: AttentionTile, left: Pointer, right: Pointer, length: Index): VF[][] {
  const sums = Array.from({ length: tile.rows }, () =>
    Array.from({ length: tile.vectors }, () => k.variable(k.zero())),
  );
  const a = k.variable(left.fixed());
  const b = k.variable(right.fixed());
  const rounds = (count: Index, steps: number) =>
    k.repeat(count, () => {
      for (let u = 0; u < steps; u++) {
        const vectors = Array.from({ length: tile.vectors }, (_, v) => b.at(u * tile.width + v * k.lanes).load());
        accumulate(sums, vectors, (r) => a.at(u * tile.rows + r).broadcast());
      }
      a.advance(steps * tile.rows);
      b.advance(steps * tile.width);
    });
  rounds(length.sar(Math.log2(UNROLL)), UNROLL);
  rounds(length.and(UNROLL - 1), 1);
  return sums;
}

/** Adds the products of one factor a row with the vectors to the tile's sums. */
export function accumulate(
  sums: readonly (readonly VF[])[],
  vectors: readonly VF[],
  factor: (row: number) => VF,
): void {
  for (const [r, row] of sums.entries()) {
    const left = factor(r);
    for (const [v, sum] of row.entries()) sum.addProduct(left, vectors[v]!);
  }
}

/** The tile's vectors at `place`, with only so many elements as are `left` read; the others are 0. */
export function loadAcross(k: Builder, tile: AttentionTile, place: Pointer, left?: Index): VF[] {
  return Array.from({ length: tile.vectors }, (_, v) => place.at(v * k.lanes).load(left?.sub(v * k.lanes)));
}

/**
 * Calls `body` for each block of a head's elements; it is built for whole blocks, and for one that is cut, whose number
 * of elements it gets.
 */
export function eachHeadBlock(
  k: Builder,
  tile: AttentionTile,
  size: Index,
  body: (element: Index, block: Index, left?: Index) => void,
): void {
  const block = k.variable(k.index(0));
  k.loop({ to: size, step: tile.width }, (element) => {
    const left = size.sub(element);
    k.if(
      left.ge(tile.width),
      () => body(element, block),
      () => body(element, block, left),
    );
    block.increase(1);
  });
}
