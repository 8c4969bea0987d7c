/**
 * What attention on matrix tiles shares. Scores lie transposed, [key][column]: a column is a query with one of the heads that
 * share a key head, so that maxima and sums run down vectors and no lanes need be moved. Columns come in groups of 32
 * counted from a sequence's first query (its heads one after another), keys in groups of 32 counted from its first key.
 *
 * Tiles multiply bf16, so an f32 number is taken as one or two bf16 numbers, its parts, as in `gemm-tiles.ts`. A tile's inner
 * elements are pairs in words of 32 bits; which ones meet in a word is free as long as both sides agree: i and 16 + i here,
 * which two whole vectors make without moving lanes.
 */

import type { Builder } from "../lang/builder.ts";
import { loadRows, transposeBlocks } from "../lang/math.ts";
import { loadTile, multiplyTiles, storeTile, zeroTile } from "../lang/tiles.ts";
import type { F32, Index, Pointer, VF, VI } from "../lang/values.ts";
import { PAIR_BYTES, ROWS, SIDE, TILE_BYTES } from "./tile-packing.ts";

export { PAIR_BYTES, ROWS, SIDE, TILE_BYTES };

/** Bytes of a row of scores, and of whatever else has a number for each of 32 columns. */
export const LINE = 4 * SIDE;
/** Scores of a group of keys. */
export const SCORE_BYTES = SIDE * LINE;
/** Bytes of a row of a tile. */
export const TILE_ROW = TILE_BYTES / ROWS;

/** Parts that f32 numbers are taken as. */
export type Parts = 1 | 2;

/** Bytes of 32 packed rows of `size` elements. */
export const groupBytes = (size: number, parts: Parts): number => (size / SIDE) * parts * PAIR_BYTES;
export const groupBytesOf = (size: Index, parts: Parts): Index => size.mul((parts * PAIR_BYTES) / SIDE);

/** The nearest bf16 number, as f32 (halves away from 0). */
const upper = (x: VF): VF => x.bits().add(0x8000).and(-0x10000).float();

/** A number's parts, each in the upper half of its word. */
export function splitParts(x: VF, parts: Parts): VI[] {
  const high = upper(x);
  return parts === 1 ? [high.bits()] : [high.bits(), upper(x.sub(high)).bits()];
}

/** Words of two numbers in upper halves, the first to be the lower half. */
export const joinHalves = (a: VI, b: VI): VI => a.shr(16).or(b);

/** Two vectors as words that hold a number of each, the first in the lower half: part by part. */
export function pairWords(a: VF, b: VF, parts: Parts, seeRest?: (rest: VF) => void): VI[] {
  const [highA, highB] = [upper(a), upper(b)];
  const words = [joinHalves(highA.bits(), highB.bits())];
  if (parts === 1 && !seeRest) return words;
  const [restA, restB] = [a.sub(highA), b.sub(highB)];
  seeRest?.(restA);
  seeRest?.(restB);
  if (parts === 2) words.push(restA.bits().add(0x8000).shr(16).or(upper(restB).bits()));
  return words;
}

/**
 * Notices numbers that have no parts: what is not finite, or rounds to infinity. `see` takes what the first part leaves of a
 * number; `report` writes 1 to `flag` (i32) when any was met, and nothing otherwise.
 */
export class FiniteCheck {
  private readonly k: Builder;
  private readonly total: VF;
  constructor(k: Builder) {
    this.k = k;
    this.total = k.variable(k.zero());
  }
  readonly see = (rest: VF): void => this.total.set(rest.fma(0, this.total));
  report(scratch: Pointer, flag: Pointer): void {
    const { k, total } = this;
    scratch.store(total.compare("eq", 0).select(k.zero(), k.vector(1)).maximum());
    k.if(scratch.as("i32").loadIndex().ne(0), () => flag.as("i32").store(k.index(1)));
  }
}

