// Attention on matrix tiles: packed keys, the items of a call, and the kernels' arguments.
import { isBlocks } from "../../dtype.ts";
import type { AttentionOptions, RowsKind, Segment, View } from "../device.ts";
import { keyBiasOperand, operand } from "./attention-operand.ts";
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
import {
  attentionTilesBackward,
  attentionTilesBackwardWorkspaceBytes,
  attentionTilesSum,
  MAX_STRETCHES,
  STRETCH_ITEM,
  STRETCH_ITEM_WORDS,
  SUM_ITEM_WORDS,
  sumsBytes,
} from "./kernels/attention-tiles-gradients.ts";

/** Sequences with fewer queries are left to vectors: packing their keys would cost more than it saves. */
const FEWEST_QUERIES = { forward: 32, backward: 8 } as const;

/** Whether tiles take a sequence: a matter of that sequence, or of what was asked for, alone, so that its results are too. */
export function fitsTiles(
  cpu: CpuContext,
  size: number,
  { queries }: Segment,
  pass: keyof typeof FEWEST_QUERIES,
  rows: RowsKind = queries >= FEWEST_QUERIES[pass] ? "many" : "few",
): boolean {
  const { kernels, terms } = cpu;
  return kernels.target.tiles === true && terms !== 3 && size % SIDE === 0 && rows === "many";
}

