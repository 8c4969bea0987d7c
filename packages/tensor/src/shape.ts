import { ShapeError } from "./errors.ts";

/** Sizes per dimension, outermost first. */
export type Shape = readonly number[];

/** `[2, 3]` for messages. */
export function show(shape: Shape): string {
  return `[${shape.join(",")}]`;
}

/** Do two shapes have the same sizes in the same order? */
export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let d = 0; d < a.length; d++) if (a[d] !== b[d]) return false;
  return true;
}

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const n of shape) size *= n;
  return size;
}

/** Row-major strides, in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

/** Do the strides describe rows laid end to end, without gaps? Dimensions of size 1 may have any stride. */
export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i];
  }
  return true;
}

/** NumPy's broadcasting of two or more shapes. @throws ShapeError where sizes differ and neither is 1. */
export function broadcastShapes(op: string, ...shapes: Shape[]): number[] {
  const [first = []] = shapes;
  if (shapes.every((s) => sameShape(s, first))) return [...first];
  const rank = Math.max(...shapes.map((s) => s.length));
  const out = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (let i = 0; i < shape.length; i++) {
      const at = rank - shape.length + i;
      if (shape[i] === out[at] || shape[i] === 1) continue;
      if (out[at] !== 1) throw new ShapeError(op, `shapes do not broadcast: ${shapes.map(show).join(" and ")}`);
      out[at] = shape[i];
    }
  }
  return out;
}

/** Strides with which a tensor of `shape` is read as `target`: 0 where it is repeated. */
export function broadcastStrides(shape: Shape, strides: readonly number[], target: Shape): number[] {
  const lead = target.length - shape.length;
  return target.map((size, i) => (i < lead || (shape[i - lead] === 1 && size !== 1) ? 0 : strides[i - lead]));
}

/** A dimension counted from the end when negative; a single number counts as one dimension. @throws ShapeError outside the rank. */
export function axisOf(op: string, axis: number, rank: number): number {
  const at = axis < 0 ? axis + Math.max(rank, 1) : axis;
  if (!Number.isInteger(axis) || at < 0 || at >= Math.max(rank, 1)) {
    throw new ShapeError(op, `dimension ${axis} is outside a tensor of ${rank} dimensions`);
  }
  return at;
}

/** @throws ShapeError unless every size is a whole number, 0 or more. */
export function checkShape(op: string, shape: Shape): void {
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) throw new ShapeError(op, `not a shape: ${show(shape)}`);
  }
}
