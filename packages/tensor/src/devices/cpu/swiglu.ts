// The gated activation: which kernel, with which arguments.
import type { View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { planRows, type RowPlan, rowChunk } from "./iteration.ts";
import { swigluBackwardKernel, swigluKernel } from "./kernels/swiglu.ts";

/** Plans a call over f32 views whose last dimension is dense; undefined for others. */
function plansOf(views: readonly View[]): RowPlan[] | undefined {
  if (views.some((view) => view.dtype !== "f32")) return undefined;
  const plans = planRows(views);
  return plans?.every(({ columns, views }) => columns === 1 || views.every(({ step }) => step === 1))
    ? plans
    : undefined;
}

/** Runs out = gate·σ(gate)·up; false where no kernel takes the types or strides. */
export function swiglu(cpu: CpuContext, gate: View, up: View, out: View): boolean {
  const views = [gate, up, out];
  const plans = plansOf(views);
  if (!plans) return false;
  for (const { rows, columns, total, views: places } of plans) {
    const [g, u, o] = placesOf(cpu, "swiglu", views, places);
    cpu.kernels.run(
      swigluKernel,
      { columns, total, gate: g!.at, sg: g!.row, up: u!.at, su: u!.row, out: o!.at, so: o!.row },
      rows,
      rowChunk(columns),
    );
  }
  return true;
}

/** Runs both gradients of swiglu; false where no kernel takes the types or strides. */
export function swigluBackward(
  cpu: CpuContext,
  grad: View,
  gate: View,
  up: View,
  gradGate: View,
  gradUp: View,
): boolean {
  const views = [grad, gate, up, gradGate, gradUp];
  const plans = plansOf(views);
  if (!plans) return false;
  for (const { rows, columns, total, views: places } of plans) {
    const [d, g, u, gg, gu] = placesOf(cpu, "swigluBackward", views, places);
    cpu.kernels.run(
      swigluBackwardKernel,
      {
        ...{ columns, total, grad: d!.at, sd: d!.row, gate: g!.at, sg: g!.row, up: u!.at, su: u!.row },
        ...{ gradGate: gg!.at, sgg: gg!.row, gradUp: gu!.at, sgu: gu!.row },
      },
      rows,
      rowChunk(columns),
    );
  }
  return true;
}

/** Address of each view's first row in a plan, and elements from row to row. */
function placesOf(cpu: CpuContext, op: string, views: readonly View[], places: RowPlan["views"]) {
  return views.map((view, v) => ({
    at: cpu.address(view, op) + 4 * (places[v]!.offset - view.offset),
    row: places[v]!.rowStride,
  }));
}
