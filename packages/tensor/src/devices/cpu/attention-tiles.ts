// Attention on matrix tiles: packed keys, the items of a call, and the kernels' arguments.
import type { Segment, View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { groupBytes, type Parts, SIDE } from "./kernels/attention-tile-parts.ts";
import {
  attentionTiles as attentionKernels,
  attentionTilesPack,
  attentionTilesWorkspaceBytes,
  COLUMN_ITEM_WORDS,
  KEY_GROUP_WORDS,
  packWorkspaceBytes,
} from "./kernels/attention-tiles.ts";

/** Sequences with fewer queries are left to vectors: packing their keys would cost more than it saves. */
const FEW_QUERIES = 8;

/** Whether tiles take a sequence: a matter of that sequence alone, so that its results are too. */
export function fitsTiles(cpu: CpuContext, size: number, { queries }: Segment): boolean {
  return cpu.kernels.target.tiles === true && cpu.terms !== 3 && size % SIDE === 0 && queries >= FEW_QUERIES;
}

/** Address and strides of a [rows, heads, size] view under the kernels' names for them. */
export function operand<N extends string>(cpu: CpuContext, name: N, view: View) {
  const [row, head] = view.strides as [number, number];
  const values = { [name]: cpu.address(view, "attention"), [`${name}Row`]: row, [`${name}Head`]: head };
  return values as Record<N | `${N}Row` | `${N}Head`, number>;
}

/** Groups of keys, a sequence's key head after the other. */
function keyGroups(segments: readonly Segment[], kvHeads: number): number[] {
  const groups: number[] = [];
  for (const { key, keys } of segments) {
    for (let head = 0; head < kvHeads; head++) {
      for (let first = 0; first < keys; first += SIDE) groups.push(key + first, Math.min(SIDE, keys - first), head);
    }
  }
  return groups;
}

/** Groups of columns: later ones, which see more keys, first. */
function columnItems(segments: readonly Segment[], kvHeads: number, group: number): number[] {
  const items: number[][] = [];
  let packed = 0;
  for (const { query, queries, keys } of segments) {
    for (let head = 0; head < kvHeads; head++) {
      for (let first = 0; first < queries * group; first += SIDE) {
        const at = Math.floor(first / group);
        const columns = Math.min(SIDE, queries * group - first);
        items.push([query + at, first % group, columns, keys - queries + at + 1, head, packed]);
      }
      packed += Math.ceil(keys / SIDE);
    }
  }
  return items.sort((a, b) => b[3]! - a[3]!).flat();
}

/** Runs attention forward; false where numbers were met that tiles do not take: `out` and `lse` are then to be made anew. */
export function attentionOnTiles(
  cpu: CpuContext,
  q: View,
  k: View,
  v: View,
  { segments, scale }: { segments: readonly Segment[]; scale: number },
  out: View,
  lse: View | undefined,
): boolean {
  const [, heads, size] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const parts = cpu.terms as Parts;
  const groups = keyGroups(segments, kvHeads);
  const items = columnItems(segments, kvHeads, heads / kvHeads);
  const packedBytes = (groups.length / KEY_GROUP_WORDS) * groupBytes(size, parts);
  const tableBytes = 4 * (groups.length + items.length) + 64;
  return cpu.scratch(2 * packedBytes + tableBytes, (packedK) => {
    const packedV = packedK + packedBytes;
    const flag = packedV + packedBytes;
    const table = flag + 64;
    const words = cpu.memory.i32(flag, tableBytes / 4);
    words[0] = 0;
    words.set(groups, 16);
    words.set(items, 16 + groups.length);
    const packing = cpu.workspace(packWorkspaceBytes(size, parts));
    const pack = (view: View, to: { plain: number; transposed: number }) => {
      const { rows, rowsRow: row, rowsHead: head } = operand(cpu, "rows", view);
      const values = { rows, row, head, ...to, size, groups: table, flag, slots: packing.slots };
      const count = groups.length / KEY_GROUP_WORDS;
      cpu.kernels.run(attentionTilesPack[parts], { ...values, workspace: packing.address }, count);
    };
    pack(k, { plain: packedK, transposed: 0 });
    pack(v, { plain: 0, transposed: packedV });
    const { address: workspace, slots } = cpu.workspace(attentionTilesWorkspaceBytes(size, parts));
    const values = {
      ...{ ...operand(cpu, "q", q), ...operand(cpu, "k", k), ...operand(cpu, "v", v), ...operand(cpu, "out", out) },
      ...{ lse: lse ? cpu.address(lse, "attention") : 0, headStride: lse?.strides[0] ?? 0, packedK, packedV, flag },
      ...{
        items: table + 4 * groups.length,
        size,
        group: heads / kvHeads,
        scale: scale * Math.LOG2E,
        workspace,
        slots,
      },
    };
    cpu.kernels.run(attentionKernels[parts], values, items.length / COLUMN_ITEM_WORDS);
    return words[0] === 0;
  });
}
