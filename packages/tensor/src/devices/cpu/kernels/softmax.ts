// Softmax along rows, each finished while it lies in the first-level cache: maximum, exponentials with their sum, scaling.
import { defineKernel } from "../lang/kernel.ts";
import type { VF } from "../lang/values.ts";
import { rowPointer } from "./rows.ts";
import { expOfNegative } from "./vector-math.ts";

/** Maxima kept apart: one after another each would wait for the one before. */
const CHAINS = 4;

/**
 * out = exp(x − max) / Σ exp(x − max) of each row of `n` elements, strides in elements; exponentials below 2⁻¹²⁶ are 0. A NaN
 * or +∞ makes its row NaN. `ones` points to as many f32 ones as a vector has lanes.
 */
export const softmaxKernel = defineKernel(
  "softmax",
  { n: "index", x: "f32*", sx: "index", out: "f32*", so: "index", ones: "f32*" },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const x = rowPointer(args.x, row, args.sx);
      const out = rowPointer(args.out, row, args.so);
      const n = k.variable(args.n);
      const whole = n.alignDown(k.lanes);
      const rounds = n.alignDown(CHAINS * k.lanes);
      const rest = n.sub(whole);
      const lowest = k.vector(Number.NEGATIVE_INFINITY);
      // Lanes beyond the end count for nothing.
      const counted = (value: VF, other: VF) => args.ones.load(rest).compare("ne", 0).select(value, other);

      // A NaN may get lost here; its own exponential is one again, and so is the sum.
      const greatest = Array.from({ length: CHAINS }, () => k.variable(lowest));
      k.loop({ to: rounds, step: CHAINS * k.lanes }, (i) =>
        greatest.forEach((maximum, c) => {
          maximum.set(
            maximum.max(
              x
                .at(i)
                .at(c * k.lanes)
                .load(),
            ),
          );
        }),
      );
      const [first] = greatest;
      k.loop({ from: rounds, to: whole, step: k.lanes }, (i) => first!.set(first!.max(x.at(i).load())));
      k.if(rest.gt(0), () => first!.set(first!.max(counted(x.at(whole).load(rest), lowest))));
      const shift = greatest
        .reduce((a: VF, b) => a.max(b))
        .maximum()
        .splat();

      const sum = k.variable(k.zero());
      const from = k.variable(x);
      const to = k.variable(out);
      const step = (vectors: number) => () => {
        for (let v = 0; v < vectors; v++) {
          const value = expOfNegative(
            k,
            from
              .at(v * k.lanes)
              .load()
              .sub(shift),
          );
          to.at(v * k.lanes).store(value);
          sum.set(sum.add(value));
        }
        from.advance(vectors * k.lanes);
        to.advance(vectors * k.lanes);
      };
      k.loop({ to: rounds, step: CHAINS * k.lanes, maySpill: true }, step(CHAINS));
      k.loop({ from: rounds, to: whole, step: k.lanes }, step(1));
      k.if(rest.gt(0), () => {
        const value = expOfNegative(k, x.at(whole).load(rest).sub(shift));
        out.at(whole).store(value, rest);
        sum.set(sum.add(counted(value, k.zero())));
      });

      const scale = k.vector(1).div(sum.sum().splat());
      const place = k.variable(out);
      k.loop({ to: rounds, step: CHAINS * k.lanes }, () => {
        for (let v = 0; v < CHAINS; v++)
          place.at(v * k.lanes).store(
            place
              .at(v * k.lanes)
              .load()
              .mul(scale),
          );
        place.advance(CHAINS * k.lanes);
      });
      k.vectors(n.sub(rounds), (i, count) => place.at(i).store(place.at(i).load(count).mul(scale), count));
    });
  },
);
