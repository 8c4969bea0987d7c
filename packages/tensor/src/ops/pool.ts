import { noGrad } from "../autograd.ts";
import { ones } from "../creation.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { type Expr, select } from "../expr/expr.ts";
import { FILL, IDENTITY, Program } from "../expr/program.ts";
import { show } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { spread } from "./conv.ts";
import { div } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { apply, type Context, defineOp, type ResultType } from "./op.ts";
import { transpose } from "./shape.ts";
import { checkWindows, pad, type Window, windowElement, windowIndices, windowPositions } from "./windows.ts";

/** Is the next element the largest so far? The first of equals stays; NaN is larger than all, as in PyTorch. */
const isLarger = (best: Expr, next: Expr): Expr => select(next.ne(next), 1, best.lt(next));
const LARGER = Program.of(2, 0, ([best, next]) => select(isLarger(best, next), next, best));
const NUMBER = Program.of(3, 1, ([best, next, before], [number]) => select(isLarger(best, next), number, before));
/** The gradient of windows whose largest element is that of the given number. */
const WHERE_NUMBER = Program.of(2, 1, ([grad, which], [number]) => select(which.eq(number), grad, 0));

function infer(op: string, x: Tensor, windows: readonly Window[]): ResultType {
  if (x.dtype !== "f32" && x.dtype !== "f64") throw new DTypeError(op, `needs f32 or f64, not ${x.dtype}`);
  return { shape: windowPositions(x.shape, windows), dtype: x.dtype };
}

/** Adds to each element of `out` what each window that it lies in sends. */
function spreadBack(context: Context, windows: readonly Window[], send: (number: number, into: Tensor) => void) {
  const [{ shape, dtype }] = context.inputs;
  const out = context.empty(shape, dtype);
  context.device.elementwise(FILL, [0], [], out);
  windowIndices(windows).forEach((at, number) => {
    out.storage.retain();
    send(number, new Tensor(windowElement(out, windows, at)));
  });
  return [out];
}

export const poolOps = {
  /** The largest of each window; the gradient goes to the first of equals. */
  maxPool: defineOp<readonly Window[]>({
    name: "maxPool",
    infer: ([x], windows) => infer("maxPool", x, windows),
    forward(context, [x], windows) {
      const { device, recorded } = context;
      const out = context.output();
      const which = recorded ? context.output() : undefined;
      if (which) device.elementwise(FILL, [0], [], which);
      windowIndices(windows).forEach((at, number) => {
        const element = windowElement(x, windows, at);
        if (number === 0) {
          device.elementwise(IDENTITY, [], [element], out);
          return;
        }
        // Read with its steps once, then side by side.
        const next = context.output();
        device.elementwise(IDENTITY, [], [element], next);
        if (which) device.elementwise(NUMBER, [number], [out, next, which], which);
        device.elementwise(LARGER, [], [out, next], out);
        next.dispose();
      });
      if (which) context.save(which);
      return out;
    },
    backward(context, grad, windows) {
      const [which] = context.saved;
      return spreadBack(context, windows, (number, into) => {
        context.device.elementwise(WHERE_NUMBER, [number], [grad, which], into, true);
      });
    },
  }),
  /** The sum of each window. */
  sumPool: defineOp<readonly Window[]>({
    name: "sumPool",
    infer: ([x], windows) => infer("sumPool", x, windows),
    forward(context, [x], windows) {
      const out = context.output();
      windowIndices(windows).forEach((at, number) => {
        context.device.elementwise(IDENTITY, [], [windowElement(x, windows, at)], out, number > 0);
      });
      return out;
    },
    backward(context, grad, windows) {
      return spreadBack(context, windows, (_, into) => {
        context.device.elementwise(IDENTITY, [], [grad], into, true);
      });
    },
  }),
} as const;

/** Settings of pooling; one number stands for all dimensions. */
export interface PoolOptions {
  /** Steps of the window; its size unless given, so that windows do not overlap. */
  readonly stride?: number | readonly number[];
  /** On both sides of each dimension, 0; at most half the window. */
  readonly padding?: number | readonly number[];
}
/** Settings of pooling by the largest. */
export interface MaxPoolOptions extends PoolOptions {
  /** From one element of the window to the next, 1. */
  readonly dilation?: number | readonly number[];
}
/** Settings of pooling by the mean. */
export interface AvgPoolOptions extends PoolOptions {
  /** Whether padding counts in the mean, true. */
  readonly countIncludePad?: boolean;
}

