// SwiGLU and its gradients as elementwise programs.
import { constant, input, sigmoid } from "../../expr/expr.ts";
import type { View } from "../device.ts";
import type { GpuContext } from "./context.ts";
import { map } from "./elementwise.ts";

const [x, u, g] = [input(0), input(1), input(2)];
const SWIGLU = x.mul(sigmoid(x)).mul(u);
const TO_GATE = g
  .mul(u)
  .mul(sigmoid(x))
  .mul(x.mul(constant(1).sub(sigmoid(x))).add(1));
const TO_UP = g.mul(x).mul(sigmoid(x));

/** The definition is `Device.swiglu`'s. */
export function swiglu(gpu: GpuContext, gate: View, up: View, out: View): void {
  map(gpu, "swiglu", [], [gate, up], [{ root: SWIGLU, view: out }]);
}

/** The definition is `Device.swigluBackward`'s. */
export function swigluBackward(gpu: GpuContext, grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
  const outputs = [
    { root: TO_GATE, view: gradGate },
    { root: TO_UP, view: gradUp },
  ];
  map(gpu, "swigluBackward", [], [gate, up, grad], outputs);
}
