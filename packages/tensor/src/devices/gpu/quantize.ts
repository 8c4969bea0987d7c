// Numbers to quantised blocks, bit for bit those of `quantized/encode.ts`.
import { BLOCKS } from "../../dtype.ts";
import { DTypeError } from "../../errors.ts";
import type { QuantizableType } from "../../quantized/encode.ts";
import { contiguousStrides, sizeOf } from "../../shape.ts";
import type { View } from "../device.ts";
import type { GpuContext } from "./context.ts";
import { coordinates, place } from "./elementwise.ts";
import { eachItem, ITEMS, libraryFor, load, parameters, slot, storages } from "./shader.ts";

/** Halves by their bits, as `dtype.ts` has them; finite numbers stop at the greatest. */
const HALVES = `
fn to_half(value: f32) -> u32 {
  let x = clamp(value, -65504.0, 65504.0);
  let word = bitcast<u32>(x);
  let s = (word >> 16u) & 0x8000u;
  let magnitude = word & 0x7fffffffu;
  if (magnitude < 0x38800000u) { return s | u32(round(abs(x) * 16777216.0)); }
  return s | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}
fn of_half(h: u32) -> f32 {
  let fraction = h & 1023u;
  let exponent = (h >> 10u) & 31u;
  let wide = bitcast<f32>(((exponent + 112u) << 23u) | (fraction << 13u));
  let magnitude = select(wide, f32(fraction) * 5.9604644775390625e-8, exponent == 0u);
  return select(magnitude, -magnitude, h >= 0x8000u);
}
fn inverse_of(scale: f32) -> f32 { return select(0.0, 1.0 / scale, scale > 0.0); }
`;

/** Two blocks of 34 bytes are 17 words. */
const Q8 = `
  var words: array<u32, 17>;
  for (var half = 0u; half < 2u; half++) {
    let first = (i * 2u + half) * 32u;
    if (first >= ${slot(1)}) { break; }
    var most = 0.0;
    for (var j = 0u; j < 32u; j++) { most = max(most, abs(value_at(first + j))); }
    let bits = to_half(most / 127.0);
    let inverse = inverse_of(of_half(bits));
    let start = half * 34u;
    words[start >> 2u] |= bits << (8u * (start & 3u));
    for (var j = 0u; j < 32u; j++) {
      let q = u32(i32(round(clamp(value_at(first + j) * inverse, -127.0, 127.0)))) & 255u;
      let at = start + 2u + j;
      words[at >> 2u] |= q << (8u * (at & 3u));
    }
  }
  for (var w = 0u; w < 17u; w++) {
    let at = i * 17u + w;
    if (at < ${slot(2)}) { b2[${slot(4)} + at] = words[w]; }
  }`;

/** A block of 20 bytes is 5 words. */
const Q4 = `
  let first = i * 32u;
  var least = value_at(first);
  var most = least;
  for (var j = 1u; j < 32u; j++) {
    least = min(least, value_at(first + j));
    most = max(most, value_at(first + j));
  }
  let scale = to_half(max(0.0, most - least) / 15.0);
  // Of zeros of both signs the minimum is the positive one.
  let minimum = to_half(select(least, 0.0, least == 0.0));
  let inverse = inverse_of(of_half(scale));
  let base = of_half(minimum);
  b2[${slot(4)} + i * 5u] = scale | (minimum << 16u);
  for (var w = 0u; w < 4u; w++) {
    var word = 0u;
    for (var k = 0u; k < 4u; k++) {
      let j = w * 4u + k;
      let low = u32(round(clamp((value_at(first + j) - base) * inverse, 0.0, 15.0)));
      let high = u32(round(clamp((value_at(first + j + 16u) - base) * inverse, 0.0, 15.0)));
      word |= (low | (high << 4u)) << (8u * k);
    }
    b2[${slot(4)} + i * 5u + 1u + w] = word;
  }`;

/** The definition is `Device.quantize`'s. */
export function quantize(gpu: GpuContext, x: View, out: View): void {
  const type = out.dtype as QuantizableType;
  const total = sizeOf(x.shape);
  if (total === 0) return;
  const { elements, bytes } = BLOCKS[type];
  const byte = (out.offset / elements) * bytes;
  if (byte % 4 !== 0)
    throw new DTypeError("quantize", `blocks of ${type} that begin at byte ${byte} are not written on gpu`);
  const windows = gpu.fits(out) && gpu.fits(x) ? [] : gpu.rowWindows(out);
  if (windows.length > 1 && x.shape.length > 1) {
    // Rows in pairs, so that pieces begin at whole words.
    const step = Math.max(2, Math.floor(windows[1].row / 4) * 2);
    for (let row = 0; row < x.shape[0]; row += step) {
      const shape = [Math.min(step, x.shape[0] - row), ...x.shape.slice(1)];
      const part = (view: View, strides: readonly number[]): View => ({
        ...view,
        shape,
        strides,
        offset: view.offset + row * strides[0],
      });
      quantize(gpu, part(x, x.strides), part(out, contiguousStrides(out.shape)));
    }
    return;
  }
  const rank = x.shape.length;
  const from = gpu.bind(x, "quantize");
  const to = gpu.bind({ ...out, strides: contiguousStrides(out.shape) }, "quantize");
  const items = Math.ceil(total / elements / (type === "q8_0" ? 2 : 1));
  const kernel = gpu.kernel(`quantize ${type} ${x.dtype} ${rank}`, () => {
    const head = 8;
    const lines = coordinates("at", rank, head).join("\n");
    const value = load("b1", x.dtype, place(rank, head + rank));
    const body = `${HALVES}
fn value_at(at: u32) -> f32 {
${lines}
  return ${value};
}
${eachItem(slot(0), type === "q8_0" ? Q8 : Q4)}`;
    return { code: `${parameters(head + 2 * rank + 1)}${storages("rw")}\n${libraryFor(body)}\n${body}`, access: "rw" };
  });
  const start = (byte - to.binding.offset) / 4;
  const words = [
    items,
    total,
    Math.ceil(((total / elements) * bytes) / 4),
    0,
    start,
    0,
    0,
    0,
    ...x.shape,
    from.first,
    ...x.strides,
  ];
  gpu.run(kernel, words, [from.binding, to.binding], gpu.spread(Math.ceil(items / ITEMS)));
}
