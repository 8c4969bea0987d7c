// How attention's kernels are told of their views.
import type { View } from "../device.ts";
import type { CpuContext } from "./context.ts";

/** Address and strides of a [rows, heads, size] view under the kernels' names for them. */
export function operand<N extends string>(cpu: CpuContext, name: N, view: View) {
  const [row, head] = view.strides as [number, number];
  const values = { [name]: cpu.address(view, "attention"), [`${name}Row`]: row, [`${name}Head`]: head };
  return values as Record<N | `${N}Row` | `${N}Head`, number>;
}
