import type { DType } from "./dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "./shape.ts";

/** How tensors are printed: PyTorch's `set_printoptions`, with its defaults. */
export interface FormatOptions {
  /** Digits behind the point, 4. */
  readonly precision?: number;
  /** Elements above which only the ends of each dimension are shown, 1000. */
  readonly threshold?: number;
  /** Elements shown at each end of a dimension then, 3. */
  readonly edgeItems?: number;
  /** Characters in a line, 80. */
  readonly lineWidth?: number;
  /** With an exponent or without; unless given, where the largest is 1,000 times the smallest, and so on. */
  readonly sciMode?: boolean;
}

/** Row-major values as PyTorch prints a tensor: `tensor([[1.0000, 0.5000]])`. */
export function formatTensor(
  values: ArrayLike<number>,
  shape: Shape,
  dtype: DType,
  { precision = 4, threshold = 1000, edgeItems = 3, lineWidth = 80, sciMode }: FormatOptions = {},
): string {
  const strides = contiguousStrides(shape);
  const short = sizeOf(shape) > threshold;
  /** Indices of a dimension that are shown; −1 stands for those left out. */
  const shown = (n: number): number[] => {
    const all = Array.from({ length: n }, (_, i) => i);
    return short && n > 2 * edgeItems ? [...all.slice(0, edgeItems), -1, ...all.slice(n - edgeItems)] : all;
  };
  const numbers: number[] = [];
  const collect = (dim: number, at: number): void => {
    if (dim === shape.length) numbers.push(values[at]);
    else for (const i of shown(shape[dim])) if (i >= 0) collect(dim + 1, at + i * strides[dim]);
  };
  collect(0, 0);
  const { width, text } = formatter(numbers, dtype, precision, sciMode);

  const lines = (dim: number, at: number, indent: number): string => {
    if (dim === shape.length) return text(values[at]);
    const ellipsis = dim === shape.length - 1 ? " ..." : "...";
    const parts = shown(shape[dim]).map((i) => (i < 0 ? ellipsis : lines(dim + 1, at + i * strides[dim], indent + 1)));
    if (dim < shape.length - 1) {
      const gap = `,${"\n".repeat(shape.length - 1 - dim)}${" ".repeat(indent + 1)}`;
      return `[${parts.join(gap)}]`;
    }
    const perLine = Math.max(1, Math.floor((lineWidth - indent) / (width + 2)));
    const rows: string[] = [];
    for (let i = 0; i < parts.length; i += perLine) rows.push(parts.slice(i, i + perLine).join(", "));
    return `[${rows.join(`,\n${" ".repeat(indent + 1)}`)}]`;
  };
  const start = "tensor(";
  const notes = [
    sizeOf(shape) === 0 && shape.length > 1 ? `, size=(${shape.join(", ")})` : "",
    dtype === "f32" ? "" : `, dtype=${dtype}`,
  ];
  return `${start}${sizeOf(shape) === 0 ? "[]" : lines(0, 0, start.length)}${notes.join("")})`;
}

/** One format for all numbers, all of one width: whole, with some decimals, or with an exponent. */
function formatter(numbers: readonly number[], dtype: DType, precision: number, sciMode: boolean | undefined) {
  let one = (x: number): string => String(x);
  const counted = numbers.filter((x) => dtype === "i32" || (Number.isFinite(x) && x !== 0));
  if (dtype !== "i32") {
    const sizes = counted.map(Math.abs);
    const max = sizes.reduce((a, b) => Math.max(a, b), 0);
    const min = sizes.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
    const whole = sizes.every(Number.isInteger);
    const wide = max > 1000 * min || max > 1e8 || (!whole && min < 1e-4);
    if (sizes.length > 0 && (sciMode ?? wide)) one = (x) => exponential(x, precision);
    else if (whole) one = (x) => `${x.toFixed(0)}.`;
    else one = (x) => toEven(x.toFixed(precision), x.toFixed(100));
  }
  const signed = (x: number): string => {
    if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
    return Object.is(x, -0) ? `-${one(0)}` : one(x);
  };
  const width = Math.max(1, ...counted.map((x) => signed(x).length));
  return { width, text: (x: number): string => signed(x).padStart(width) };
}

/** Python's `{:.4e}`: two digits of exponent at least. */
function exponential(x: number, precision: number): string {
  const [short, exponent] = x.toExponential(precision).split("e");
  const [long, same] = x.toExponential(100).split("e");
  // Rounded up to the next power of ten there is no tie: it would end on 9, which is odd.
  const digits = exponent === same ? toEven(short, long) : short;
  return `${digits}e${exponent.replace(/^([+-])(\d)$/, "$10$2")}`;
}

/** JavaScript rounds ties away from 0, Python to even. `long` has all digits of the number, `short` those wanted. */
function toEven(short: string, long: string): string {
  const kept = long.slice(0, short.length);
  const tie = /^\.?50*$/.test(long.slice(short.length));
  return tie && Number(kept.at(-1)) % 2 === 0 ? kept : short;
}
