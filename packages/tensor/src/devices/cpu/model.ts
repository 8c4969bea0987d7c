// Norm, rotary positions, dropout and the optimiser: which kernel, with which arguments. Each gives false where no kernel
// takes the types or strides.
import type { AdamWArgs, RandomKey, View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { coalesce, isDense, rowChunk } from "./iteration.ts";
import { adamWKernel } from "./kernels/adamw.ts";
import { dropoutKernel } from "./kernels/dropout.ts";
import { rmsNormBackwardKernel, rmsNormKernel, rmsNormWeightGradKernel } from "./kernels/norm.ts";
import { DROPOUT_WORDS, writeDropout } from "./kernels/philox.ts";
import { ropeKernel } from "./kernels/rope.ts";
import { softmaxKernel } from "./kernels/softmax.ts";

const rmsNormKernels = { f32: rmsNormKernel("f32*"), bf16: rmsNormKernel("bf16*") };
const rmsNormBackwardKernels = {
  set: { f32: rmsNormBackwardKernel("f32*", false), bf16: rmsNormBackwardKernel("bf16*", false) },
  add: { f32: rmsNormBackwardKernel("f32*", true), bf16: rmsNormBackwardKernel("bf16*", true) },
};

const isF32 = (...views: (View | undefined)[]) => views.every((view) => view === undefined || view.dtype === "f32");

/** Elements between rows of a view taken as [rows, last dimension], or undefined where rows are not even or dense. */
function rowStride(view: View): number | undefined {
  const n = view.shape.at(-1)!;
  if (n > 1 && view.strides.at(-1) !== 1) return undefined;
  const { sizes, steps } = coalesce(view.shape.slice(0, -1), [view.strides.slice(0, -1)]);
  if (sizes.length > 1) return undefined;
  return sizes.length === 0 ? n : steps[0]![0]!;
}

const rowsOf = (view: View) => view.shape.slice(0, -1).reduce((a, b) => a * b, 1);

export function rmsNorm(cpu: CpuContext, x: View, weight: View, eps: number, out: View, rstd: View): boolean {
  const [sx, so] = [rowStride(x), rowStride(out)];
  if (!isF32(x, out, rstd) || sx === undefined || so === undefined || !isDense(weight) || !isDense(rstd)) return false;
  if (weight.dtype !== "f32" && weight.dtype !== "bf16") return false;
  const n = x.shape.at(-1)!;
  const at = (view: View) => cpu.address(view, "rmsNorm");
  cpu.kernels.run(
    rmsNormKernels[weight.dtype],
    { n, inverseN: 1 / n, eps, x: at(x), sx, weight: at(weight), out: at(out), so, rstd: at(rstd) },
    rowsOf(x),
    rowChunk(n),
  );
  return true;
}

export function softmax(cpu: CpuContext, x: View, out: View): boolean {
  const [sx, so] = [rowStride(x), rowStride(out)];
  if (!isF32(x, out) || sx === undefined || so === undefined) return false;
  const n = x.shape.at(-1)!;
  const at = (view: View) => cpu.address(view, "softmax");
  cpu.kernels.run(softmaxKernel, { n, x: at(x), sx, out: at(out), so, ones: cpu.ones }, rowsOf(x), rowChunk(n));
  return true;
}

export function rmsNormBackward(
  cpu: CpuContext,
  grad: View,
  x: View,
  weight: View,
  rstd: View,
  gradX: View | undefined,
  gradWeight: View | undefined,
  accumulate = false,
): boolean {
  const [sg, sx, so] = [grad, x, gradX].map((view) => view && rowStride(view));
  if (!isF32(grad, x, rstd, gradX, gradWeight) || sg === undefined || sx === undefined) return false;
  if ((gradX && so === undefined) || !isDense(weight) || !isDense(rstd) || (gradWeight && !isDense(gradWeight)))
    return false;
  if (weight.dtype !== "f32" && weight.dtype !== "bf16") return false;
  const n = x.shape.at(-1)!;
  const rows = rowsOf(x);
  const at = (view: View) => cpu.address(view, "rmsNormBackward");
  const given = { n, grad: at(grad), sg, x: at(x), sx, rstd: at(rstd) };
  if (gradX) {
    const values = { ...given, inverseN: 1 / n, weight: at(weight), out: at(gradX), so: so! };
    cpu.kernels.run(rmsNormBackwardKernels[accumulate ? "add" : "set"][weight.dtype], values, rows, rowChunk(n));
  }
  if (gradWeight) {
    const items = Math.ceil(n / cpu.kernels.target.lanes);
    cpu.kernels.run(rmsNormWeightGradKernel, { ...given, rows, out: at(gradWeight) }, items, 8);
  }
  return true;
}

/** Angles of one call, kept for the next: every layer of a pass turns by the same. */
export class RopeTables {
  private positions = new Int32Array(0);
  private frequencies = new Float32Array(0);
  private inverse = false;
  private table: Float32Array = new Float32Array(0);
  /** Where it lies for kernels. */
  address = 0;

  /** cos [rows, half], then sin [rows, half], computed in double from angles rounded to f32; good until the next call. */
  of(cpu: CpuContext, positions: Int32Array, frequencies: Float32Array, inverse: boolean): Float32Array {
    if (this.inverse === inverse && same(this.positions, positions) && same(this.frequencies, frequencies)) {
      return this.table;
    }
    const [rows, half] = [positions.length, frequencies.length];
    if (this.address) cpu.memory.free(this.address);
    this.address = cpu.memory.allocate(8 * rows * half);
    const table = cpu.memory.f32(this.address, 2 * rows * half);
    this.table = table;
    for (let r = 0, i = 0; r < rows; r++) {
      for (let f = 0; f < half; f++, i++) {
        const angle = Math.fround(positions[r]! * frequencies[f]!);
        table[i] = Math.cos(angle);
        table[rows * half + i] = inverse ? -Math.sin(angle) : Math.sin(angle);
      }
    }
    this.positions = positions.slice();
    this.frequencies = frequencies.slice();
    this.inverse = inverse;
    return table;
  }
}

function same(a: Int32Array | Float32Array, b: Int32Array | Float32Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function rope(
  cpu: CpuContext,
  tables: RopeTables,
  x: View,
  positions: View,
  frequencies: View,
  inverse: boolean,
  out: View,
): boolean {
  if (!isF32(x, frequencies, out) || !isDense(positions) || !isDense(frequencies)) return false;
  const [rows, heads, size] = x.shape as [number, number, number];
  if (rows === 0 || x.strides[2] !== 1 || out.strides[2] !== 1) return false;
  const half = size / 2;
  const tableNow = () => {
    const places = cpu.array(positions).subarray(positions.offset, positions.offset + rows) as Int32Array;
    const turns = cpu.array(frequencies).subarray(frequencies.offset, frequencies.offset + half) as Float32Array;
    return tables.of(cpu, places, turns, inverse);
  };
  const turn = (cos: number) =>
    cpu.kernels.run(
      ropeKernel,
      {
        ...{ heads, half, cos, sin: cos + 4 * rows * half },
        ...{ x: cpu.address(x, "rope"), sx: x.strides[0]!, hx: x.strides[1]! },
        ...{ out: cpu.address(out, "rope"), so: out.strides[0]!, ho: out.strides[1]! },
      },
      rows,
      rowChunk(heads * size),
    );
  if (cpu.isRecording) {
    // In memory of its own: the next table may lie elsewhere.
    let own: Float32Array | undefined;
    const copy = (address: number) => (own ??= cpu.memory.f32(address, 2 * rows * half)).set(tableNow());
    cpu.written(8 * rows * half, copy, turn);
  } else {
    tableNow();
    turn(tables.address);
  }
  return true;
}

export function dropout(cpu: CpuContext, x: View, rows: View, p: number, key: RandomKey, out: View): boolean {
  const [sx, so] = [rowStride(x), rowStride(out)];
  if (!isF32(x, out) || sx === undefined || so === undefined || !isDense(rows)) return false;
  const [count, n] = x.shape as [number, number];
  if (!(p > 0 && p < 1)) return false;
  cpu.scratch(4 * DROPOUT_WORDS, (constants) => {
    cpu.touched();
    writeDropout(cpu.memory.u32(constants, DROPOUT_WORDS), key, p);
    const at = (view: View) => cpu.address(view, "dropout");
    const values = { n, scale: 1 / (1 - p), places: at(rows), constants, x: at(x), sx, out: at(out), so };
    cpu.kernels.run(dropoutKernel, values, count, Math.max(1, rowChunk(n) >> 3));
  });
  return true;
}

/** Elements of a parameter that one item updates. */
const ADAMW_COLUMNS = 4096;

export function adamW(cpu: CpuContext, args: AdamWArgs): boolean {
  const { param, grad, m, v, gradScale, lr, beta1, beta2, eps, weightDecay, step } = args;
  if (!isF32(param, grad, m, v, gradScale) || ![param, grad, m, v].every(isDense)) return false;
  const total = param.shape.reduce((a, b) => a * b, 1);
  const at = (view: View) => cpu.address(view, "adamW");
  const values = {
    ...{ columns: ADAMW_COLUMNS, total, param: at(param), grad: at(grad), m: at(m), v: at(v) },
    ...{ beta1, oneMinusBeta1: 1 - beta1, beta2, oneMinusBeta2: 1 - beta2, eps },
    gradScale: gradScale ? (cpu.array(gradScale)[gradScale.offset] as number) : 1,
    decay: 1 - lr * weightDecay,
    rate: lr / (1 - beta1 ** step),
    inverseCorrection2: 1 / Math.sqrt(1 - beta2 ** step),
  };
  cpu.kernels.run(adamWKernel, values, Math.ceil(total / ADAMW_COLUMNS), 4);
  return true;
}
