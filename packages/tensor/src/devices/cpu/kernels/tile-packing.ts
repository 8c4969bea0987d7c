/**
 * Matrices as matrix tiles take them: bf16, A by rows, B by pairs of rows. An f32 number is taken as a sum of bf16 numbers,
 * its parts: each has 8 bits of mantissa. Where a part is not finite, those after it are 0.
 */

import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { loadRows, transposeBlocks } from "../lang/math.ts";
import type { Index, Pointer, VF, VI } from "../lang/values.ts";

/** Rows and columns of the block of C that four tiles hold. */
export const SIDE = 32;
/** Rows of a tile. */
export const ROWS = 16;
/** Inner elements of a tile of A or B. */
export const STEP = 32;
export const TILE_BYTES = 1024;
/** One part of both tiles of a group of rows, or of a panel of columns. */
export const PAIR_BYTES = 2 * TILE_BYTES;

/** Steps of so many inner elements. */
export const stepsOf = (length: Index): Index => length.add(STEP - 1).sar(Math.log2(STEP));

/** The parts of f32 numbers, most significant first, each as u16. */
function split(k: Builder, x: VF, count: number): VI[] {
  const parts: VI[] = [];
  let rest = x;
  while (parts.length < count) {
    const part = rest.narrow();
    parts.push(part);
    const taken = part.shl(16).float();
    const finite = taken.abs().compare("lt", Number.POSITIVE_INFINITY);
    if (parts.length < count) rest = finite.select(rest.sub(taken), k.zero());
  }
  return parts;
}

/** Numbers of even and odd inner elements as pairs, part by part. */
function splitPairs(k: Builder, even: VF, odd: VF, count: number): VI[] {
  const high = split(k, odd, count);
  return split(k, even, count).map((low, part) => low.or(high[part].shl(16)));
}

/** Steps of A that are asked for ahead. */
const AHEAD_STEPS = 2;

export interface RowsOfA {
  readonly a: Pointer;
  readonly lda: Index;
  /** The first row, and how many there are: rows beyond stay as they were, what they give is never looked at. */
  readonly row: Index;
  readonly rows: Index;
  /** In place of rows beyond the last one it comes again, when given. */
  readonly last?: Index;
  /** The inner element, and how many are left from there on: a whole step unless given. */
  readonly p: Index;
  readonly left?: Index;
  readonly to: Pointer;
  readonly parts: number;
}

/** A step of a group of rows of A into `[part][row][32]`; inner elements beyond the last are 0. */
export function packTileRows(k: Builder, { a, lda, row, rows, last, p, left, to, parts }: RowsOfA): void {
  k.loop({ to: rows }, (r) => {
    const line = row.add(r);
    const from = a.at((last ? line.min(last) : line).mul(lda).add(p)).fixed();
    const place = to.atByte(r.mul(STEP * 2)).fixed();
    // Each row lies on another page, where the processor does not look by itself; past the row's end this asks for nothing of use.
    for (const side of [0, k.lanes]) from.at(AHEAD_STEPS * STEP + side).prefetch(1);
    let rest = [0, k.lanes].map((first) => from.at(first).load(left?.sub(first)));
    for (let part = 0; part < parts; part++) {
      const here = place.atByte(part * PAIR_BYTES);
      here.as("i32").store(rest[0].narrow(rest[1]));
      if (part + 1 === parts) break;
      rest = rest.map((value, side) => {
        const taken = here
          .as("bf16")
          .at(side * k.lanes)
          .load();
        const finite = taken.abs().compare("lt", Number.POSITIVE_INFINITY);
        return finite.select(value.sub(taken), k.zero());
      });
    }
  });
}

/**
 * A step of a group of rows of A as the right factor of `W·Aᵀ`: `[part][tile][column / 2][row][column % 2]`.
 *
 * @param rows room for a step of all parts
 */
