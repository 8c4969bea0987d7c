import type { DType } from "./dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "./shape.ts";

/** PyTorch's print options: a tensor of more than `threshold` elements shows `edge` of each dimension's ends. */
const THRESHOLD = 1000;
const EDGE = 3;
const LINE_WIDTH = 80;

/** Row-major values as PyTorch prints a tensor: `tensor([[1.0000, 0.5000]])`. */
export function formatTensor(values: ArrayLike<number>, shape: Shape, dtype: DType): string {
  const strides = contiguousStrides(shape);
  const short = sizeOf(shape) > THRESHOLD;
  /** Indices of a dimension that are shown; −1 stands for those left out. */
  const shown = (n: number): number[] => {
    const all = Array.from({ length: n }, (_, i) => i);
    return short && n > 2 * EDGE ? [...all.slice(0, EDGE), -1, ...all.slice(-EDGE)] : all;
  };
  const numbers: number[] = [];
  const collect = (dim: number, at: number): void => {
    if (dim === shape.length) numbers.push(values[at]);
    else for (const i of shown(shape[dim])) if (i >= 0) collect(dim + 1, at + i * strides[dim]);
  };
  collect(0, 0);
  const text = formatter(numbers, dtype);

  const lines = (dim: number, at: number, indent: number): string => {
    if (dim === shape.length) return text(values[at]);
    const ellipsis = dim === shape.length - 1 ? " ..." : "...";
    const parts = shown(shape[dim]).map((i) => (i < 0 ? ellipsis : lines(dim + 1, at + i * strides[dim], indent + 1)));
    if (dim < shape.length - 1) {
      const gap = `,${"\n".repeat(shape.length - 1 - dim)}${" ".repeat(indent + 1)}`;
      return `[${parts.join(gap)}]`;
    }
    const perLine = Math.max(1, Math.floor((LINE_WIDTH - indent) / (text(numbers[0] ?? 0).length + 2)));
    const rows: string[] = [];
    for (let i = 0; i < parts.length; i += perLine) rows.push(parts.slice(i, i + perLine).join(", "));
    return `[${rows.join(`,\n${" ".repeat(indent + 1)}`)}]`;
  };
  const start = "tensor(";
  const notes = [
    sizeOf(shape) === 0 && shape.length > 1 ? `, size=[${shape.join(", ")}]` : "",
    dtype === "f32" ? "" : `, dtype=${dtype}`,
  ];
  return `${start}${sizeOf(shape) === 0 ? "[]" : lines(0, 0, start.length)}${notes.join("")})`;
}

/** One format for all numbers, all of one width: whole, with four decimals, or with an exponent. */
function formatter(numbers: readonly number[], dtype: DType): (x: number) => string {
  let one: (x: number) => string;
  if (dtype === "i32") one = String;
  else {
    const sizes = numbers.filter((x) => Number.isFinite(x) && x !== 0).map(Math.abs);
    const max = sizes.reduce((a, b) => Math.max(a, b), 0);
    const min = sizes.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
    const whole = sizes.every(Number.isInteger);
    const wide = max > 1000 * min || max > 1e8;
    if (wide || (!whole && min < 1e-4)) one = (x) => x.toExponential(4).replace(/e([+-])(\d)$/, "e$10$2");
    else if (whole) one = (x) => `${x.toFixed(0)}.`;
    else one = (x) => x.toFixed(4);
  }
  const signed = (x: number): string => {
    if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
    return Object.is(x, -0) ? `-${one(0)}` : one(x);
  };
  const width = Math.max(
    1,
    ...numbers.filter((x) => dtype === "i32" || (Number.isFinite(x) && x !== 0)).map((x) => signed(x).length),
  );
  return (x) => signed(x).padStart(width);
}
