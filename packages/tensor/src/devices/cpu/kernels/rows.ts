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
