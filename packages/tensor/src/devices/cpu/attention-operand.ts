// How attention's kernels are told of their views.
import { BYTES, isBlocks } from "../../dtype.ts";
import type { KeyBias, View } from "../device.ts";
import type { CpuContext } from "./context.ts";

/** Address and strides (in bytes where it is blocks) of a [rows, heads, size] view under the kernels' names for them. */
export function operand<N extends string>(cpu: CpuContext, name: N, view: View) {
  const unit = isBlocks(view.dtype) ? BYTES[view.dtype] : 1;
  const [row, head] = view.strides.map((stride) => stride * unit) as [number, number];
  const values = { [name]: cpu.address(view, "attention"), [`${name}Row`]: row, [`${name}Head`]: head };
  return values as Record<N | `${N}Row` | `${N}Head`, number>;
}

/** A bias of keys under the kernels' names; none is one of zeros. */
export function keyBiasOperand(cpu: CpuContext, given: KeyBias | undefined) {
  if (!given) return { bias: cpu.zeros, biasHead: 0, rotations: cpu.zeros, rotationsRow: 0 };
  const { bias, rotations } = given;
  return {
    ...{ bias: cpu.address(bias, "attention"), biasHead: bias.strides[0]! },
    ...{ rotations: cpu.address(rotations, "attention"), rotationsRow: rotations.strides[0]! },
  };
}
