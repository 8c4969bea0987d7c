// Attention: the items of a call, and the kernels' arguments.
import { machineCode } from "#machine-code";
import { BLOCKS } from "../../dtype.ts";
import type { AttentionOptions, Segment, View } from "../device.ts";
import { keyBiasOperand, operand } from "./attention-operand.ts";
import { CONSTANT_BYTES, type CpuContext } from "./context.ts";
import { attentionKernels, attentionWorkspaceBytes } from "./kernels/attention.ts";
import {
  attentionBackwardKeys,
  attentionBackwardQueries,
  attentionBackwardWorkspaceBytes,
  KEY_ITEM_WORDS,
} from "./kernels/attention-gradients.ts";
import { ITEM_WORDS, itemRows, keyBlock } from "./kernels/attention-parts.ts";
import { panelColumns } from "./kernels/gemm.ts";
import type { Tiles } from "./machine-code.ts";

/** Query heads that share a key head, when the kernels take these views; undefined where the reference's loops must. */
function groupOf(cpu: CpuContext, q: View, k: View, rows: readonly View[], perQuery: readonly (View | undefined)[]) {
  const { target } = cpu.kernels;
  const [, heads, size] = q.shape as [number, number, number];
  const dense = rows.every((view) => view.dtype === "f32" && view.strides[2] === 1);
  const numbers = perQuery.every((view) => view === undefined || (view.dtype === "f32" && view.strides[1] === 1));
  const group = heads / k.shape[1]!;
  const fits = size > 0 && size % panelColumns(target) === 0 && group <= itemRows(target);
  return dense && numbers && fits ? group : undefined;
}

/** Whether every head of every row is whole blocks. */
function wholeBlocks({ shape, strides, offset }: View): boolean {
  const { elements } = BLOCKS.q8_0;
  return [offset, shape[2]!, strides[0]!, strides[1]!].every((n) => n % elements === 0) && strides[2] === 1;
}

/** Whether the kernels can read the bias, or the zeros in the place of none. */
function fitsBias(cpu: CpuContext, size: number, { keyBias }: AttentionOptions): boolean {
  if (!keyBias) return 4 * size <= CONSTANT_BYTES;
  return (
    size % (2 * cpu.kernels.target.lanes) === 0 && keyBias.bias.strides[1] === 1 && keyBias.rotations.strides[1] === 1
  );
}

