/** Panels of bf16 weights for matrix tiles, packed while a product runs: a piece with each of its steps. */

import type { Builder } from "../lang/builder.ts";
import type { Index, Pointer } from "../lang/values.ts";
import { PAIR_BYTES, ROWS, SIDE, STEP, TILE_BYTES } from "./tile-packing.ts";

/** `k.repeat` of a long body with a variable count: what is on the stack hides behind the tile unit. */
export function repeat(k: Builder, left: Index, body: () => void, count = true): void {
  k.if(left.gt(0), () =>
    k.doWhile(() => {
      body();
      if (count) left.decrease(1);
      return left.gt(0);
    }, true),
  );
}

/** Packs a panel of W little by little: a `step` with each step of a product, and what is left at the end. */
export interface Packing {
  step(): void;
  finish(): void;
}

/** Steps of a row of W that are copied at a time; the inner elements of `nt` are a multiple of theirs. */
export const COPIED_STEPS = 4;

/**
 * Rows of W as they lie into `[step][row][32]`, in the order of memory: so the processor sees what comes next and fetches it
 * by itself. Asking for lines ahead would take the places in which tiles' lines arrive (measured).
 */
export class RowsPacking implements Packing {
  private readonly k: Builder;
  private readonly line: Pointer;
  private readonly place: Pointer;
  /** Pieces that a row has, and that are left of it. */
  private readonly pieces: Index;
  private readonly left: Index;
  private readonly rows: Index;
  /** From the end of a row to the next one. */
  private readonly gap: Index;

  constructor(k: Builder, from: Pointer, stride: Index, steps: Index, to: Pointer) {
    this.k = k;
    this.line = k.variable(from);
    this.place = k.variable(to);
    this.pieces = steps.sar(Math.log2(COPIED_STEPS));
    this.left = k.variable(this.pieces);
    this.rows = k.variable(steps.min(1).mul(SIDE));
    this.gap = stride.sub(steps.mul(STEP * 2));
  }

  private piece(): void {
    const { k, line, place, left } = this;
    for (let i = 0; i < COPIED_STEPS; i++) {
      const values = line
        .as("f32")
        .at(i * k.lanes)
        .load();
      place
        .as("f32")
        .atByte(i * PAIR_BYTES)
        .store(values);
    }
    line.advanceBytes(COPIED_STEPS * STEP * 2);
    place.advanceBytes(COPIED_STEPS * PAIR_BYTES);
    left.decrease(1);
    k.if(left.eq(0), () => {
      left.set(this.pieces);
      line.advanceBytes(this.gap);
      place.advanceBytes(k.index(STEP * 2).sub(this.pieces.mul(COPIED_STEPS * PAIR_BYTES)));
      this.rows.decrease(1);
    });
  }

  step(): void {
    this.k.if(this.rows.gt(0), () => this.piece());
  }

  finish(): void {
    repeat(this.k, this.rows, () => this.piece(), false);
  }
}

/** Pairs that are asked for ahead: the next row lies on another page, where the processor does not look by itself. */
const AHEAD_PAIRS = 8;

/** Blocks of 32 columns of pairs of rows of W into `[block][step][tile][pair][column][2]`. */
export class PairsPacking implements Packing {
  private readonly k: Builder;
  private readonly stride: Index;
  private readonly row: Pointer;
  private readonly place: Pointer;
  private readonly blocks: Index;
  private readonly blockBytes: Index;
  private readonly ahead: Index;
  /** Pairs that are left. */
  private readonly left: Index;

  /** @param length rows, a multiple of a step's; 0: nothing */
  constructor(k: Builder, from: Pointer, stride: Index, length: Index, blocks: Index, to: Pointer) {
    this.k = k;
    this.stride = stride;
    this.row = k.variable(from);
    this.place = k.variable(to);
    this.left = k.variable(length.sar(1));
    this.blocks = blocks;
    this.blockBytes = length.mul(PAIR_BYTES / STEP);
    this.ahead = stride.mul(2 * AHEAD_PAIRS);
  }

  private pair(): void {
    const { k, row, place, left, stride, blockBytes } = this;
    const from = k.variable(row);
    const to = k.variable(place);
    repeat(k, k.variable(this.blocks), () => {
      const second = from.atStride(stride, 1);
      for (let tile = 0; tile < 2; tile++) {
        const high = second.at(tile * ROWS).loadInt();
        const both = from
          .at(tile * ROWS)
          .loadInt()
          .or(high.shl(16));
        to.atByte(tile * TILE_BYTES)
          .as("i32")
          .store(both);
      }
      const ahead = from.atByte(this.ahead).fixed();
      ahead.prefetch(1);
      ahead.atStride(stride, 1).prefetch(1);
      from.advance(SIDE);
      to.advanceBytes(blockBytes);
    });
    row.advanceBytes(stride.mul(2));
    place.advanceBytes(64);
    left.decrease(1);
    // After the pairs of a tile comes the tile beside it.
    k.if(left.and(STEP / 2 - 1).eq(0), () => place.advanceBytes(TILE_BYTES));
  }

  step(): void {
    this.k.if(this.left.gt(0), () => this.pair());
  }

  finish(): void {
    repeat(this.k, this.left, () => this.pair(), false);
  }
}
