import type { Device } from "../devices/device.ts";
import { fromF16 } from "../dtype.ts";
import type { Shape } from "../shape.ts";
import { Tensor } from "../tensor.ts";

/** The f32 bits of every half, made at the first use. */
let table: Uint32Array | undefined;

function bitsOfHalves(): Uint32Array {
  table ??= new Uint32Array(Float32Array.from({ length: 1 << 16 }, (_, half) => fromF16(half)).buffer);
  return table;
}

/** Numbers widened at a time. */
const PIECE = 1 << 20;

/**
 * A tensor of half-precision numbers, which no device computes with: a matrix whose numbers bf16 can hold, as where bf16 weights
 * were written as F16, becomes bf16, everything else f32. Both are exact.
 */
export function widenHalves(bytes: Uint8Array, shape: Shape, device: Device): Tensor {
  const bits = bitsOfHalves();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = bytes.byteLength / 2;
  const aligned = bytes.byteOffset % 2 === 0;
  const halves = aligned ? new Uint16Array(bytes.buffer, bytes.byteOffset, count) : undefined;
  const bitsAt = (i: number): number => bits[halves ? halves[i] : view.getUint16(2 * i, true)];

  let low = shape.length < 2 ? 1 : 0;
  for (let i = 0; i < count && low === 0; i++) low = bitsAt(i) & 0xffff;
  const narrow = low === 0;
  const out = Tensor.empty(shape, { dtype: narrow ? "bf16" : "f32", device });
  for (let from = 0; from < count; from += PIECE) {
    const length = Math.min(PIECE, count - from);
    const piece = narrow ? new Uint16Array(length) : new Uint32Array(length);
    for (let i = 0; i < length; i++) piece[i] = narrow ? bitsAt(from + i) >>> 16 : bitsAt(from + i);
    device.write(out.storage, from * piece.BYTES_PER_ELEMENT, new Uint8Array(piece.buffer));
  }
  return out;
}
