// Rows by index (the embedding, the key/value cache) and the largest of a row: memory is moved or read once, so typed
// arrays do it.
import { BYTES, isBlocks } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import type { View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { coalesce } from "./iteration.ts";

/** Index values of a contiguous i32 view. */
function indices(cpu: CpuContext, view: View): Int32Array | undefined {
  const [n] = view.shape as [number];
  if (view.dtype !== "i32" || (n > 1 && view.strides[0] !== 1)) return undefined;
  return (cpu.array(view) as Int32Array).subarray(view.offset, view.offset + n);
}

const dense = (view: View) => view.shape[1] === 1 || view.strides[1] === 1;

/** Entries of the typed array that one element of a view takes: bytes where it is blocks. */
const entries = ({ dtype }: View) => (isBlocks(dtype) ? BYTES[dtype] : 1);

/** out[i] = table[index[i]], bf16 widened where `out` is f32; false for other types and strides. */
export function gatherRows(cpu: CpuContext, table: View, index: View, out: View): boolean {
  const rows = indices(cpu, index);
  if (rows === undefined || table.shape.length !== 2 || !dense(table) || !dense(out)) return false;
  const widen = table.dtype === "bf16" && out.dtype === "f32";
  if (table.dtype !== out.dtype && !widen) return false;
  const [size, features] = table.shape as [number, number];
  const unit = entries(table);
  // Bits, not numbers: a NaN keeps its payload, and widening is a shift.
  const from = cpu.array(table);
  const to = widen ? cpu.bits(out) : cpu.array(out);
  cpu.check(table, "gatherRows");
  cpu.check(out, "gatherRows");
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!;
    if (row < 0 || row >= size) throw new DeviceError("gatherRows", `index ${row} is outside a table of ${size} rows`);
    const source = unit * (table.offset + row * table.strides[0]!);
    const target = unit * (out.offset + i * out.strides[0]!);
    if (widen) for (let f = 0; f < features; f++) to[target + f] = (from[source + f] as number) << 16;
    else to.set(from.subarray(source, source + unit * features) as Float32Array, target);
  }
  return true;
}

/** out[index[i]] = src[i], or += in order of i for f32; false for other types and strides. */
export function scatterRows(cpu: CpuContext, src: View, index: View, out: View, mode: "set" | "add"): boolean {
  const rows = indices(cpu, index);
  if (rows === undefined || src.shape.length !== 2 || !dense(src) || !dense(out)) return false;
  if (src.dtype !== out.dtype || (mode === "add" && out.dtype !== "f32")) return false;
  const [size, features] = out.shape as [number, number];
  const unit = entries(out);
  cpu.check(src, "scatterRows");
  cpu.check(out, "scatterRows");
  const [from, to] = [cpu.array(src), cpu.array(out)];
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!;
    if (row < 0 || row >= size) throw new DeviceError("scatterRows", `index ${row} is outside a table of ${size} rows`);
    const source = unit * (src.offset + i * src.strides[0]!);
    const target = unit * (out.offset + row * out.strides[0]!);
    if (mode === "add") for (let f = 0; f < features; f++) to[target + f]! += from[source + f]!;
    else to.set(from.subarray(source, source + unit * features) as Float32Array, target);
  }
  return true;
}

/** Index of the largest of each row, NaN before all; false for other types and strides. */
export function argmax(cpu: CpuContext, x: View, out: View): boolean {
  const n = x.shape.at(-1) ?? 0;
  const { sizes, steps } = coalesce(x.shape.slice(0, -1), [x.strides.slice(0, -1), out.strides]);
  if (x.dtype !== "f32" || out.dtype !== "i32" || n === 0 || sizes.length > 1 || (n > 1 && x.strides.at(-1) !== 1))
    return false;
  cpu.check(x, "argmax");
  cpu.check(out, "argmax");
  const [from, to] = [cpu.array(x), cpu.array(out)];
  for (let r = 0; r < (sizes[0] ?? 1); r++) {
    const first = x.offset + r * (steps[0]![0] ?? 0);
    let best = first;
    // A comparison with NaN is false, so the loop ends at the first one.
    for (let i = first; i < first + n; i++) {
      const value = from[i]!;
      if (value <= from[best]!) continue;
      best = i;
      if (Number.isNaN(value)) break;
    }
    to[out.offset + r * (steps[1]![0] ?? 0)] = best - first;
  }
  return true;
}
