import type { Tensor } from "@tslm/tensor";

/** A matrix in the host's memory, row after row, in f64. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float64Array;
}

/** The values of a tensor [rows, columns]; bf16 and quantised blocks as the numbers they stand for. */
export async function matrixOf(t: Tensor): Promise<Matrix> {
  const wide = t.dtype === "f32" || t.dtype === "f64" ? t : t.to("f32");
  try {
    const [rows, columns] = t.shape;
    return { rows, columns, values: Float64Array.from(await wide.data()) };
  } finally {
    if (wide !== t) wide.dispose();
  }
}

/** Σ aᵢ·bᵢ over `n` numbers from the given places. */
export function dot(a: Float64Array, atA: number, b: Float64Array, atB: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[atA + i] * b[atB + i];
  return sum;
}

/** to += factor·x. */
export function addScaled(to: Float64Array, factor: number, x: Float64Array, atX = 0): void {
  for (let i = 0; i < to.length; i++) to[i] += factor * x[atX + i];
}

/** A·x, [rows]. */
export function times({ rows, columns, values }: Matrix, x: Float64Array): Float64Array {
  return Float64Array.from({ length: rows }, (_, r) => dot(values, r * columns, x, 0, columns));
}

/** Aᵀ·x, [columns]. */
export function timesTransposed({ rows, columns, values }: Matrix, x: Float64Array): Float64Array {
  const out = new Float64Array(columns);
  for (let r = 0; r < rows; r++) addScaled(out, x[r], values, r * columns);
  return out;
}