export interface Packing {
  /** Where row `r` of 32 begins. */
  readonly rowAt: (r: Index) => Pointer;
  /** Elements of a row: a multiple of 32. */
  readonly size: Index;
  readonly parts: Parts;
  readonly to: Pointer;
  readonly factor?: F32;
  readonly finite: FiniteCheck;
}

/** 32 rows as left tiles, whose inner elements are the rows' own: `[32 elements][part][tile][row][word]`. */
export function packRows(k: Builder, { rowAt, size, parts, to, factor, finite }: Packing): void {
  k.loop({ to: SIDE }, (r) => {
    const from = k.variable(rowAt(r));
    const place = k.variable(to.atByte(r.mul(TILE_ROW)));
    k.loop({ to: size, step: SIDE }, () => {
      let halves = [from.load(), from.at(ROWS).load()];
      if (factor) halves = halves.map((half) => half.mul(factor.splat()));
      pairWords(halves[0], halves[1], parts, finite.see).forEach((word, part) => {
        place
          .atByte(part * PAIR_BYTES)
          .as("i32")
          .store(word);
      });
      from.advance(SIDE);
      place.advanceBytes(parts * PAIR_BYTES);
    });
  });
}

/** 32 rows as right tiles, whose inner elements run over the rows: `[32 elements][part][tile][pair of rows][element]`. */
export function packPairs(k: Builder, { rowAt, size, parts, to, factor, finite }: Packing): void {
  k.loop({ to: ROWS }, (r) => {
    const [first, second] = [k.variable(rowAt(r)), k.variable(rowAt(r.add(ROWS)))];
    const place = k.variable(to.atByte(r.mul(TILE_ROW)));
    k.loop({ to: size, step: SIDE }, () => {
      for (let tile = 0; tile < 2; tile++) {
        let rows = [first.at(tile * ROWS).load(), second.at(tile * ROWS).load()];
        if (factor) rows = rows.map((row) => row.mul(factor.splat()));
        pairWords(rows[0], rows[1], parts, finite.see).forEach((word, part) => {
          place
            .atByte(part * PAIR_BYTES + tile * TILE_BYTES)
            .as("i32")
            .store(word);
        });
      }
      first.advance(SIDE);
      second.advance(SIDE);
      place.advanceBytes(parts * PAIR_BYTES);
    });
  });
}

/** Transposes the words of 32 packed rows tile by tile: left tiles become right ones of what is transposed, and the other way round. */
export function transposeTiles(k: Builder, from: Pointer, size: Index, parts: Parts, to: Pointer): void {
  const [source, place] = [k.variable(from.as("f32")), k.variable(to.as("f32"))];
  k.repeat(size.mul(parts).sar(Math.log2(ROWS)), () => {
    transposeSquare(
      k,
      (r) => source.atByte(r * TILE_ROW),
      (column) => place.atByte(column * TILE_ROW),
    );
    source.advanceBytes(TILE_BYTES);
    place.advanceBytes(TILE_BYTES);
  });
}

/** 16 rows of 16 numbers become 16 columns; `put` says where each goes. */
export function transposeSquare(k: Builder, rowAt: (r: number) => Pointer, put: (column: number) => Pointer): void {
  for (let first = 0; first < ROWS; first += 4) {
    const rows = Array.from({ length: ROWS }, (_, r) => rowAt(r).at(first));
    transposeBlocks(k, loadRows(k, rows)).forEach((column, i) => {
      put(first + i).store(column);
    });
  }
}

/** The left or right side of a product of 32 by 32 numbers. */
export interface Side {
  readonly at: Pointer;
  /** Bytes from 32 inner elements to the next, from part to part, and from one tile to the other. */
  readonly step: number;
  readonly part: number;
  readonly tile: number;
  /** Bytes between a tile's rows. */
  readonly row: Index;
}

/** Bytes of 32 by 32 packed numbers. */
export const stepBytes = (parts: Parts): number => parts * PAIR_BYTES;

