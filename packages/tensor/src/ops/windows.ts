import type { View } from "../devices/device.ts";
import { ShapeError } from "../errors.ts";
import { FILL, IDENTITY } from "../expr/program.ts";
import { axisOf, type Shape, show, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { apply, type Context, defineOp } from "./op.ts";

/** Windows that move along one dimension. */
export interface Window {
  readonly dim: number;
  /** Elements of a window. */
  readonly size: number;
  /** From one window's beginning to the next one's. */
  readonly step: number;
  /** From one element of a window to the next one. */
  readonly dilation: number;
}

/** Elements put before and after each dimension, and their value. */
export interface PadArgs {
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly value: number;
}

/** How many windows fit in `n` elements. */
function positions(n: number, { size, step, dilation }: Window): number {
  return Math.max(0, Math.floor((n - dilation * (size - 1) - 1) / step) + 1);
}

/** Shape with the number of windows in place of each dimension they move along. */
export function windowPositions(shape: Shape, windows: readonly Window[]): number[] {
  return shape.map((n, d) => {
    const window = windows.find(({ dim }) => dim === d);
    return window ? positions(n, window) : n;
  });
}

/** The element numbered `at` (one index a window dimension) of every window: a strided view, each element there once. */
export function windowElement(x: View, windows: readonly Window[], at: readonly number[]): View {
  const shape = windowPositions(x.shape, windows);
  const empty = shape.includes(0);
  const strides = [...x.strides];
  let { offset } = x;
  for (const [i, { dim, step, dilation }] of windows.entries()) {
    if (!empty) offset += at[i] * dilation * x.strides[dim];
    strides[dim] *= step;
  }
  return { storage: x.storage, dtype: x.dtype, offset, shape, strides };
}

/** All indices into a window, row-major. */
export function windowIndices(windows: readonly Window[]): number[][] {
  return windows.reduce<number[][]>(
    (found, { size }) => found.flatMap((index) => Array.from({ length: size }, (_, i) => [...index, i])),
    [[]],
  );
}

/** One element of all windows, of what `columns` gives. */
function column(columns: View, number: number): View {
  const without = (list: readonly number[]): number[] => list.filter((_, d) => d !== 2);
  const { storage, dtype, offset, shape, strides } = columns;
  const empty = shape.includes(0);
  return {
    ...{ storage, dtype, offset: empty ? offset : offset + number * strides[2] },
    ...{ shape: without(shape), strides: without(strides) },
  };
}

function copyOf(context: Context, view: View): Tensor {
  const out = context.empty(view.shape, view.dtype);
  context.device.elementwise(IDENTITY, [], [view], out);
  return out;
}

function padded({ before, after }: PadArgs, shape: Shape): number[] {
  return shape.map((n, d) => before[d] + n + after[d]);
}

/** The part of a padded tensor where the original lies. */
function inner(out: View, { before }: PadArgs, shape: Shape): View {
  const offset = shape.includes(0) ? out.offset : before.reduce((sum, n, d) => sum + n * out.strides[d], out.offset);
  return { storage: out.storage, dtype: out.dtype, offset, shape, strides: out.strides };
}

export const windowOps = {
  /** A view in which each window has dimensions of its own, behind the others; overlapping windows share elements. */
  unfold: defineOp<readonly Window[]>({
    name: "unfold",
    infer: ([x], windows) => ({
      shape: [...windowPositions(x.shape, windows), ...windows.map(({ size }) => size)],
      dtype: x.dtype,
    }),
    forward(context, [x], windows) {
      const first = windowElement(
        x,
        windows,
        windows.map(() => 0),
      );
      x.storage.retain();
      return new Tensor({
        ...first,
        shape: context.result.shape,
        strides: [...first.strides, ...windows.map(({ dim, dilation }) => x.strides[dim] * dilation)],
      });
    },
    /** Elements collect from all windows they lie in, one element of all windows at a time. */
    backward(context, grad, windows) {
      const [{ shape, dtype }] = context.inputs;
      const out = context.empty(shape, dtype);
      context.device.elementwise(FILL, [0], [], out);
      const rank = shape.length;
      for (const at of windowIndices(windows)) {
        const from: View = {
          ...grad,
          storage: grad.storage,
          offset: at.reduce((sum, i, w) => sum + i * grad.strides[rank + w], grad.offset),
          shape: grad.shape.slice(0, rank),
          strides: grad.strides.slice(0, rank),
        };
        if (!from.shape.includes(0))
          context.device.elementwise(IDENTITY, [], [from], windowElement(out, windows, at), true);
      }
      return [out];
    },
  }),
  /**
   * What a convolution multiplies its kernels with (im2col): [batch, channels, elements of a window, ...places]. Windows move
   * over all dimensions behind the first two. Along the last of them first, so that afterwards whole pictures lie in runs.
   */
  columns: defineOp<readonly Window[]>({
    name: "columns",
    infer([x], windows) {
      const [batch, channels, ...places] = windowPositions(x.shape, windows);
      return { shape: [batch, channels, sizeOf(windows.map(({ size }) => size)), ...places], dtype: x.dtype };
    },
    forward(context, [x], windows) {
      const out = context.output();
      const [outer, last] = [windows.slice(0, -1), windows.slice(-1)];
      for (let i = 0; i < last[0].size; i++) {
        const along = outer.length === 0 ? windowElement(x, last, [i]) : copyOf(context, windowElement(x, last, [i]));
        windowIndices(outer).forEach((at, number) => {
          const into = column(out, number * last[0].size + i);
          context.device.elementwise(IDENTITY, [], [windowElement(along, outer, at)], into);
        });
      }
      return out;
    },
    backward(context, grad, windows) {
      const [{ shape, dtype }] = context.inputs;
      const out = context.empty(shape, dtype);
      context.device.elementwise(FILL, [0], [], out);
      const [outer, last] = [windows.slice(0, -1), windows.slice(-1)];
      for (let i = 0; i < last[0].size; i++) {
        const into = windowElement(out, last, [i]);
        if (outer.length === 0) {
          context.device.elementwise(IDENTITY, [], [column(grad, i)], into, true);
          continue;
        }
        const along = context.empty(into.shape, dtype);
        context.device.elementwise(FILL, [0], [], along);
        windowIndices(outer).forEach((at, number) => {
          const from = column(grad, number * last[0].size + i);
          context.device.elementwise(IDENTITY, [], [from], windowElement(along, outer, at), true);
        });
        context.device.elementwise(IDENTITY, [], [along], into, true);
      }
      return [out];
    },
  }),
  pad: defineOp<PadArgs>({
    name: "pad",
    infer: ([x], args) => ({ shape: padded(args, x.shape), dtype: x.dtype }),
    forward(context, [x], args) {
      const out = context.output();
      context.device.elementwise(FILL, [args.value], [], out);
      if (x.size > 0) context.device.elementwise(IDENTITY, [], [x], inner(out, args, x.shape));
      return out;
    },
    backward(context, grad, args) {
      grad.storage.retain();
      return [new Tensor(inner(grad, args, context.inputs[0].shape))];
    },
  }),
} as const;

/** @throws ShapeError unless sizes, steps and dilations are whole numbers above 0 and a window fits */
export function checkWindows(op: string, shape: Shape, windows: readonly Window[]): void {
  for (const window of windows) {
    const { dim, size, step, dilation } = window;
    if (![size, step, dilation].every((n) => Number.isSafeInteger(n) && n > 0)) {
      throw new ShapeError(op, `size ${size}, stride ${step} and dilation ${dilation} must be whole numbers above 0`);
    }
    if (positions(shape[dim], window) === 0) {
      const reach = dilation * (size - 1) + 1;
      throw new ShapeError(
        op,
        `a window of ${reach} elements does not fit dimension ${dim} of ${show(shape)}; use a smaller one, or padding`,
      );
    }
  }
}

/**
 * Windows of `size` elements, every `step`th, along `dim`; a window's elements become the last dimension. A view:
 * PyTorch's `Tensor.unfold`. Shapes: x [..., n, ...], result [..., ⌊(n − size)/step⌋ + 1, ..., size].
 * @throws ShapeError where no window fits
 */
export function unfold(x: Tensor, dim: number, size: number, step = 1): Tensor {
  const window = { dim: axisOf("unfold", dim, x.rank), size, step, dilation: 1 };
  checkWindows("unfold", x.shape, [window]);
  return apply(windowOps.unfold, [x], [window]);
}

/**
 * `value` around the last dimensions: PyTorch's `functional.pad` with its `constant` mode. `sizes` counts from the last
 * dimension: [left, right], then [top, bottom] and so on.
 * @throws ShapeError where sizes are no whole numbers, 0 or more, two for each of some dimensions
 */
export function pad(x: Tensor, sizes: readonly number[], value = 0): Tensor {
  if (sizes.length % 2 !== 0 || sizes.length > 2 * x.rank || !sizes.every((n) => Number.isSafeInteger(n) && n >= 0)) {
    throw new ShapeError(
      "pad",
      `${show(sizes)} is not two whole numbers, 0 or more, for each of the last dimensions of ${show(x.shape)}`,
    );
  }
  const [before, after] = [0, 1].map((side) => x.shape.map((_, d) => sizes[2 * (x.rank - 1 - d) + side] ?? 0));
  return sizes.every((n) => n === 0) ? x : apply(windowOps.pad, [x], { before: before!, after: after!, value });
}