/** Groups of keys, a sequence's key head after the other. */
function keyGroups(segments: readonly Segment[], kvHeads: number): number[] {
  const groups: number[] = [];
  for (const { key, keys } of segments) {
    for (let head = 0; head < kvHeads; head++) {
      for (let first = 0; first < keys; first += SIDE)
        groups.push(key + first, Math.min(SIDE, keys - first), head, first);
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

/** Columns of a stretch at least, and stretches of a sequence at most. */
const STRETCH_COLUMNS = 512;

/** Stretches of columns, the longest sums first, and the sums over them. */
function stretches(segments: readonly Segment[], kvHeads: number, group: number) {
  const items: number[][] = [];
  const sums: number[] = [];
  let [packed, sumGroups] = [0, 0];
  for (const { query, queries, key, keys } of segments) {
    const columns = queries * group;
    const length = Math.max(STRETCH_COLUMNS, Math.ceil(columns / MAX_STRETCHES / SIDE) * SIDE);
    for (let head = 0; head < kvHeads; head++) {
      const mine: { first: number; groups: number }[] = [];
      for (let first = 0; first < columns; first += length) {
        const count = Math.min(length, columns - first);
        const [at, last] = [Math.floor(first / group), Math.floor((first + count - 1) / group)];
        const sees = keys - queries + 1;
        const groups = Math.ceil((sees + last) / SIDE);
        items.push([query + at, first % group, count, sees + at, head, packed, sumGroups, groups]);
        mine.push({ first: sumGroups, groups });
        sumGroups += groups;
      }
      for (let at = 0; at < keys; at += SIDE) {
        const adding = mine.filter(({ groups }) => groups > at / SIDE).map(({ first }) => first + at / SIDE);
        const unused = Array.from({ length: MAX_STRETCHES - adding.length }, () => 0);
        sums.push(key + at, Math.min(SIDE, keys - at), head, adding.length, ...adding, ...unused);
      }
      packed += Math.ceil(keys / SIDE);
    }
  }
  const work = (item: readonly number[]) => item[STRETCH_ITEM.columns]! * item[STRETCH_ITEM.keys]!;
  return { items: items.sort((a, b) => work(b) - work(a)).flat(), sums, sumGroups };
}

/** Sequences of a call and what multiplies its scores. */
type Options = Pick<AttentionOptions, "segments" | "scale" | "keyRows" | "keyBias">;

/** Which forms of keys or values a call needs. */
interface Forms {
  readonly view: View;
  readonly bias?: AttentionOptions["keyBias"];
  readonly plain?: boolean;
  readonly transposed?: boolean;
}

interface Prepared {
  /** Addresses, in order: for each view its plain form, then its transposed one. */
  readonly packed: readonly number[];
  readonly tables: readonly number[];
  readonly flag: number;
}

/** Packs keys and values, writes tables, and runs `body`; false where numbers were met that tiles do not take. */
function prepared(
  cpu: CpuContext,
  { segments, keyRows, forms, tables }: Options & { forms: readonly Forms[]; tables: readonly number[][] },
  body: (prepared: Prepared) => void,
): boolean {
  const [, kvHeads, size] = forms[0]!.view.shape as [number, number, number];
  const parts = cpu.terms as Parts;
  const groups = keyGroups(segments, kvHeads);
  const count = groups.length / KEY_GROUP_WORDS;
  const formBytes = count * groupBytes(size, parts);
  const wanted = forms.reduce((sum, { plain, transposed }) => sum + Number(plain ?? 0) + Number(transposed ?? 0), 0);
  const words = [[0], groups, ...tables];
  const tableBytes = 4 * words.reduce((sum, table) => sum + table.length, 0);
  return cpu.scratch(wanted * formBytes + tableBytes, (scratch) => {
    const flag = scratch + wanted * formBytes;
    const addresses: number[] = [];
    let next = flag;
    for (const table of words) {
      cpu.touched();
      cpu.memory.i32(next, table.length).set(table);
      addresses.push(next);
      next += 4 * table.length;
    }
    const blocks = isBlocks(forms[0]!.view.dtype);
    const { address: workspace, slots } = cpu.workspace(packWorkspaceBytes(size, parts, blocks));
    const kernel = attentionTilesPack[parts][keyRows ? 1 : 0][blocks ? 1 : 0];
    const packed: number[] = [];
    let place = scratch;
    const take = (form: boolean | undefined): number => {
      if (!form) return 0;
      packed.push(place);
      place += formBytes;
      return packed.at(-1)!;
    };
    for (const { view, bias, ...form } of forms) {
      const { rows, rowsRow: row, rowsHead: head } = operand(cpu, "rows", view);
      const [plain, transposed] = [take(form.plain), take(form.transposed)];
      const values = {
        ...{ rows, row, head, plain, transposed, size, groups: addresses[1]!, flag, slots, workspace },
        ...keyBiasOperand(cpu, bias),
        keyRows: keyRows ? cpu.address(keyRows, "attention") : 0,
      };
      cpu.kernels.run(kernel, values, count);
    }
    body({ packed, tables: addresses.slice(2), flag });
    return cpu.memory.i32(flag, 1)[0] === 0;
  });
}

/** Runs attention forward; false where numbers were met that tiles do not take: the results are then to be made anew. */
export function attentionOnTiles(
  cpu: CpuContext,
  q: View,
  k: View,
  v: View,
  { segments, scale, keyRows, keyBias }: Options,
  out: View,
  lse: View | undefined,
): boolean {
  const [, heads, size] = q.shape as [number, number, number];
  const [kvHeads, parts] = [k.shape[1]!, cpu.terms as Parts];
  const group = heads / kvHeads;
  const items = columnItems(segments, kvHeads, group);
  const forms = [
    { view: k, plain: true, bias: keyBias },
    { view: v, transposed: true },
  ];
  return prepared(cpu, { segments, scale, keyRows, forms, tables: [items] }, ({ packed, tables, flag }) => {
    const { address: workspace, slots } = cpu.workspace(attentionTilesWorkspaceBytes(size, parts));
    const values = {
      ...{ ...operand(cpu, "q", q), ...operand(cpu, "out", out), packedK: packed[0]!, packedV: packed[1]! },
      ...{ lse: lse ? cpu.address(lse, "attention") : 0, headStride: lse?.strides[0] ?? 0, items: tables[0]! },
      ...{ group, scale: scale * Math.LOG2E, workspace, slots, flag },
    };
    cpu.kernels.run(attentionKernels(size, parts), values, items.length / COLUMN_ITEM_WORDS);
  });
}

/** Runs attention backward; false as above. */
export function attentionBackwardOnTiles(
  cpu: CpuContext,
  grad: View,
  q: View,
  k: View,
  v: View,
  out: View,
  lse: View,
  { segments, scale }: Options,
  gradQ: View,
  gradK: View,
  gradV: View,
): boolean {
  const [, heads, size] = q.shape as [number, number, number];
  const [kvHeads, parts] = [k.shape[1]!, cpu.terms as Parts];
  const group = heads / kvHeads;
  const { items, sums, sumGroups } = stretches(segments, kvHeads, group);
  // Tiles of the group after a sequence's last are loaded, and never looked at: something must follow.
  const forms = [
    { view: k, plain: true },
    { view: v, plain: true },
    { view: k, transposed: true },
  ];
  return prepared(cpu, { segments, scale, forms, tables: [items, sums] }, ({ packed, tables, flag }) => {
    const [packedK, packedV, turnedK] = packed as [number, number, number];
    const { address: workspace, slots } = cpu.workspace(attentionTilesBackwardWorkspaceBytes(size, parts));
    cpu.scratch(sumGroups * sumsBytes(size), (space) => {
      const values = {
        ...{ ...operand(cpu, "q", q), ...operand(cpu, "grad", grad), ...operand(cpu, "out", out) },
        ...{ ...operand(cpu, "gradQ", gradQ), packedK, packedV, turnedK, lse: cpu.address(lse, "attentionBackward") },
        ...{ headStride: lse.strides[0]!, group, scale: scale * Math.LOG2E, gradScale: scale, sums: space },
        ...{ items: tables[0]!, workspace, slots, flag },
      };
      const count = items.length / STRETCH_ITEM_WORDS;
      cpu.kernels.run(attentionTilesBackward(size, parts), values, count);
      const toKeys = { ...operand(cpu, "gradK", gradK), ...operand(cpu, "gradV", gradV) };
      const values2 = { ...toKeys, sums: space, size, items: tables[1]! };
      cpu.kernels.run(attentionTilesSum, values2, sums.length / SUM_ITEM_WORDS);
    });
  });
}