function geometry(op: string, n: number, x: Tensor, size: number | readonly number[], options: MaxPoolOptions) {
  if (x.rank < n + 1) {
    throw new ShapeError(op, `needs [..., channels, ${n === 1 ? "length" : "height, width"}], not ${show(x.shape)}`);
  }
  const sizes = spread(op, "kernel size", size, n);
  const steps = spread(op, "stride", options.stride ?? sizes, n);
  const padding = spread(op, "padding", options.padding ?? 0, n);
  const dilations = spread(op, "dilation", options.dilation ?? 1, n);
  if (padding.some((p, i) => p < 0 || 2 * p > sizes[i]))
    throw new ShapeError(op, `padding ${show(padding)} must be at most half the window ${show(sizes)}`);
  const windows = sizes.map((each, i) => ({
    ...{ dim: x.rank - n + i, size: each, step: steps[i], dilation: dilations[i] },
  }));
  return { windows, around: [...padding].reverse().flatMap((p) => [p, p]) };
}

function maxPool(op: string, n: number, x: Tensor, size: number | readonly number[], options: MaxPoolOptions) {
  const { windows, around } = geometry(op, n, x, size, options);
  const padded = pad(x, around, Number.NEGATIVE_INFINITY);
  checkWindows(op, padded.shape, windows);
  return apply(poolOps.maxPool, [padded], windows);
}

function avgPool(op: string, n: number, x: Tensor, size: number | readonly number[], options: AvgPoolOptions) {
  const { windows, around } = geometry(op, n, x, size, options);
  const padded = pad(x, around);
  checkWindows(op, padded.shape, windows);
  const sum = apply(poolOps.sumPool, [padded], windows);
  if (options.countIncludePad !== false || around.every((p) => p === 0)) {
    return div(
      sum,
      windows.reduce((count, w) => count * w.size, 1),
    );
  }
  const shape = x.shape.map((length, d) => (d < x.rank - n ? 1 : length));
  const counts = noGrad(() =>
    apply(poolOps.sumPool, [pad(ones(shape, { dtype: x.dtype, device: x.device }), around)], windows),
  );
  return div(sum, counts);
}

/**
 * The largest of each window: PyTorch's `functional.max_pool1d`. Shapes: x [..., channels, length], result the same with
 * length' = ⌊(length + 2·padding − dilation·(size − 1) − 1)/stride⌋ + 1. The gradient goes to the first of equals.
 * @throws ShapeError where no window fits
 */
export function maxPool1d(x: Tensor, size: number | readonly number[], options: MaxPoolOptions = {}): Tensor {
  return maxPool("maxPool1d", 1, x, size, options);
}
/** As {@link maxPool1d} over the last two dimensions: PyTorch's `functional.max_pool2d`. */
export function maxPool2d(x: Tensor, size: number | readonly number[], options: MaxPoolOptions = {}): Tensor {
  return maxPool("maxPool2d", 2, x, size, options);
}
/**
 * The mean of each window: PyTorch's `functional.avg_pool1d`. Shapes as those of {@link maxPool1d}.
 * @throws ShapeError where no window fits
 */
export function avgPool1d(x: Tensor, size: number | readonly number[], options: AvgPoolOptions = {}): Tensor {
  return avgPool("avgPool1d", 1, x, size, options);
}
/** As {@link avgPool1d} over the last two dimensions: PyTorch's `functional.avg_pool2d`. */
export function avgPool2d(x: Tensor, size: number | readonly number[], options: AvgPoolOptions = {}): Tensor {
  return avgPool("avgPool2d", 2, x, size, options);
}

/** [to, from] with which a product takes means over `to` parts of `from` elements, each ⌊i·from/to⌋ … ⌈(i+1)·from/to⌉. */
function averaging(x: Tensor, from: number, to: number): Tensor {
  const values = new Float64Array(to * from);
  for (let i = 0; i < to; i++) {
    const [start, end] = [Math.floor((i * from) / to), Math.ceil(((i + 1) * from) / to)];
    values.fill(1 / (end - start), i * from + start, i * from + end);
  }
  return Tensor.from(values, [to, from], { dtype: x.dtype, device: x.device });
}

/**
 * Means over parts so chosen that the result has the given size: PyTorch's `functional.adaptive_avg_pool2d`, as two
 * products with matrices of means. Shapes: x [..., height, width], result [..., size[0], size[1]].
 */
export function adaptiveAvgPool2d(x: Tensor, size: number | readonly number[]): Tensor {
  const [height, width] = spread("adaptiveAvgPool2d", "size", size, 2) as [number, number];
  if (x.rank < 2 || x.size === 0)
    throw new ShapeError("adaptiveAvgPool2d", `needs [..., height, width] with elements, not ${show(x.shape)}`);
  const [fromHeight, fromWidth] = x.shape.slice(-2) as [number, number];
  const rows = matmul(averaging(x, fromHeight, height), x);
  return matmul(rows, transpose(averaging(x, fromWidth, width), 0, 1));
}
