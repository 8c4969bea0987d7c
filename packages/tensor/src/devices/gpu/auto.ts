// Is there a GPU that is faster than the processor at what models do? Asked by `createDevice("auto")`.
import { maybeGpu } from "#webgpu";
import { BYTES } from "../../dtype.ts";
import { FILL } from "../../expr/program.ts";
import { Storage } from "../../memory.ts";
import type { Device, View } from "../device.ts";
import { GpuDevice } from "./device.ts";

/** Products of a training step and of one token's decoding, [rows, in, out]: a layer of a 0.5B model. */
const WORK = [
  [256, 896, 4864],
  [1, 896, 4864],
] as const;
const ROUNDS = 3;
const CALLS = 4;

/** Seconds of the work; the best of some rounds, after one that compiles. */
export async function secondsOfWork(device: Device): Promise<number> {
  let total = 0;
  for (const [rows, inner, columns] of WORK) {
    const filled = (dtype: "f32" | "bf16", shape: readonly [number, number]): View => {
      const storage = Storage.allocate(device, shape[0] * shape[1] * BYTES[dtype]);
      const view: View = { storage, dtype, offset: 0, shape, strides: [shape[1], 1] };
      device.elementwise(FILL, [0.25], [], view);
      return view;
    };
    const [x, weight, out] = [
      filled("f32", [rows, inner]),
      filled("bf16", [columns, inner]),
      filled("f32", [rows, columns]),
    ];
    const turned: View = { ...weight, shape: [inner, columns], strides: [1, inner] };
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round <= ROUNDS; round++) {
      const started = performance.now();
      for (let i = 0; i < CALLS; i++) device.matmul(x, turned, out);
      await device.synchronize();
      if (round > 0) best = Math.min(best, (performance.now() - started) / 1000);
    }
    total += best / CALLS;
    for (const { storage } of [x, weight, out]) storage.release();
  }
  return total;
}

/**
 * The GPU, if there is one and it does the work in less time than `other`; undefined otherwise. An adapter that computes on
 * the processor never wins: the compiled kernels are made for that.
 *
 * @param options what tests put in place of the machine: how the GPU is opened, how work is measured, whether there can be one
 */
export async function fasterGpu(
  other: Device,
  { open = GpuDevice.open, seconds = secondsOfWork, isPossible = maybeGpu } = {},
): Promise<GpuDevice | undefined> {
  // Where there can be none, nothing of WebGPU is loaded.
  if (!isPossible()) return undefined;
  let gpu: GpuDevice;
  try {
    gpu = await open();
  } catch {
    // No package, no adapter, or one that is not to be trusted: asked for by name, the device says which.
    return undefined;
  }
  try {
    if (!gpu.adapter.software && (await seconds(gpu)) < (await seconds(other))) return gpu;
  } catch {
    // It fails at the first work.
  }
  await gpu.dispose();
  return undefined;
}
