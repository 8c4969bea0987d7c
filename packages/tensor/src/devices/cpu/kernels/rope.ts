// Rotary position embedding (Su et al., 2021) in halves, as transformers applies it; one item a row of heads.
import { defineKernel } from "../lang/kernel.ts";
import { rowPointer } from "./rows.ts";

/**
 * (a, b) → (a·cos − b·sin, b·cos + a·sin) for a in the lower and b in the upper half of every head. `cos` and `sin` are
 * [rows, half]; `sx`, `so` are elements between rows, `hx`, `ho` between heads.
 */
export const ropeKernel = defineKernel(
  "rope",
  {
    ...{ heads: "index", half: "index", cos: "f32*", sin: "f32*" },
    ...{ x: "f32*", sx: "index", hx: "index", out: "f32*", so: "index", ho: "index" },
  },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const cos = rowPointer(args.cos, row, args.half);
      const sin = rowPointer(args.sin, row, args.half);
      const x = k.variable(rowPointer(args.x, row, args.sx));
      const out = k.variable(rowPointer(args.out, row, args.so));
      k.repeat(args.heads, () => {
        const upperX = x.at(args.half).fixed();
        const upperOut = out.at(args.half).fixed();
        k.vectors(args.half, (i, count) => {
          const c = cos.at(i).load(count);
          const s = sin.at(i).load(count);
          const a = x.at(i).load(count);
          const b = upperX.at(i).load(count);
          out.at(i).store(b.fnma(s, a.mul(c)), count);
          upperOut.at(i).store(a.fma(s, b.mul(c)), count);
        });
        x.advance(args.hx);
        out.advance(args.ho);
      });
    });
  },
);
