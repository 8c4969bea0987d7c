// Softmax over a vocabulary that arrives in blocks: the running maximum and sum of a row, rescaled as in flash attention.
import { defineKernel } from "../lang/kernel.ts";
import { rowPointer } from "./rows.ts";
import { exp } from "./vector-math.ts";

/**
 * Takes one block of logits, `n` a row, into the rows' running `maximum` and `sum` of exponentials, turns the logits into
 * exponentials relative to the new maximum, and rescales the `width` sums of each row in `carried` (0: none) to it.
 */
export const softmaxBlockKernel = defineKernel(
  "softmaxBlock",
  {
    ...{ n: "index", logits: "f32*", sl: "index", maximum: "f32*", sum: "f32*" },
    ...{ carried: "f32*", sc: "index", width: "index" },
  },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const logits = rowPointer(args.logits, row, args.sl);
      const whole = args.n.alignDown(k.lanes);
      const before = args.maximum.at(row).loadF32();
      const greatest = k.variable(before.splat());
      k.loop({ to: whole, step: k.lanes }, (i) => greatest.set(greatest.max(logits.at(i).load())));
      const maximum = k.variable(greatest.maximum());
      k.loop({ from: whole, to: args.n }, (i) => maximum.set(maximum.max(logits.at(i).loadF32())));
      args.maximum.at(row).store(maximum);

      const shift = maximum.splat();
      const sums = k.variable(k.zero());
      const rest = k.variable(k.float(0));
      k.vectors(args.n, (i, count) => {
        const place = logits.at(i);
        const value = exp(k, place.load(count).sub(shift));
        place.store(value, count);
        if (count === undefined) sums.set(sums.add(value));
      });
      // Lanes beyond the end would count as e⁰, so the last few are summed one by one.
      k.loop({ from: whole, to: args.n }, (i) => rest.set(rest.add(logits.at(i).loadF32())));

      const factor = exp(k, before.splat().sub(shift));
      const total = args.sum.at(row).loadF32().splat().fma(factor, sums.sum().add(rest).splat());
      args.sum.at(row).store(total.maximum());
      const carried = rowPointer(args.carried, row, args.sc);
      k.vectors(args.width, (i, count) => {
        const place = carried.at(i);
        place.store(place.load(count).mul(factor), count);
      });
    });
  },
);

/** logits = exp(logits − shift[row]) · scale[row], in place: probabilities times a factor, given log-sum-exp as shift. */
export const softmaxGradKernel = defineKernel(
  "softmaxGrad",
  { n: "index", logits: "f32*", sl: "index", shift: "f32*", scale: "f32*" },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const logits = rowPointer(args.logits, row, args.sl);
      const shift = args.shift.at(row).broadcast();
      const scale = args.scale.at(row).broadcast();
      k.vectors(args.n, (i, count) => {
        const place = logits.at(i);
        place.store(exp(k, place.load(count).sub(shift)).mul(scale), count);
      });
    });
  },
);
