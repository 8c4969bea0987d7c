// Inverted dropout (Srivastava et al., 2014).
import { defineKernel } from "../lang/kernel.ts";
import type { Index } from "../lang/values.ts";
import { dropoutDraws } from "./philox.ts";
import { rowPointer } from "./rows.ts";

/**
 * out = x · scale where an element is kept, else 0. `places` is [rows, 2]: sequence and token of a row; `constants` as
 * `writeDropout` fills them. Items are rows of n elements.
 */
export const dropoutKernel = defineKernel(
  "dropout",
  {
    ...{ n: "index", scale: "f32", places: "f32*", constants: "f32*" },
    ...{ x: "f32*", sx: "index", out: "f32*", so: "index" },
  },
  (k, args) => {
    const draws = dropoutDraws(k, args.constants);
    const scale = args.scale.splat();
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const x = rowPointer(args.x, row, args.sx);
      const out = rowPointer(args.out, row, args.so);
      const place = args.places.at(row.mul(2)).fixed();
      const step = (i: Index, rest?: Index): void =>
        draws.mayDrop(place, i).forEach((keep, v) => {
          const count = rest?.sub(v * k.lanes);
          const at = i.add(v * k.lanes);
          out.at(at).store(keep(x.at(at).load(count).mul(scale)), count);
        });
      const whole = args.n.alignDown(draws.span);
      k.loop({ to: whole, step: draws.span }, (i) => step(i));
      const rest = args.n.sub(whole);
      k.if(rest.gt(0), () => step(whole, rest));
    });
  },
);
