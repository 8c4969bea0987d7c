/** Functions built from the language's own operations, the same on every target. */

import type { Builder } from "./builder.ts";
import { type Index, type Pointer, VF } from "./values.ts";

/**
 * Transposes a square of `lanes` vectors: result `i` holds lane `i` of each of `rows`. Missing rows may be given as
 * fewer vectors; their lanes are then copies of the first row's.
 */
export function transpose(k: Builder, rows: readonly VF[]): VF[] {
  const { lanes } = k;
  const unpack = (a: VF, b: VF, imm: number) => new VF(k, k.result("unpack", "vf", [a.reg, b.reg], imm));
  const blocks = (a: VF, b: VF, imm: number) => new VF(k, k.result("blocks", "vf", [a.reg, b.reg], imm));
  const all = Array.from({ length: lanes }, (_, i) => rows[i] ?? rows[0]);
  // Within each 128-bit block, four rows become four columns.
  const quads: VF[] = [];
  for (let i = 0; i < lanes; i += 4) {
    const [a, b, c, d] = all.slice(i, i + 4);
    const ab = [unpack(a, b, 0), unpack(a, b, 1)];
    const cd = [unpack(c, d, 0), unpack(c, d, 1)];
    for (const j of [0, 1]) quads.push(unpack(ab[j], cd[j], 2), unpack(ab[j], cd[j], 3));
  }
  if (lanes === 4) return quads;
  if (lanes !== 8) throw new TypeError(`no transposition of ${lanes} lanes`);
  const low = quads.slice(0, 4).map((quad, i) => blocks(quad, quads[4 + i], 0x20));
  return [...low, ...quads.slice(0, 4).map((quad, i) => blocks(quad, quads[4 + i], 0x31))];
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
