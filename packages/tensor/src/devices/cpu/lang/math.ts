/** Functions built from the language's own operations, the same on every target. */

import type { Builder } from "./builder.ts";
import { type Index, type Pointer, VF } from "./values.ts";

/**
 * Four elements each of as many rows as a vector has lanes, as four vectors: vector `b` holds rows b, 4 + b, 8 + b, … one
 * after another. `transposeBlocks` turns that into columns.
 */
export function loadRows(k: Builder, rows: readonly Pointer[], count?: Index): [VF, VF, VF, VF] {
  const one = (row: number): VF => {
    let value: VF | undefined;
    for (let block = 0; block * 4 < k.lanes; block++) value = rows[block * 4 + row].loadBlock(block, value, count);
    return value!;
  };
  return [one(0), one(1), one(2), one(3)];
}

/** Transposes the 4×4 squares that lie in the 128-bit blocks of four vectors. */
export function transposeBlocks(k: Builder, [a, b, c, d]: readonly [VF, VF, VF, VF]): [VF, VF, VF, VF] {
  const unpack = (x: VF, y: VF, imm: number) => new VF(k, k.result("unpack", "vf", [x.reg, y.reg], imm));
  const ab = [unpack(a, b, 0), unpack(a, b, 1)];
  const cd = [unpack(c, d, 0), unpack(c, d, 1)];
  return [unpack(ab[0], cd[0], 2), unpack(ab[0], cd[0], 3), unpack(ab[1], cd[1], 2), unpack(ab[1], cd[1], 3)];
}

/**
 * The columns of `rows` (one a lane) in order, `length` of them: `take` is built for pieces of code that each handle some
 * columns, gives their vectors and where the first of them is; the columns from `count` on, where that is given, do not
 * exist and their vectors are 0.
 */
export function eachColumn(
  k: Builder,
  rows: readonly Pointer[],
  length: Index,
  take: (columns: VF[], i: Index, count?: Index) => void,
): void {
  const bf16 = rows[0].element === "bf16";
  const step = bf16 ? 8 : 4;
  const whole = length.alignDown(step);
  // Sixteen rows have more addresses than there are registers.
  k.loop({ to: whole, step, maySpill: k.lanes > 8 }, (i) => {
    const here = rows.map((row) => row.at(i));
    if (!bf16) return take(transposeBlocks(k, loadRows(k, here)), i);
    take([...bf16Columns(k, here)], i);
  });
  const rest = length.sub(whole);
  const one = (at: Index, count?: Index) => {
    const here = rows.map((row) => row.at(at));
    take(transposeBlocks(k, loadRows(k, here, count)), at, count);
  };
  k.if(rest.gt(0), () => one(whole, rest));
  if (bf16) k.if(rest.gt(4), () => one(whole.add(4), rest.sub(4)));
}

/**
 * Eight columns of bf16 rows: pairs of neighbours are transposed as one 32-bit element and then taken apart, each column
 * when it is asked for.
 */
export function* bf16Columns(k: Builder, rows: readonly Pointer[]): Generator<VF> {
  const pairs = transposeBlocks(
    k,
    loadRows(
      k,
      rows.map((row) => row.as("f32")),
    ),
  );
  for (const pair of pairs) {
    yield pair.bits().shl(16).float();
    yield pair.bits().and(-0x10000).float();
  }
}

/**
 * Takes one of the workspaces that the threads share and returns its number; `release` gives it back. `slots` are
 * i32 flags, one a workspace, at least as many as there are threads.
 */
export function claimWorkspace(k: Builder, slots: Pointer): { slot: Index; release: () => void } {
  const slot = k.variable(k.index(-1));
  const flags = slots.as("i32");
  k.doWhile(() => {
    slot.increase(1);
    return flags.at(slot).exchange(k.index(1)).ne(0);
  }, true);
  return { slot, release: () => void slots.as("i32").at(slot).exchange(k.index(0)) };
}
