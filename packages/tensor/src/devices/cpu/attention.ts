// Attention: the items of a call, and the kernels' arguments.
import type { AttentionOptions, View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { attentionKernel, FORWARD_ITEM_FIELDS, forwardWorkspace } from "./kernels/attention-forward.ts";
import { attentionTile } from "./kernels/attention-tile.ts";

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

/** Writes fields of items as 64-bit integers and runs `body` with their address. */
function withItems(cpu: CpuContext, items: readonly number[], body: (address: number) => void): void {
  cpu.scratch(8 * items.length, (address) => {
    const words = cpu.memory.i32(address, 2 * items.length);
    for (const [i, value] of items.entries()) {
      words[2 * i] = value;
      words[2 * i + 1] = 0;
    }
    body(address);
  });
}

export function attention(
  cpu: CpuContext,
  q: View,
  k: View,
  v: View,
  { segments, scale }: AttentionOptions,
  out: View,
  lse: View | undefined,
): boolean {
  if (!usable([q, k, v, out]) || (lse && (lse.dtype !== "f32" || lse.strides[1] !== 1))) return false;
  const [, heads, size] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const group = heads / kvHeads;
  if (size === 0) return false;
  const { target } = cpu.kernels;
  const { rows } = attentionTile(target);
  const subtiles = Math.max(1, Math.ceil(ROW_TILES / group));
  const items: number[] = [];
  for (const segment of segments) {
    for (let first = 0; first < segment.queries; first += rows * subtiles) {
      const queries = Math.min(rows * subtiles, segment.queries - first);
      const sees = segment.keys - segment.queries + first + 1;
      for (let head = 0; head < kvHeads; head++) items.push(segment.query + first, queries, segment.key, sees, head);
    }
  }
  if (items.length === 0) return true;
  const space = forwardWorkspace(target, size, group * subtiles);
  const { address: workspace, slots } = cpu.workspace(4 * space.total);
  withItems(cpu, items, (work) => {
    const values = {
      ...{ ...operand(cpu, "q", q), ...operand(cpu, "k", k), ...operand(cpu, "v", v) },
      ...{ out: cpu.address(out, "attention"), so: out.strides[0]!, ho: out.strides[1]! },
      ...{ lse: lse ? cpu.address(lse, "attention") : 0, lseRows: lse?.strides[0] ?? 0, wantLse: lse ? 1 : 0 },
      ...{ work, size, group, subtiles, scale, ...space, workspace, slots },
    };
    cpu.kernels.run(attentionKernel, values, items.length / FORWARD_ITEM_FIELDS);
  });
  return true;
}
