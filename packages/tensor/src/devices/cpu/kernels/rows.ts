// What kernels over rows have in common.
import type { Builder } from "../lang/builder.ts";
import type { F32, Index, Pointer, VF } from "../lang/values.ts";

/** Where row `row` begins, in a register of its own. */
export function rowPointer(first: Pointer, row: Index, stride: Index): Pointer {
  return first.at(row.mul(stride)).fixed();
}

/** The sum over i < n of `term(i, count)`, in one vector of partial sums; terms of lanes beyond `count` must be 0. */
export function sumOver(k: Builder, n: Index, term: (i: Index, count?: Index) => VF): F32 {
  const sum = k.variable(k.zero());
  k.vectors(n, (i, count) => sum.set(sum.add(term(i, count))));
  return sum.sum();
}

/** `k.vectors` for code made from an expression, which may hold more values at once than there are registers. */
export function generatedVectors(k: Builder, n: Index, body: (i: Index, count?: Index) => void): void {
  const whole = n.alignDown(k.lanes);
  k.loop({ to: whole, step: k.lanes, maySpill: true }, (i) => body(i));
  const rest = n.sub(whole);
  k.if(rest.gt(0), () => body(whole, rest));
}
