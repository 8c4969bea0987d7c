/** Matrix tiles (AMX): 16 rows of 64 bytes, eight of them, which a kernel numbers itself. */

import type { Builder } from "./builder.ts";
import type { Op } from "./ir.ts";
import type { Index, Pointer } from "./values.ts";

function emit(k: Builder, op: Op, imm = 0): void {
  k.emit({ kind: "op", op, args: [], imm });
}

/** Makes the tiles ready at the beginning of a kernel; `endTiles` gives them back at its end. */
export const beginTiles = (k: Builder): void => emit(k, "tileBegin");
export const endTiles = (k: Builder): void => emit(k, "tileEnd");
export const zeroTile = (k: Builder, tile: number): void => emit(k, "tileZero", tile);

/** Rows lie `stride` bytes apart. */
export function loadTile(k: Builder, tile: number, from: Pointer, stride: Index): void {
  k.emit({ kind: "op", op: "tileLoad", args: [], imm: tile, address: from.atStride(stride, 1).address });
}

/** The same for what has no use soon again: the first-level cache is left to the rest. */
export function streamTile(k: Builder, tile: number, from: Pointer, stride: Index): void {
  k.emit({ kind: "op", op: "tileStream", args: [], imm: tile, address: from.atStride(stride, 1).address });
}

export function storeTile(k: Builder, tile: number, to: Pointer, stride: Index): void {
  k.emit({ kind: "op", op: "tileStore", args: [], imm: tile, address: to.atStride(stride, 1).address });
}

/** sum += a·b, a of 16 rows of 32 bf16, b of 16 pairs of rows of 16 bf16: `[row / 2][column][row % 2]`. */
export function multiplyTiles(k: Builder, sum: number, a: number, b: number): void {
  emit(k, "tileMultiply", sum | (a << 3) | (b << 6));
}
