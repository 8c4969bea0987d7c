// Quantised blocks to numbers: rows that an index names, or all.
import { BLOCKS, type BlockType, type DType, isBlocks } from "../../dtype.ts";
import { DTypeError } from "../../errors.ts";
import type { View } from "../device.ts";
import type { GpuContext } from "./context.ts";
import { eachItem, ITEMS, libraryFor, parameters, slot, storages, store, written } from "./shader.ts";
import { quadSource } from "./wgsl/elements.ts";
import { place, type Temporary, temporary } from "./wgsl/views.ts";

/** Slots: quads, quads a row, index' first, stride; first row of the window, rows in it, is it the first window, free; … */
function unpackKernel(gpu: GpuContext, dtype: BlockType, out: DType, indexed: boolean) {
  return gpu.kernel(`unpack ${dtype} ${out} ${indexed}`, () => {
    const letters = `r${written(out)}${indexed ? "r" : ""}`;
    const b = "b2";
    const body = eachItem(
      slot(0),
      `  let n = i / ${slot(1)};
  let f = (i % ${slot(1)}) * 4u;
  let row = ${indexed ? `b3[${slot(2)} + n * ${slot(13)}] - ${slot(4)}` : "n"};
  if (row < ${slot(5)}) {
    let four = quad_b1(${slot(6)} + row * ${slot(7)} + f, 1u);
    for (var j = 0u; j < 4u; j++) {
      let e = ${slot(9)} + n * ${slot(10)} + (f + j) * ${slot(11)};
      ${store(b, out, "e", "four[j]")}
    }
  }`,
    );
    const reader = quadSource("b1", { dtype, access: "block" }).replaceAll("p.b1_byte", slot(8));
    const code = `${parameters(14)}${storages(letters)}\n${libraryFor(body)}\n${reader}\n${body}`;
    return { code, access: letters.replaceAll("a", "w") };
  });
}

/** `gatherRows` of a quantised table, whose blocks run along its rows. */
export function gatherBlocks(gpu: GpuContext, table: View, index: View, out: View): void {
  const [n, features] = out.shape;
  if (n === 0 || features === 0) return;
  const [rows, to] = [gpu.bind(index, "gatherRows"), gpu.bind(out, "gatherRows")];
  for (const { row, view } of gpu.rowWindows(table)) {
    const at = place(gpu, view, "gatherRows");
    const quads = (n * features) / 4;
    const words = [
      ...[quads, features / 4, rows.first, 0],
      ...[row, view.shape[0], at.first, view.strides[0], at.byte],
      ...[to.first, ...out.strides, 0, index.strides[0]],
    ];
    const kernel = unpackKernel(gpu, table.dtype as BlockType, out.dtype, true);
    gpu.run(kernel, words, [at.binding, to.binding, rows.binding], gpu.spread(Math.ceil(quads / ITEMS)));
  }
}

/**
 * The view's elements as f32, strides as they are: all blocks from its first to its last element are unpacked.
 * @throws DTypeError where the view begins within a block
 */
export function unpacked(gpu: GpuContext, view: View): { readonly view: View; readonly memory: Temporary } {
  const { elements } = BLOCKS[view.dtype as BlockType];
  if (view.offset % elements !== 0)
    throw new DTypeError("gpu", `a view of ${view.dtype} begins at element ${view.offset}, within a block`);
  const end = view.shape.reduce((at, n, d) => at + Math.max(0, n - 1) * view.strides[d], 0) + 1;
  const blocks = Math.ceil(end / elements);
  const memory = temporary(gpu, [blocks * elements]);
  const whole: View = { ...view, shape: [blocks, elements], strides: [elements, 1] };
  for (const { row, view: part } of gpu.rowWindows(whole)) {
    const at = place(gpu, part, "unpack");
    const target = gpu.bind({ ...memory.view, offset: row * elements, shape: [part.shape[0] * elements] }, "unpack");
    const quads = (part.shape[0] * elements) / 4;
    const words = [
      quads,
      elements / 4,
      0,
      0,
      0,
      part.shape[0],
      at.first,
      elements,
      at.byte,
      target.first,
      elements,
      1,
      0,
      0,
    ];
    const kernel = unpackKernel(gpu, view.dtype as BlockType, "f32", false);
    gpu.run(kernel, words, [at.binding, target.binding], gpu.spread(Math.ceil(quads / ITEMS)));
  }
  return { view: { ...view, dtype: "f32", storage: memory.view.storage, offset: 0 }, memory };
}

/** Runs `body` with quantised inputs unpacked. */
export function withoutBlocks(gpu: GpuContext, inputs: readonly View[], body: (inputs: readonly View[]) => void): void {
  if (!inputs.some(({ dtype }) => isBlocks(dtype))) {
    body(inputs);
    return;
  }
  const memories: Temporary[] = [];
  const moved = inputs.map((view) => {
    if (!isBlocks(view.dtype) || view.shape.includes(0)) return view;
    const { view: numbers, memory } = unpacked(gpu, view);
    memories.push(memory);
    return numbers;
  });
  body(moved);
  for (const memory of memories) memory.free();
}
