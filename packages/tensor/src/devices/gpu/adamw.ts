// AdamW: parameter and both moments in one pass.
import { input, param } from "../../expr/expr.ts";
import type { AdamWArgs, View } from "../device.ts";
import type { GpuContext } from "./context.ts";
import { map } from "./elementwise.ts";

const [p, rawGradient, m, v, scale] = [0, 1, 2, 3, 4].map(input);
const [beta1, rest1, beta2, rest2, decay, rate, root, eps] = [0, 1, 2, 3, 4, 5, 6, 7].map(param);
const update = (g: typeof p) => {
  const m1 = m.mul(beta1).add(g.mul(rest1));
  const v1 = v.mul(beta2).add(g.mul(g).mul(rest2));
  return { p: p.mul(decay).sub(m1.mul(rate).div(v1.sqrt().mul(root).add(eps))), m: m1, v: v1 };
};
const PLAIN = update(rawGradient);
const SCALED = update(rawGradient.mul(scale));

/** The definition is `Device.adamW`'s. */
export function adamW(gpu: GpuContext, args: AdamWArgs): void {
  const { param: parameter, grad, m: first, v: second, gradScale, step } = args;
  const spread = (one: View): View => ({ ...one, shape: parameter.shape, strides: parameter.shape.map(() => 0) });
  const roots = gradScale ? SCALED : PLAIN;
  const numbers = [
    ...[args.beta1, 1 - args.beta1, args.beta2, 1 - args.beta2],
    1 - args.lr * args.weightDecay,
    args.lr / (1 - args.beta1 ** step),
    1 / Math.sqrt(1 - args.beta2 ** step),
    args.eps,
  ];
  const inputs = [parameter, grad, first, second, ...(gradScale ? [spread(gradScale)] : [])];
  const outputs = [
    { root: roots.p, view: parameter },
    { root: roots.m, view: first },
    { root: roots.v, view: second },
  ];
  map(gpu, "adamW", numbers, inputs, outputs);
}
