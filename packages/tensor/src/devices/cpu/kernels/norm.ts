// RMSNorm (Zhang & Sennrich, 2019): rows of n elements, one item a row; and its gradients.
import { defineKernel } from "../lang/kernel.ts";
import { rowPointer, sumOver } from "./rows.ts";

type Weight = "f32*" | "bf16*";

/** out = x · r · weight with r = 1/√(mean(x²) + eps), which `rstd` receives. Row strides in elements. */
export const rmsNormKernel = (weight: Weight) =>
  defineKernel(
    "rmsNorm",
    {
      n: "index",
      inverseN: "f32",
      eps: "f32",
      x: "f32*",
      sx: "index",
      weight,
      out: "f32*",
      so: "index",
      rstd: "f32*",
    },
    (k, args) => {
      k.loop({ from: k.begin, to: k.end }, (row) => {
        const x = rowPointer(args.x, row, args.sx);
        const squares = sumOver(k, args.n, (i, count) => {
          const value = x.at(i).load(count);
          return value.mul(value);
        });
        const r = k.float(1).div(squares.mul(args.inverseN).add(args.eps).sqrt());
        args.rstd.at(row).store(r);
        const factor = r.splat();
        const out = rowPointer(args.out, row, args.so);
        const w = args.weight.fixed();
        k.vectors(args.n, (i, count) => {
          out.at(i).store(x.at(i).load(count).mul(factor).mul(w.at(i).load(count)), count);
        });
      });
    },
  );

/** With x̂ = x·r: out = r·(g·w − x̂·mean(g·w·x̂)), or that much more. */
export const rmsNormBackwardKernel = (weight: Weight, accumulate: boolean) =>
  defineKernel(
    "rmsNormBackward",
    {
      n: "index",
      inverseN: "f32",
      grad: "f32*",
      sg: "index",
      x: "f32*",
      sx: "index",
      weight,
      rstd: "f32*",
      out: "f32*",
      so: "index",
    },
    (k, args) => {
      k.loop({ from: k.begin, to: k.end }, (row) => {
        const grad = rowPointer(args.grad, row, args.sg);
        const x = rowPointer(args.x, row, args.sx);
        const w = args.weight.fixed();
        const r = args.rstd.at(row).loadF32();
        const sum = sumOver(k, args.n, (i, count) =>
          grad.at(i).load(count).mul(w.at(i).load(count)).mul(x.at(i).load(count)),
        );
        // x̂·mean(g·w·x̂) = x · r²·mean(g·w·x)
        const scale = sum.mul(args.inverseN).mul(r).mul(r).splat();
        const factor = r.splat();
        const out = rowPointer(args.out, row, args.so);
        k.vectors(args.n, (i, count) => {
          const direct = grad.at(i).load(count).mul(w.at(i).load(count));
          const change = x.at(i).load(count).fnma(scale, direct).mul(factor);
          out.at(i).store(accumulate ? out.at(i).load(count).add(change) : change, count);
        });
      });
    },
  );

/** out[i] = Σ over rows of g·x·r, in order; an item is one vector of columns. */
export const rmsNormWeightGradKernel = defineKernel(
  "rmsNormWeightGrad",
  { n: "index", rows: "index", grad: "f32*", sg: "index", x: "f32*", sx: "index", rstd: "f32*", out: "f32*" },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const column = item.mul(k.lanes);
      const count = args.n.sub(column);
      const grad = k.variable(args.grad.at(column).fixed());
      const x = k.variable(args.x.at(column).fixed());
      const rstd = k.variable(args.rstd.fixed());
      const sum = k.variable(k.zero());
      k.repeat(args.rows, () => {
        sum.addProduct(grad.load(count).mul(rstd.broadcast()), x.load(count));
        grad.advance(args.sg);
        x.advance(args.sx);
        rstd.advance(1);
      });
      args.out.at(column).store(sum, count);
    });
  },
);
