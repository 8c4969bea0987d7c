import { Matrix as Dense, SVD } from "ml-matrix";
import { addScaled, dot, type Matrix, times, timesTransposed } from "./matrix.ts";

/** The largest singular values, falling, and their vectors: A ≈ Σ s[i]·u[i]·v[i]ᵀ; u[i] is [rows], v[i] [columns]. */
export interface Singular {
  readonly s: readonly number[];
  readonly u: readonly Float64Array[];
  readonly v: readonly Float64Array[];
}

/** What a vector may miss of being singular, in parts of the largest value. */
const TOLERANCE = 1e-12;

/**
 * The `count` largest singular values of a matrix and their vectors, in f64: bidiagonalisation by Golub, Kahan and Lanczos
 * with full reorthogonalisation (Golub & Kahan, 1965; Simon & Zha, 2000), whose small matrix is decomposed by ml-matrix. It
 * goes on until they are found to rounding, at worst until the whole matrix is bidiagonal.
 *
 * @param count at most the smaller of the matrix's two sizes
 */
export function largestSingular(a: Matrix, count: number): Singular {
  if (a.columns > a.rows) {
    const { s, u, v } = bidiagonal(
      (x) => timesTransposed(a, x),
      (x) => times(a, x),
      [a.columns, a.rows],
      count,
    );
    return { s, u: v, v: u };
  }
  return bidiagonal(
    (x) => times(a, x),
    (x) => timesTransposed(a, x),
    [a.rows, a.columns],
    count,
  );
}

type Product = (x: Float64Array) => Float64Array;

/** For a matrix with at least as many rows as columns, given by its products. */
function bidiagonal(
  forward: Product,
  backward: Product,
  [rows, columns]: readonly [number, number],
  count: number,
): Singular {
  const draw = numbers();
  const [us, vs]: Float64Array[][] = [[], []];
  const [alphas, betas]: number[][] = [[], []];
  let [scale, broke] = [0, false];
  let next = 2 * count + 20;
  /** What is left of x beside the vectors: its length, and it as a unit vector; another one where nothing is left. */
  const orthogonal = (x: Float64Array, to: readonly Float64Array[]): number => {
    for (let twice = 0; twice < 2; twice++) for (const y of to) addScaled(x, -dot(y, 0, x, 0, x.length), y);
    const length = Math.sqrt(dot(x, 0, x, 0, x.length));
    scale = Math.max(scale, length);
    if (length > scale * Number.EPSILON * columns) {
      for (let i = 0; i < x.length; i++) x[i] /= length;
      return length;
    }
    broke = true;
    if (to.length < x.length) {
      for (let i = 0; i < x.length; i++) x[i] = draw();
      const before = scale;
      scale = 0;
      orthogonal(x, to);
      scale = before;
    }
    return 0;
  };
  const start = Float64Array.from({ length: columns }, draw);
  orthogonal(start, []);
  [scale, broke] = [0, false];
  vs.push(start);
  for (;;) {
    const step = us.length;
    const u = forward(vs[step]);
    if (step > 0) addScaled(u, -betas[step - 1], us[step - 1]);
    alphas.push(orthogonal(u, us));
    us.push(u);
    const done = us.length;
    const v = backward(u);
    addScaled(v, -alphas[step], vs[step]);
    const beta = done === columns ? 0 : orthogonal(v, vs);
    // Where the space closed early, larger values may lie outside of it, so everything is looked at.
    if (done < columns && (broke || done < next)) {
      betas.push(beta);
      vs.push(v);
      continue;
    }
    const { s, left, right } = small(alphas, betas);
    const unsure = done === columns ? 0 : beta;
    const found = Array.from({ length: count }, (_, i) => i);
    if (found.every((i) => Math.abs(unsure * left.get(done - 1, i)) <= TOLERANCE * s[0])) {
      const combine = (basis: readonly Float64Array[], by: Dense, size: number) =>
        found.map((i) => {
          const sum = new Float64Array(size);
          for (let k = 0; k < done; k++) addScaled(sum, by.get(k, i), basis[k]);
          return sum;
        });
      return { s: s.slice(0, count), u: combine(us, left, rows), v: combine(vs, right, columns) };
    }
    next = Math.ceil(1.4 * done);
    betas.push(beta);
    vs.push(v);
  }
}

/** The decomposition of the upper bidiagonal matrix. */
function small(diagonal: readonly number[], above: readonly number[]): { s: number[]; left: Dense; right: Dense } {
  const n = diagonal.length;
  const matrix = Dense.zeros(n, n);
  for (let i = 0; i < n; i++) {
    matrix.set(i, i, diagonal[i]);
    if (i + 1 < n) matrix.set(i, i + 1, above[i]);
  }
  const { diagonal: s, leftSingularVectors: left, rightSingularVectors: right } = new SVD(matrix);
  return { s, left, right };
}

/** Numbers from −½ to ½ for a start that no matrix was made against, the same every time (mulberry32). */
function numbers(): () => number {
  let state = 1;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32 - 0.5;
  };
}