export function packTileColumns(k: Builder, given: Omit<RowsOfA, "rows" | "left">, rows: Pointer): void {
  packTileRows(k, { ...given, rows: k.index(SIDE), to: rows });
  for (let part = 0; part < given.parts; part++) {
    for (let tile = 0; tile < 2; tile++) {
      const at = part * PAIR_BYTES + tile * TILE_BYTES;
      for (let word = 0; word < ROWS; word += 4) {
        const lines = Array.from({ length: ROWS }, (_, r) => rows.atByte(at + r * STEP * 2 + word * 4).as("f32"));
        transposeBlocks(k, loadRows(k, lines)).forEach((column, w) => {
          given.to
            .atByte(at + (word + w) * 64)
            .as("f32")
            .store(column);
        });
      }
    }
  }
}

function packKernel(parts: number) {
  return defineKernel(
    `pack_tiles_a_${parts}`,
    { a: "f32*", packed: "u16*", m: "index", k: "index", lda: "index", groups: "index" },
    (k, args) => {
      const bytes = parts * PAIR_BYTES;
      const stride = args.groups.mul(bytes);
      k.loop({ from: k.begin, to: k.end }, (group) => {
        const to = k.variable(args.packed.atByte(group.mul(bytes)));
        k.loop({ to: args.k, step: STEP }, (p) => {
          const [row, left] = [group.mul(SIDE), args.k.sub(p)];
          packTileRows(k, { a: args.a, lda: args.lda, row, rows: args.m.sub(row).min(SIDE), p, left, to, parts });
          to.advanceBytes(stride);
        });
      });
    },
  );
}

/** A [m, k] into `[step][group of rows][part][row][32]`, in so many parts. An item is a group of 32 rows. */
export const packTilesA = { 1: packKernel(1), 2: packKernel(2), 3: packKernel(3) } as const;

export interface TilesOfB {
  /** f32 or bf16 elements. */
  readonly b: Pointer;
  readonly ldb: Index;
  /** The inner elements p … p + length. */
  readonly p: Index;
  readonly length: Index;
  readonly column: Index;
  readonly columnEnd: Index;
  readonly to: Pointer;
  /** Parts that the elements are taken as. */
  readonly parts: number;
}

/** B [k, n] into `[panel][step][part][tile][row / 2][column][row % 2]`; what lies beyond is 0. */
export function packTilesB(k: Builder, given: TilesOfB): void {
  const { b, ldb, p, length, column, columnEnd, to, parts } = given;
  const bf16 = b.element === "bf16";
  const words = bf16 ? b.as("u16") : b;
  const panel = k.variable(to);
  k.loop({ from: column, to: columnEnd, step: SIDE }, (j) => {
    k.loop({ to: stepsOf(length).mul(STEP / 2), maySpill: true }, (pair) => {
      const row = pair.mul(2);
      const step = pair.sar(4);
      const place = panel
        .atByte(
          pair
            .and(15)
            .mul(64)
            .add(step.mul(parts * PAIR_BYTES)),
        )
        .fixed();
      const at = k.variable(words.at(p.add(row).mul(ldb)).fixed().at(j));
      for (let tile = 0; tile < 2; tile++) {
        const width = columnEnd.sub(j).sub(tile * ROWS);
        // Rows past the end are read with no lanes.
        const some = (left: Index) => {
          const count = k.variable(width);
          k.if(left.le(0), () => count.set(0));
          return count;
        };
        const first = at.at(tile * ROWS);
        const second = at
          .at(ldb)
          .fixed()
          .at(tile * ROWS);
        const counts = [some(length.sub(row)), some(length.sub(row).sub(1))];
        const pairs = bf16
          ? [first.loadInt(counts[0]).or(second.loadInt(counts[1]).shl(16))]
          : splitPairs(k, first.load(counts[0]), second.load(counts[1]), parts);
        pairs.forEach((word, part) => {
          place
            .atByte(part * PAIR_BYTES + tile * TILE_BYTES)
            .as("i32")
            .store(word);
        });
      }
    });
    panel.advanceBytes(stepsOf(length).mul(parts * PAIR_BYTES));
  });
}

