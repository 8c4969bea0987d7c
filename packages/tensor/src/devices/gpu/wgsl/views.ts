import { BLOCKS, BYTES, isBlocks } from "../../../dtype.ts";
import type { Storage } from "../../../memory.ts";
import { contiguousStrides, sizeOf } from "../../../shape.ts";
import type { View } from "../../device.ts";
import type { Binding, GpuContext } from "../context.ts";

/** Memory of a kernel's own, between its parts. */
export interface Temporary {
  readonly view: View;
  free(): void;
}

/** A dense view of f32 on memory that {@link Temporary.free} gives back. */
export function temporary(context: GpuContext, shape: readonly number[]): Temporary {
  const block = context.allocate(4 * sizeOf(shape));
  // Kernels look at a storage's handle alone.
  const storage = { handle: block, byteLength: 4 * sizeOf(shape) } as unknown as Storage;
  const view = { storage, dtype: "f32", offset: 0, shape, strides: contiguousStrides(shape) } as const;
  return { view, free: () => context.free(block) };
}

/** Where an operand begins in its binding. */
export interface Place {
  readonly binding: Binding;
  /** Its first element, of blocks counted from the block at `byte`. */
  readonly first: number;
  /** Of blocks, the first one's byte; otherwise 0. */
  readonly byte: number;
}

export function place(context: GpuContext, view: View, op: string): Place {
  const { binding, first } = context.bind(view, op);
  if (!isBlocks(view.dtype)) return { binding, first, byte: 0 };
  const { elements, bytes } = BLOCKS[view.dtype];
  const block = Math.floor(view.offset / elements);
  return { binding, first: view.offset % elements, byte: block * bytes - binding.offset };
}

/** Bytes from a view's first element to behind its last. */
function range({ dtype, offset, shape, strides }: View): { first: number; length: number } {
  const end = shape.reduce((at, n, d) => at + (n - 1) * strides[d], offset) + 1;
  const first = Math.floor((offset * BYTES[dtype]) / 4) * 4;
  return { first, length: Math.ceil((end * BYTES[dtype]) / 4) * 4 - first };
}

/**
 * Runs `body` with inputs that lie in other buffers than `out`: WebGPU lets no dispatch write to a buffer that it binds for
 * reading, wherever in it. Those that share out's buffer are copied.
 */
export function apart<Inputs extends readonly (View | undefined)[]>(
  context: GpuContext,
  out: readonly View[],
  inputs: Inputs,
  body: (inputs: Inputs) => void,
): void {
  const taken = new Set(out.map((view) => view.storage.handle));
  const copies: Temporary[] = [];
  const moved = inputs.map((view) => {
    if (!view || !taken.has(view.storage.handle) || view.shape.includes(0)) return view;
    const { first, length } = range(view);
    const copy = temporary(context, [length / 4]);
    copies.push(copy);
    const [from, to] = [view, copy.view].map((v) => context.bufferOf(context.blockOf(v.storage), "copy"));
    context.copy(from, first, to, 0, length);
    return { ...view, storage: copy.view.storage, offset: view.offset - first / BYTES[view.dtype] };
  });
  body(moved as unknown as Inputs);
  for (const copy of copies) copy.free();
}