/** Writes the words of items and runs `body` with their address; a recording finds them again each time, as many as now. */
function withItems(
  cpu: CpuContext,
  items: readonly number[],
  body: (address: number) => void,
  again: () => readonly number[] = () => items,
): void {
  let words: Int32Array | undefined;
  const write = (address: number): void => {
    if (words) words.set(again());
    else (words = cpu.memory.i32(address, items.length)).set(items);
  };
  cpu.written(4 * items.length, write, body);
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

/** Blocks of at most `most` keys of each sequence, for each key/value head. */
function keyItems(segments: readonly Segment[], most: number, kvHeads: number): number[] {
  const items: number[] = [];
  for (const { query, queries, key, keys } of segments) {
    for (let first = 0; first < keys; first += most) {
      const end = Math.min(first + most, keys);
      for (let head = 0; head < kvHeads; head++) items.push(query, queries, key, keys - queries + 1, head, first, end);
    }
  }
  return items;
}

/** Below so many products, sharing the work costs more than it saves. */
const CHUNK_PRODUCTS = 200_000;

/** Items that one call takes. */
function chunkOf(q: View, segments: readonly Segment[], items: number): number {
  const [, heads, size] = q.shape as [number, number, number];
  const pairs = segments.reduce((sum, { queries, keys }) => sum + queries * (keys - queries / 2), 0);
  return Math.max(1, Math.floor((CHUNK_PRODUCTS * items) / (1 + 2 * heads * size * pairs)));
}

/** Gives the sequences that tiles do not take, or have not taken. */
function forVectors(
  cpu: CpuContext,
  size: number,
  { segments, rows }: AttentionOptions,
  pass: "forward" | "backward",
  run: (tiles: Tiles, onTiles: readonly Segment[]) => boolean,
): readonly Segment[] {
  const { tiles } = machineCode ?? {};
  if (!tiles) return segments;
  const onTiles = segments.filter((segment) => tiles.fitsAttention(cpu, size, segment, pass, rows));
  if (onTiles.length === 0 || !run(tiles, onTiles)) return segments;
  return segments.filter((segment) => !onTiles.includes(segment));
}

/** Runs attention forward; false where no kernel takes the types, strides and head size. */
export function attention(
  cpu: CpuContext,
  q: View,
  k: View,
  v: View,
  options: AttentionOptions,
  out: View,
  lse: View | undefined,
): boolean {
  const blocks = k.dtype === "q8_0";
  const group = groupOf(cpu, q, k, blocks ? [q, out] : [q, k, v, out], [lse]);
  if (group === undefined) return false;
  const size = q.shape[2]!;
  if (blocks && !(v.dtype === "q8_0" && wholeBlocks(k) && wholeBlocks(v) && fitsBias(cpu, size, options))) return false;
  const { scale, keyRows, keyBias } = options;
  const segments = forVectors(cpu, size, options, "forward", (tiles, onTiles) =>
    tiles.attention(cpu, q, k, v, { segments: onTiles, scale, keyRows, keyBias }, out, lse),
  );
  const { target } = cpu.kernels;
  const itemsOf = (of: readonly Segment[]) => queryItems(of, Math.floor(itemRows(target) / group), k.shape[1]!);
  const items = itemsOf(segments);
  if (items.length === 0) return true;
  const { address: workspace, slots } = cpu.workspace(attentionWorkspaceBytes(target, size, blocks));
  const kernel = attentionKernels[keyRows ? 1 : 0][blocks ? 1 : 0];
  const run = (table: number): void => {
    const values = {
      ...{ ...operand(cpu, "q", q), ...operand(cpu, "k", k), ...operand(cpu, "v", v), ...operand(cpu, "out", out) },
      ...{ lse: lse ? cpu.address(lse, "attention") : 0, headStride: lse?.strides[0] ?? 0 },
      ...{ items: table, size, group, scale, workspace, slots },
      ...{ keyRows: keyRows ? cpu.address(keyRows, "attention") : 0, ...keyBiasOperand(cpu, keyBias) },
    };
    const count = items.length / ITEM_WORDS;
    // What is recorded now may have many more keys later.
    cpu.kernels.run(kernel, values, count, cpu.isRecording ? 1 : chunkOf(q, segments, count));
  };
  withItems(cpu, items, run, () => itemsOf(options.segments));
  return true;
}

/** Runs attention backward; false where no kernel takes the types, strides and head size. */
export function attentionBackward(
  cpu: CpuContext,
  grad: View,
  q: View,
  k: View,
  v: View,
  out: View,
  lse: View,
  options: AttentionOptions,
  gradQ: View,
  gradK: View,
  gradV: View,
): boolean {
  const group = groupOf(cpu, q, k, [grad, q, k, v, out, gradQ, gradK, gradV], [lse]);
  if (group === undefined || shareKeys(options.segments)) return false;
  const { target } = cpu.kernels;
  const [, heads, size] = q.shape as [number, number, number];
  const chunkQueries = Math.floor(itemRows(target) / group);
  // Keys that no sequence holds get no gradient.
  for (const view of [gradK, gradV]) clearUnused(cpu, view, options.segments);
  const { scale } = options;
  const segments = forVectors(cpu, size, options, "backward", (tiles, onTiles) =>
    tiles.attentionBackward(cpu, grad, q, k, v, out, lse, { segments: onTiles, scale }, gradQ, gradK, gradV),
  );
  const forQueries = queryItems(segments, chunkQueries, k.shape[1]!);
  if (forQueries.length === 0) return true;
  const forKeys = keyItems(segments, keyBlock(target), k.shape[1]!);
  const { address: workspace, slots } = cpu.workspace(attentionBackwardWorkspaceBytes(target, size));
  const headStride = lse.strides[0]!;
  cpu.scratch(4 * heads * headStride, (delta) => {
    const shared = {
      ...{ ...operand(cpu, "q", q), ...operand(cpu, "k", k), ...operand(cpu, "v", v), ...operand(cpu, "grad", grad) },
      ...{ lse: cpu.address(lse, "attentionBackward"), delta, headStride, size, group, scale, workspace, slots },
    };
    withItems(cpu, forQueries, (items) => {
      const values = { ...shared, ...operand(cpu, "out", out), ...operand(cpu, "gradQ", gradQ), items };
      cpu.kernels.run(attentionBackwardQueries, values, forQueries.length / ITEM_WORDS);
    });
    withItems(cpu, forKeys, (items) => {
      const values = {
        ...shared,
        ...operand(cpu, "gradK", gradK),
        ...operand(cpu, "gradV", gradV),
        items,
        chunkQueries,
      };
      cpu.kernels.run(attentionBackwardKeys, values, forKeys.length / KEY_ITEM_WORDS);
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
