// Attention: the items of a call, and the kernels' arguments.
import type { AttentionOptions, Segment, View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { attention as attentionKernel, attentionWorkspaceBytes } from "./kernels/attention.ts";
import {
  attentionDeltaKernel,
  attentionKeyGradKernel,
  attentionQueryGradKernel,
  backwardWorkspace,
  KEY_ITEM_FIELDS,
  QUERY_ITEM_FIELDS,
} from "./kernels/attention-backward.ts";
import { ITEM_WORDS, itemRows } from "./kernels/attention-parts.ts";
import { attentionTile } from "./kernels/attention-tile.ts";
import { panelColumns } from "./kernels/gemm.ts";

/** Row tiles that an item has at least, so that packing its keys is worth it. */
const ROW_TILES = 4;

const usable = (views: readonly (View | undefined)[]) =>
  views.every((view) => view === undefined || (view.dtype === "f32" && (view.shape[2] === 1 || view.strides[2] === 1)));

/** Address and strides of a [rows, heads, size] view under a kernel's names for them. */
function operand<N extends string>(cpu: CpuContext, name: N, view: View) {
  const [row, head] = view.strides as [number, number];
  return { [name]: cpu.address(view, "attention"), [`s${name}`]: row, [`h${name}`]: head } as Record<
    N | `s${N}` | `h${N}`,
    number
  >;
}

/** Address and strides of a [rows, heads, size] view under the forward kernel's names for them. */
function rowsAndHeads<N extends string>(cpu: CpuContext, name: N, view: View) {
  const [row, head] = view.strides as [number, number];
  const values = { [name]: cpu.address(view, "attention"), [`${name}Row`]: row, [`${name}Head`]: head };
  return values as Record<N | `${N}Row` | `${N}Head`, number>;
}

/** Writes the words of items and runs `body` with their address. */
function withItems(cpu: CpuContext, items: readonly number[], body: (address: number) => void): void {
  cpu.scratch(4 * Math.max(1, items.length), (address) => {
    cpu.memory.i32(address, items.length).set(items);
    body(address);
  });
}

/** Writes fields of items as 64-bit integers and runs `body` with their address. */
function withWideItems(cpu: CpuContext, items: readonly number[], body: (address: number) => void): void {
  cpu.scratch(8 * items.length, (address) => {
    const words = cpu.memory.i32(address, 2 * items.length);
    for (const [i, value] of items.entries()) {
      words[2 * i] = value;
      words[2 * i + 1] = 0;
    }
    body(address);
  });
}

/** Runs of at most `most` queries of each sequence, for each key/value head. */
function queryItems(segments: readonly Segment[], most: number, kvHeads: number): number[] {
  const items: number[] = [];
  for (const segment of segments) {
    for (let first = 0; first < segment.queries; first += most) {
      const queries = Math.min(most, segment.queries - first);
      const sees = segment.keys - segment.queries + first + 1;
      for (let head = 0; head < kvHeads; head++) items.push(segment.query + first, queries, segment.key, sees, head);
    }
  }
  return items;
}

/** Tiles of at most `most` keys of each sequence, for each key/value head. */
function keyItems(segments: readonly Segment[], most: number, kvHeads: number): number[] {
  const items: number[] = [];
  for (const segment of segments) {
    for (let first = 0; first < segment.keys; first += most) {
      const keys = Math.min(most, segment.keys - first);
      const sees = segment.keys - segment.queries + 1 - first;
      for (let head = 0; head < kvHeads; head++) {
        items.push(segment.query, segment.queries, segment.key + first, keys, sees, head);
      }
    }
  }
  return items;
}

/** Runs attention forward; false where no kernel takes the types, strides and head size. */
export function attention(
  cpu: CpuContext,
  q: View,
  k: View,
  v: View,
  { segments, scale }: AttentionOptions,
  out: View,
  lse: View | undefined,
): boolean {
  const { target } = cpu.kernels;
  const [queries, heads, size] = q.shape as [number, number, number];
  if (!usable([q, k, v, out]) || size === 0 || size % panelColumns(target) !== 0) return false;
  if (lse && (lse.dtype !== "f32" || (queries !== 1 && lse.strides[1] !== 1))) return false;
  const kvHeads = k.shape[1]!;
  const group = heads / kvHeads;
  const most = Math.floor(itemRows(target) / group);
  if (most === 0) return false;
  const items = queryItems(segments, most, kvHeads);
  if (items.length === 0) return true;
  const { address: workspace, slots } = cpu.workspace(attentionWorkspaceBytes(target, size));
  withItems(cpu, items, (table) => {
    const values = {
      ...{ ...rowsAndHeads(cpu, "q", q), ...rowsAndHeads(cpu, "k", k), ...rowsAndHeads(cpu, "v", v) },
      ...{
        ...rowsAndHeads(cpu, "out", out),
        lse: lse ? cpu.address(lse, "attention") : 0,
        headStride: lse?.strides[0] ?? 0,
      },
      ...{ items: table, size, group, scale, workspace, slots },
    };
    cpu.kernels.run(attentionKernel, values, items.length / ITEM_WORDS);
  });
  return true;
}

/** Runs attention backward; false where no kernel takes the types and strides. */
export function attentionBackward(
  cpu: CpuContext,
  grad: View,
  q: View,
  k: View,
  v: View,
  out: View,
  lse: View,
  { segments, scale }: AttentionOptions,
  gradQ: View,
  gradK: View,
  gradV: View,
): boolean {
  if (!usable([grad, q, k, v, out, gradQ, gradK, gradV])) return false;
  if (lse.dtype !== "f32" || (lse.shape[1] !== 1 && lse.strides[1] !== 1)) return false;
  const [queries, heads, size] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const group = heads / kvHeads;
  if (size === 0 || shareKeys(segments)) return false;
  const { target } = cpu.kernels;
  const { rows, keys } = attentionTile(target);
  const subtiles = Math.max(1, Math.ceil(ROW_TILES / group));
  // Keys that no sequence holds get no gradient.
  for (const view of [gradK, gradV]) clearUnused(cpu, view, segments);
  const space = backwardWorkspace(target, size, group * subtiles);
  const { address: workspace, slots } = cpu.workspace(4 * space.total);
  cpu.scratch(4 * Math.max(1, heads * queries), (delta) => {
    const g = operand(cpu, "g", grad);
    const common = { heads, size, rows: queries, delta, ...g, ...operand(cpu, "o", out) };
    cpu.kernels.run(attentionDeltaKernel, common, queries, 16);
    const shared = {
      ...{ ...operand(cpu, "q", q), ...operand(cpu, "k", k), ...operand(cpu, "v", v), ...g },
      ...{ lse: cpu.address(lse, "attentionBackward"), lseRows: lse.strides[0]!, delta, deltaRows: queries },
      ...{ size, group, scale, ...space, workspace, slots },
    };
    const queryWork = queryItems(segments, rows * subtiles, kvHeads);
    withWideItems(cpu, queryWork, (work) => {
      const to = { out: cpu.address(gradQ, "attentionBackward"), so: gradQ.strides[0]!, ho: gradQ.strides[1]! };
      const values = { ...shared, ...to, work, subtiles };
      cpu.kernels.run(attentionQueryGradKernel, values, queryWork.length / QUERY_ITEM_FIELDS);
    });
    const keyWork = keyItems(segments, keys, kvHeads);
    withWideItems(cpu, keyWork, (work) => {
      const values = { ...shared, ...operand(cpu, "dk", gradK), ...operand(cpu, "dv", gradV), work };
      cpu.kernels.run(attentionKeyGradKernel, values, keyWork.length / KEY_ITEM_FIELDS);
    });
  });
  return true;
}

/** Whether a key belongs to two sequences: its gradient has then no one item to own it. */
function shareKeys(segments: readonly Segment[]): boolean {
  const inOrder = segments.filter(({ keys }) => keys > 0).sort((a, b) => a.key - b.key);
  return inOrder.some(({ key }, i) => i > 0 && key < inOrder[i - 1]!.key + inOrder[i - 1]!.keys);
}

/** Zeros in the rows of keys that belong to no sequence. */
function clearUnused(cpu: CpuContext, view: View, segments: readonly Segment[]): void {
  const used = new Uint8Array(view.shape[0]!);
  for (const { key, keys } of segments) used.fill(1, key, key + keys);
  if (!used.includes(0)) return;
  cpu.check(view, "attentionBackward");
  const array = cpu.array(view);
  const [rows, heads, size] = view.shape as [number, number, number];
  for (let r = 0; r < rows; r++) {
    for (let h = 0; h < heads && used[r] === 0; h++) {
      const first = view.offset + r * view.strides[0]! + h * view.strides[1]!;
      array.fill(0, first, first + size);
    }
  }
}
