import type { CpuLimits } from "./cpu/limits.ts";
import type { CreateDeviceOptions } from "./create.ts";

export type { CpuLimits };

/**
 * What this machine's processor and memory give at most, for benchmarks: multiply-adds in registers and reading in order,
 * on all threads. Takes about a second, and wants the machine for itself.
 *
 * @throws IsaError when a forced tier (`TENSOR_ISA`) cannot run here
 */
export async function measureLimits(options: CreateDeviceOptions = {}): Promise<CpuLimits> {
  const cpu = await import("./cpu/limits.ts");
  return cpu.measureLimits(options);
}