/** Packed rows or pairs. */
export const packedSide = (at: Pointer, row: Index, parts: Parts): Side => ({
  ...{ at, step: stepBytes(parts), part: PAIR_BYTES, tile: TILE_BYTES, row },
});

export interface Sums {
  readonly at: Pointer;
  /** Bytes from row to row. */
  readonly row: Index;
  /** Bytes from the upper tiles to the lower ones. */
  readonly below: number;
  /** Whether the products are added to what is there. */
  readonly add?: boolean;
}

/**
 * 32 by 32 sums of products over `steps` times 32 inner elements: of parts whose numbers add up to less than `parts`. Pauses
 * after every four multiplications, of which there are {@link pauses}.
 */
export function* multiplySides(
  k: Builder,
  { left, right, steps, parts, sums }: { left: Side; right: Side; steps: number; parts: Parts; sums: Sums },
): Generator<void, void> {
  const place = (tile: number) => sums.at.atByte((tile >> 1) * sums.below + (tile & 1) * ROWS * 4);
  for (let tile = 0; tile < 4; tile++) {
    if (sums.add) loadTile(k, tile, place(tile), sums.row);
    else zeroTile(k, tile);
  }
  for (let step = 0; step < steps; step++) {
    for (let j = 0; j < parts; j++) {
      for (let i = 0; i + j < parts; i++) {
        const from = ({ at, step: bytes, part, tile }: Side, which: number, side: number) =>
          at.atByte(step * bytes + which * part + side * tile);
        for (let side = 0; i === 0 && side < 2; side++) loadTile(k, 6 + side, from(right, j, side), right.row);
        for (let half = 0; half < 2; half++) {
          loadTile(k, 4 + half, from(left, i, half), left.row);
          for (let side = 0; side < 2; side++) multiplyTiles(k, 2 * half + side, 4 + half, 6 + side);
        }
        if (step === steps - 1 && j === parts - 1) {
          for (let tile = 0; tile < 4; tile++) storeTile(k, tile, place(tile), sums.row);
        }
        yield;
      }
    }
  }
}

/** Pauses of a product of so many steps. */
export const pauses = (steps: number, parts: Parts): number => steps * ((parts * (parts + 1)) / 2);

/** Runs generators one after another. */
export function* inTurn(...all: Generator<void, void>[]): Generator<void, void> {
  for (const each of all) yield* each;
}

/** Runs a generator without pause. */
export function finish(generator: Generator<void, void>): void {
  while (!generator.next().done);
}

/**
 * Code of two generators, each spread evenly over the other. Multiplications of tiles and of 512-bit vectors take turns (measured
 * on Sapphire Rapids: their times add up), but while tiles wait for their loads and stores, vectors compute.
 */
export function interleave(
  a: { run: Generator<void, void>; pauses: number },
  b: { run: Generator<void, void>; pauses: number },
): void {
  let done = 0;
  for (let i = 0; i < a.pauses; i++) {
    for (; done * a.pauses < i * b.pauses; done++) b.run.next();
    a.run.next();
  }
  finish(b.run);
  finish(a.run);
}

export interface Column {
  readonly query: Index;
  /** Of the heads that share the key head. */
  readonly head: Index;
  readonly number: Index;
}

/** Walks through columns: a query's heads, then the next query's. */
export class Columns {
  private readonly k: Builder;
  private readonly group: Index;
  private readonly query: Index;
  private readonly head: Index;
  /** Begins at a head of query 0; `group` heads share the key head. */
  constructor(k: Builder, head: Index, group: Index) {
    [this.k, this.group] = [k, group];
    [this.query, this.head] = [k.variable(k.index(0)), k.variable(head)];
  }

  /** Runs `body` for the next `count` columns; where fewer than `left` are left, the last one is repeated. */
  next(count: Index | number, left: Index, body: (column: Column) => void): void {
    const { k, query, head } = this;
    k.loop({ to: count, maySpill: true }, (number) => {
      body({ query, head, number });
      k.if(number.add(1).lt(left), () => {
        head.increase(1);
        k.if(head.ge(this.group), () => {
          head.set(0);
          query.increase(1);
        });
      });
    });
  }
}

