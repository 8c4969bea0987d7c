// AdamW (Loshchilov & Hutter, 2019) as PyTorch computes it; an item is a piece of `columns` elements.
import { defineKernel } from "../lang/kernel.ts";

/**
 * g = grad·gradScale; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; param = param·decay − rate·m / (√v·inverseCorrection2 + eps).
 * `decay` is 1 − lr·weightDecay, `rate` lr/(1−β₁ᵗ), `inverseCorrection2` 1/√(1−β₂ᵗ).
 */
export const adamWKernel = defineKernel(
  "adamW",
  {
    ...{ columns: "index", total: "index", param: "f32*", grad: "f32*", m: "f32*", v: "f32*" },
    ...{ beta1: "f32", oneMinusBeta1: "f32", beta2: "f32", oneMinusBeta2: "f32", gradScale: "f32" },
    ...{ decay: "f32", rate: "f32", inverseCorrection2: "f32", eps: "f32" },
  },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const first = item.mul(args.columns);
      const n = args.columns.min(args.total.sub(first));
      const [param, grad, m, v] = [args.param, args.grad, args.m, args.v].map((p) => p.at(first).fixed());
      k.vectors(n, (i, count) => {
        const g = grad!.at(i).load(count).mul(args.gradScale.splat());
        const mean = m!.at(i).load(count).mul(args.beta1.splat()).add(g.mul(args.oneMinusBeta1.splat()));
        const square = v!.at(i).load(count).mul(args.beta2.splat()).add(g.mul(g).mul(args.oneMinusBeta2.splat()));
        m!.at(i).store(mean, count);
        v!.at(i).store(square, count);
        const divisor = square.sqrt().mul(args.inverseCorrection2.splat()).add(args.eps.splat());
        const kept = param!.at(i).load(count).mul(args.decay.splat());
        param!.at(i).store(kept.sub(mean.mul(args.rate.splat()).div(divisor)), count);
      });
    });
  },
);
