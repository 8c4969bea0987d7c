import type { Matrix } from "../linalg/matrix.ts";
import { largestSingular } from "../linalg/svd.ts";
import type { Factors } from "./from-base.ts";

/**
 * PiSSA (Meng et al., 2024): A and B are the r principal components of the weight W = U·S·Vᵀ, B = U·√(S/s) and
 * A = √(S/s)·Vᵀ for the scaling s. PEFT's `pissa_niter_N` is a fast approximation of the same; this decomposition is fast
 * enough to be exact for both.
 */
export function pissa(weight: Matrix, rank: number, scaling: number): Factors {
  const { s, u, v } = largestSingular(weight, rank);
  const share = s.map((value) => Math.sqrt(value / scaling));
  return {
    a: v.map((row, i) => row.map((x) => x * share[i])),
    b: u.map((column, i) => column.map((x) => x * share[i])),
  };
}
