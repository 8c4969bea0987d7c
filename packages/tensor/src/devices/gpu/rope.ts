// Rotary position embedding.
import type { View } from "../device.ts";
import type { GpuContext, Word } from "./context.ts";
import { eachItem, ITEMS, libraryFor, parameters, slot, storages } from "./shader.ts";

/** The definition is `Device.rope`'s. */
export function rope(gpu: GpuContext, x: View, positions: View, frequencies: View, inverse: boolean, out: View): void {
  const [rows, heads, size] = x.shape;
  const half = size / 2;
  const total = rows * heads * half;
  if (total === 0) return;
  const same = x.storage === out.storage;
  const [from, place, turns, to] = [x, positions, frequencies, out].map((view) => gpu.bind(view, "rope"));
  const kernel = gpu.kernel(`rope ${same ? "in place" : ""}`, () => {
    const letters = same ? "rrw" : "rrwr";
    const input = same ? "b3" : "b4";
    const at = (first: number): string => `${slot(first)} + r * ${slot(first + 1)} + h * ${slot(first + 2)}`;
    const body = eachItem(
      slot(0),
      `  let k = i % ${slot(1)};
  let h = (i / ${slot(1)}) % ${slot(2)};
  let r = i / (${slot(1)} * ${slot(2)});
  let position = f32(bitcast<i32>(b1[${slot(13)} + r * ${slot(14)}]));
  let angle = position * bitcast<f32>(b2[${slot(15)} + k * ${slot(16)}]);
  let c = cos_of(angle);
  let s = sin_of(angle) * bitcast<f32>(${slot(4)});
  let low = ${at(5)} + k * ${slot(8)};
  let high = low + ${slot(1)} * ${slot(8)};
  let a = bitcast<f32>(${input}[low]);
  let b = bitcast<f32>(${input}[high]);
  let first = ${at(9)} + k * ${slot(12)};
  b3[first] = bitcast<u32>(a * c - b * s);
  b3[first + ${slot(1)} * ${slot(12)}] = bitcast<u32>(b * c + a * s);`,
    );
    return { code: `${parameters(17)}${storages(letters)}\n${libraryFor(body)}\n${body}`, access: letters };
  });
  const words: Word[] = [
    ...[total, half, heads, 0],
    { f32: inverse ? -1 : 1 },
    ...[from.first, ...x.strides],
    ...[to.first, ...out.strides],
    ...[place.first, ...positions.strides],
    ...[turns.first, ...frequencies.strides],
  ];
  const bindings = [place.binding, turns.binding, to.binding, ...(same ? [] : [from.binding])];
  gpu.run(kernel, words, bindings, gpu.spread(Math.ceil(total / ITEMS)));
}
