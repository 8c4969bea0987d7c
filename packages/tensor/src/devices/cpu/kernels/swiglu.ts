// silu(gate)·up (Shazeer, 2020), forward and both gradients in one pass each.
import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import type { Index, VF } from "../lang/values.ts";
import { rowPointer } from "./rows.ts";
import { sigmoid } from "./vector-math.ts";

/** Rows of `columns` elements, `total` in all; an item is a row. Strides in elements. */
const rows = { columns: "index", total: "index" } as const;
const given = { ...rows, gate: "f32*", sg: "index", up: "f32*", su: "index" } as const;

/** Elements of row `row`. */
const lengthOf = (columns: Index, total: Index, row: Index): Index => columns.min(total.sub(row.mul(columns)));

export const swigluKernel = defineKernel("swiglu", { ...given, out: "f32*", so: "index" }, (k, args) => {
  k.loop({ from: k.begin, to: k.end }, (row) => {
    const gate = rowPointer(args.gate, row, args.sg);
    const up = rowPointer(args.up, row, args.su);
    const out = rowPointer(args.out, row, args.so);
    k.vectors(lengthOf(args.columns, args.total, row), (i, count) => {
      const x = gate.at(i).load(count);
      out.at(i).store(x.mul(sigmoid(k, x)).mul(up.at(i).load(count)), count);
    });
  });
});

/** silu(x) and its derivative σ(x)·(1 + x·(1 − σ(x))), by one σ. */
function siluAndDerivative(k: Builder, x: VF): [VF, VF] {
  const s = sigmoid(k, x);
  const silu = x.mul(s);
  return [silu, silu.fnma(s, silu.add(s))];
}

/** The outputs may be the inputs themselves. */
export const swigluBackwardKernel = defineKernel(
  "swigluBackward",
  { ...given, grad: "f32*", sd: "index", gradGate: "f32*", sgg: "index", gradUp: "f32*", sgu: "index" },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const grad = rowPointer(args.grad, row, args.sd);
      const gate = rowPointer(args.gate, row, args.sg);
      const up = rowPointer(args.up, row, args.su);
      const gradGate = rowPointer(args.gradGate, row, args.sgg);
      const gradUp = rowPointer(args.gradUp, row, args.sgu);
      k.vectors(lengthOf(args.columns, args.total, row), (i, count) => {
        const [silu, derivative] = siluAndDerivative(k, gate.at(i).load(count));
        const g = grad.at(i).load(count);
        const toGate = g.mul(up.at(i).load(count)).mul(derivative);
        gradUp.at(i).store(g.mul(silu), count);
        gradGate.at(i).store(toGate, count);
      });
    });
  },
);
