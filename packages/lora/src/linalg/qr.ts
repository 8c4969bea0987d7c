import { dot, type Matrix, timesTransposed } from "./matrix.ts";

/**
 * The first `count` columns of Q and rows of R of A = Q·R by Householder's reflections, in the signs of LAPACK's
 * `geqrf`, which PyTorch uses. They need the first `count` columns of A alone, and R = Qᵀ·A: for few of them this costs
 * a small part of the whole decomposition.
 *
 * @param count at most the smaller of A's two sizes
 * @returns columns of Q, [rows] each, and rows of R, [columns] each
 */
export function firstOfQr(a: Matrix, count: number): { q: Float64Array[]; r: Float64Array[] } {
  const { rows, columns, values } = a;
  const work = Array.from({ length: count }, (_, c) =>
    Float64Array.from({ length: rows }, (_, i) => values[i * columns + c]),
  );
  // Reflection k is 1 − τ·v·vᵀ with v zero above k.
  const reflections: { v: Float64Array; tau: number }[] = [];
  const reflect = ({ v, tau }: { v: Float64Array; tau: number }, x: Float64Array, from: number): void => {
    const share = tau * dot(v, from, x, from, rows - from);
    for (let i = from; i < rows; i++) x[i] -= share * v[i];
  };
  for (let k = 0; k < count; k++) {
    const x = work[k];
    reflections.forEach((reflection, at) => {
      reflect(reflection, x, at);
    });
    const v = x.slice().fill(0, 0, k);
    const below = Math.sqrt(dot(x, k + 1, x, k + 1, rows - k - 1));
    // As LAPACK: a column that is zero below its diagonal is left as it is.
    if (below === 0) {
      reflections.push({ v: v.fill(0), tau: 0 });
      continue;
    }
    const beta = -Math.sign(x[k] || 1) * Math.hypot(x[k], below);
    v[k] = x[k] - beta;
    reflections.push({ v, tau: 2 / dot(v, k, v, k, rows - k) });
  }
  const q = Array.from({ length: count }, (_, c) => {
    const column = new Float64Array(rows);
    column[c] = 1;
    for (let k = count - 1; k >= 0; k--) reflect(reflections[k], column, k);
    return column;
  });
  return { q, r: q.map((column) => timesTransposed(a, column)) };
}