/** Elements of a row of B given as [n, k] that are read at a time. */
export const blockOf = (element: "f32" | "bf16"): number => (element === "bf16" ? 8 : 4);

/** B given as [n, k], the way weights lie, into the same. k is a multiple of `blockOf`. */
export function packTilesBTransposed(k: Builder, given: TilesOfB): void {
  const { b, ldb, p, length, column, columnEnd, to, parts } = given;
  const bf16 = b.element === "bf16";
  const block = blockOf(bf16 ? "bf16" : "f32");
  const panel = k.variable(to);
  const last = columnEnd.sub(1);
  const tileRows = ldb.mul(ROWS * b.bytes);
  k.loop({ from: column, to: columnEnd, step: SIDE }, (j) => {
    for (let tile = 0; tile < 2; tile++) {
      const rows = Array.from({ length: ROWS }, (_, i) => {
        // Columns past the end repeat the last one; what they give is never stored.
        const row = j.add(tile * ROWS + i).min(last);
        return b.at(row.mul(ldb).add(p)).as("f32").fixed();
      });
      const place = k.variable(panel.atByte(tile * TILE_BYTES).as("i32"));
      // A block of every row at a time, and a whole step filled up with zeros.
      k.loop({ to: stepsOf(length).mul(STEP), step: STEP, maySpill: true }, (i) => {
        // With few rows of A the memory's speed is what counts: the next tile's rows are asked for.
        const ahead = i.mul(b.bytes).add(tileRows);
        for (const row of rows) row.atByte(ahead).prefetch();
        for (let s = 0; s < STEP / block; s++) {
          const line = (word: number, part: number) =>
            place.at(((s * block) / 2 + word) * ROWS).atByte(part * PAIR_BYTES);
          const here = () => {
            const at = rows.map((row) => row.atByte(i.mul(b.bytes)).atByte(s * 16));
            return transposeBlocks(k, loadRows(k, at));
          };
          k.if(
            length.sub(i).gt(s * block),
            () => {
              const columns = here();
              // Neighbours in a row of bf16 are the pairs already.
              const words = bf16
                ? columns.map((pair) => [pair.bits()])
                : [0, 2].map((c) => splitPairs(k, columns[c], columns[c + 1], parts));
              words.forEach((word, w) => {
                word.forEach((pairs, part) => {
                  line(w, part).store(pairs);
                });
              });
            },
            () => {
              for (let w = 0; w < block / 2; w++)
                for (let part = 0; part < parts; part++) line(w, part).store(k.zero().bits());
            },
          );
        }
        place.advanceBytes(parts * PAIR_BYTES);
      });
    }
    panel.advanceBytes(stepsOf(length).mul(parts * PAIR_BYTES));
  });
}

/** Copies pairs of tiles, the first part of each step, with 0 in place of what is not finite. */
export function copyFinite(k: Builder, from: Pointer, stride: Index, steps: Index, to: Pointer): void {
  const [source, place] = [k.variable(from.as("i32")), k.variable(to.as("i32"))];
  k.repeat(steps, () => {
    k.loop({ to: PAIR_BYTES, step: 4 * k.lanes }, (at) => {
      place.atByte(at).store(finitePairs(source.atByte(at).loadInt()));
    });
    source.advanceBytes(stride);
    place.advanceBytes(PAIR_BYTES);
  });
}

/** Pairs of bf16 numbers with 0 in place of what is not finite. */
export function finitePairs(word: VI): VI {
  const lowGone = word.and(-0x10000).float();
  const low = word.and(0x7f80).compare("eq", 0x7f80).select(lowGone, word.float()).bits();
  const highGone = low.and(0xffff).float();
  return low.and(0x7f800000).compare("eq", 0x7f800000).select(highGone, low.float()).bits();
}
