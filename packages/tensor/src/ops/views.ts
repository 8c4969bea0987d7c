import type { View } from "../devices/device.ts";
import { broadcastStrides, contiguousStrides, type Shape, sameShape, sizeOf } from "../shape.ts";

/** The view repeated to `shape`, without copying. The shapes are known to broadcast. */
export function broadcastView(view: View, shape: Shape): View {
  if (sameShape(view.shape, shape)) return view;
  return {
    storage: view.storage,
    dtype: view.dtype,
    offset: view.offset,
    shape,
    strides: broadcastStrides(view.shape, view.strides, shape),
  };
}

/**
 * Strides that read the same elements in another shape, or undefined where only a copy can. Sizes agree.
 * Dimensions are grouped into runs that lie evenly in memory, and each run is cut anew (PyTorch's `computeStride`).
 */
export function viewStrides(shape: Shape, strides: readonly number[], target: Shape): number[] | undefined {
  if (sizeOf(shape) === 0) return contiguousStrides(target);
  const out = new Array<number>(target.length);
  let to = target.length - 1;
  let from = shape.length - 1;
  while (from >= 0) {
    const base = strides[from];
    let run = shape[from];
    while (from > 0 && (shape[from - 1] === 1 || strides[from - 1] === run * base)) {
      run *= shape[from - 1];
      from--;
    }
    let filled = 1;
    while (to >= 0 && (filled < run || target[to] === 1)) {
      out[to] = filled * base;
      filled *= target[to];
      to--;
    }
    if (filled !== run) return undefined;
    from--;
  }
  for (; to >= 0; to--) out[to] = 1;
  return out;
}

/** All dimensions but the last joined; undefined where only a copy can. */
export function rowsView(view: View): View | undefined {
  const { storage, dtype, offset, shape } = view;
  if (shape.length === 2) return view;
  const rows = [sizeOf(shape.slice(0, -1)), shape[shape.length - 1]];
  const strides = viewStrides(shape, view.strides, rows);
  return strides && { storage, dtype, offset, shape: rows, strides };
}

/** A matrix with rows and columns exchanged. */
export function transposed({ storage, dtype, offset, shape, strides }: View): View {
  return { storage, dtype, offset, shape: [shape[1], shape[0]], strides: [strides[1], strides[0]] };
}
