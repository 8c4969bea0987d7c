import { createDevice, type Device, Generator, linear, noGrad, rand, scope, type Tensor } from "@tslm/tensor";
import { measureGpuLimits } from "@tslm/tensor/measure";
import { checkProduct, type Measured, seconds } from "./measured.ts";

/** A product as large as the 0.5B model's largest layer has it with so many rows: rows, inner elements, columns. */
const LAYER = [512, 896, 4864] as const;
/** Weights read one after another by a decoded token: more than caches hold. */
const DECODED = 24;
const ROUNDS = 3;

/** Operations a second of x·weightᵀ for all weights, in 10⁹; checked before it is timed. */
async function rate(device: Device, x: Tensor, weights: readonly Tensor[]): Promise<number> {
  await checkProduct(x, weights[0]);
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const work = (): void => scope(() => weights.forEach((weight) => void linear(x, weight)));
    best = Math.min(best, await seconds(device, () => noGrad(work)));
  }
  const [columns, inner] = weights[0].shape;
  return (2 * x.shape[0] * inner * columns * weights.length) / best / 1e9;
}

/**
 * Products on the GPU of this machine, or on what pretends to be one, beside what shaders made for that reach there in registers
 * and reading in order.
 */
export async function gpuProducts(): Promise<Measured> {
  const device = await createDevice("gpu");
  try {
    const random = new Generator(1);
    const make = (rows: number, columns: number): Tensor =>
      noGrad(() => rand([rows, columns], random.next(), { device }).sub(0.5));
    const peak = await measureGpuLimits(device);
    const [rows, inner, columns] = LAYER;
    const [x, row, weight] = [make(rows, inner), make(1, inner), make(columns, inner)];
    const half = noGrad(() => weight.to("bf16"));
    const copies = Array.from({ length: DECODED }, () => noGrad(() => half.clone()));
    const value = await rate(device, x, [half]);
    const f32 = await rate(device, x, [weight]);
    // Two operations an element of two bytes.
    const decoded = await rate(device, row, copies);
    const after = await measureGpuLimits(device);
    const [gflops, gbytes] = [Math.max(peak.gflops, after.gflops), Math.max(peak.gbytes, after.gbytes)];
    const { name, isa, threads } = device.info;
    return {
      ...{ value, f32_gflops: f32, peak_gflops: gflops, of_peak: value / gflops },
      ...{ decode_gbytes_per_s: decoded, read_gbytes_per_s: gbytes, of_reading: decoded / gbytes },
      ...{ device: name, isa, threads },
    };
  } finally {
    await device.dispose();
  }
}
