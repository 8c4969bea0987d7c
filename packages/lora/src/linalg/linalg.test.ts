import { expect, test } from "bun:test";
import { Matrix as Dense, QR, SVD } from "ml-matrix";
import type { Matrix } from "./matrix.ts";
import { firstOfQr } from "./qr.ts";
import { largestSingular } from "./svd.ts";

function matrix(rows: number, columns: number, at: (r: number, c: number) => number): Matrix {
  return {
    rows,
    columns,
    values: Float64Array.from({ length: rows * columns }, (_, i) => at(Math.floor(i / columns), i % columns)),
  };
}
const wavy = (r: number, c: number): number => Math.sin(1 + 12.9898 * r + 78.233 * c + r * c) * (1 + (c % 3));
const dense = ({ rows, columns, values }: Matrix): Dense =>
  new Dense(Array.from({ length: rows }, (_, r) => [...values.slice(r * columns, (r + 1) * columns)]));

const furthest = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i])));
const inner = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((sum, x, i) => sum + x * b[i], 0);

test.each([
  ["tall", matrix(90, 40, wavy), 5],
  ["wide", matrix(40, 90, wavy), 5],
  ["square, all of them", matrix(12, 12, wavy), 12],
  ["a column", matrix(7, 1, wavy), 1],
  ["of rank 2", matrix(30, 20, (r, c) => r * (c + 1) + Math.cos(r) * Math.sin(c)), 4],
  ["equal values: a start meets one vector of each", matrix(30, 30, (r, c) => (r === c ? (r < 10 ? 5 : 1) : 0)), 6],
  ["zeros", matrix(8, 6, () => 0), 3],
])("singular values and vectors of a matrix that is %s", (_, a, count) => {
  const { s, u, v } = largestSingular(a, count);
  expect(furthest(s, new SVD(dense(a), { autoTranspose: true }).diagonal)).toBeLessThan(1e-9 * (1 + s[0]));
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      expect(Math.abs(inner(u[i], u[j]) - Number(i === j))).toBeLessThan(1e-9);
      expect(Math.abs(inner(v[i], v[j]) - Number(i === j))).toBeLessThan(1e-9);
    }
    const image = Array.from({ length: a.rows }, (_, r) =>
      inner(a.values.slice(r * a.columns, (r + 1) * a.columns), v[i]),
    );
    expect(
      furthest(
        image,
        [...u[i]].map((x) => x * s[i]),
      ),
    ).toBeLessThan(1e-9 * (1 + s[0]));
  }
});

test.each([
  ["tall", matrix(20, 8, wavy), 5],
  ["wide", matrix(8, 20, wavy), 8],
  ["zero below its diagonal", matrix(6, 6, (r, c) => (r <= c ? r - 2.5 : 0)), 4],
])("the first columns of Q and rows of R of a matrix that is %s", (_, a, count) => {
  const { q, r } = firstOfQr(a, count);
  const first = new QR(dense(a).subMatrix(0, a.rows - 1, 0, count - 1)).orthogonalMatrix;
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) expect(Math.abs(inner(q[i], q[j]) - Number(i === j))).toBeLessThan(1e-12);
    expect(Math.abs(Math.abs(inner(q[i], first.getColumn(i))) - 1)).toBeLessThan(1e-12);
    for (let c = 0; c < i; c++) expect(Math.abs(r[i][c])).toBeLessThan(1e-12);
  }
  for (let c = 0; c < count; c++) {
    for (let row = 0; row < a.rows; row++) {
      const product = q.reduce((sum, column, k) => sum + column[row] * r[k][c], 0);
      expect(Math.abs(product - a.values[row * a.columns + c])).toBeLessThan(1e-12);
    }
  }
});