/** 2ˣ within 3 ulp for x from −125 to 127; 0 from −127 down, NaN for NaN. */
export function exp2(k: Builder, x: VF): VF {
  // The constant comes first, so that a NaN passes through.
  const bounded = k.vector(-127).max(x);
  // Adding 1.5·2²³ rounds to an integer, which is then in the low bits.
  const shifted = bounded.add(1.5 * 2 ** 23);
  const r = bounded.sub(shifted.sub(1.5 * 2 ** 23));
  let sum = k.vector(EXP2[0]);
  for (const c of EXP2.slice(1)) sum = sum.fma(r, c);
  return sum.bits().add(shifted.bits().shl(23)).float();
}

/** Least relative error on [-1/2, 1/2], 1 at 0: 2^-23.4. */
const EXP2 = [1.3264727e-3, 9.671513e-3, 5.5507336e-2, 2.4022242e-1, 0.6931470036506653, 1];

/** Places of so many bytes, one after another. */
export function places<N extends string>(sizes: { readonly [K in N]: number }): { at: Record<N, number>; end: number } {
  let end = 0;
  const at = {} as Record<N, number>;
  for (const name in sizes) {
    at[name] = end;
    end += sizes[name];
  }
  return { at, end };
}

/** Kernels made for heads of one size, each once. */
export function bySize<T>(make: (size: number, parts: Parts) => T): (size: number, parts: Parts) => T {
  const made = new Map<number, T>();
  return (size, parts) => {
    const key = 4 * size + parts;
    let kernel = made.get(key);
    if (kernel === undefined) made.set(key, (kernel = make(size, parts)));
    return kernel;
  };
}

/** Puts −∞ in place of the scores of a group of keys from `key` on that a column does not see. */
export function hideScores(k: Builder, scores: Pointer, key: Index, visible: readonly Pointer[]): void {
  const place = k.variable(scores);
  const number = k.variable(key);
  const counts = visible.map((at) => at.as("i32").loadInt());
  k.repeat(k.index(SIDE), () => {
    const here = number.splat();
    counts.forEach((count, half) => {
      const score = place.at(half * ROWS).load();
      place.at(half * ROWS).store(count.compare("gt", here).select(score, k.vector(Number.NEGATIVE_INFINITY)));
    });
    number.increase(1);
    place.advance(SIDE);
  });
}

/** Zeros in so many numbers. */
export function clear(k: Builder, from: Pointer, count: number): void {
  const place = k.variable(from);
  k.repeat(k.index(count / (4 * ROWS)), () => {
    for (let i = 0; i < 4; i++) place.at(i * ROWS).store(k.zero());
    place.advance(4 * ROWS);
  });
}

export function swap(k: Builder, a: Pointer, b: Pointer): void {
  const first = k.variable(a);
  a.set(b);
  b.set(first);
}

/** Multiplies the columns of `[element][column]`. */
export function scaleColumns(k: Builder, from: Pointer, size: number, factors: readonly VF[]): void {
  const place = k.variable(from);
  k.repeat(k.index(size), () => {
    factors.forEach((factor, half) => {
      const at = place.at(half * ROWS);
      at.store(at.load().mul(factor));
    });
    place.advance(SIDE);
  });
}

/** Turns `[element][column]` into `[column][element]`. */
export function turnColumns(k: Builder, from: Pointer, size: number, to: Pointer): void {
  for (const half of [0, ROWS]) {
    const [source, place] = [k.variable(from.at(half)), k.variable(to.at(half * size))];
    k.repeat(k.index(size / ROWS), () => {
      const column = (i: number) => place.at(i * size);
      transposeSquare(k, (r) => source.atByte(r * LINE), column);
      source.advanceBytes(ROWS * LINE);
      place.advance(ROWS);
    });
  }
}
