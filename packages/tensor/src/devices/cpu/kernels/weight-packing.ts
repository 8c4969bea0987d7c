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
    this.rows = k.variable(k.index(SIDE));
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

/** Pairs of rows of W that are packed with each step. */
const PACKED_PAIRS = 2;
/** Pairs that are asked for ahead. */
const AHEAD_PAIRS = 16;

/** Pairs of rows of W into `[step][tile][pair][column][2]`. */
export class PairsPacking implements Packing {
  private readonly k: Builder;
  private readonly stride: Index;
  private readonly row: Pointer;
  private readonly place: Pointer;
  /** Pairs that are left, and those of this step. */
  private readonly left: Index;

  constructor(k: Builder, from: Pointer, stride: Index, length: Index, to: Pointer) {
    this.k = k;
    this.stride = stride;
    this.row = k.variable(from);
    this.place = k.variable(to);
    this.left = k.variable(length.sar(1));
  }

  private pairs(): void {
    const { k, row, place, stride } = this;
    const tilePairs = STEP / 2;
    for (let pair = 0; pair < PACKED_PAIRS; pair++) {
      const second = row.atStride(stride, 1);
      for (let tile = 0; tile < 2; tile++) {
        const low = row.at(tile * ROWS).loadInt();
        place
          .atByte(tile * TILE_BYTES + pair * 64)
          .as("i32")
          .store(
            low.or(
              second
                .at(tile * ROWS)
                .loadInt()
                .shl(16),
            ),
          );
      }
      const ahead = k.variable(row.atByte(stride.mul(2 * AHEAD_PAIRS)));
      ahead.prefetch();
      ahead.atStride(stride, 1).prefetch();
      row.advanceBytes(stride.mul(2));
    }
    place.advanceBytes(PACKED_PAIRS * 64);
    this.left.decrease(PACKED_PAIRS);
    // After the pairs of a tile comes the tile beside it.
    k.if(this.left.and(tilePairs - 1).eq(0), () => place.advanceBytes(TILE_BYTES));
  }

  step(): void {
    this.k.if(this.left.gt(0), () => this.pairs());
  }

  finish(): void {
    repeat(this.k, this.left, () => this.pairs(), false);
  }
}
