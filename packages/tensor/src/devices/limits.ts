import { DeviceError } from "../errors.ts";
import type { CpuLimits, CpuPeak } from "./cpu/limits.ts";
import type { WasmLoops } from "./cpu/wasm-loops.ts";
import type { CreateDeviceOptions } from "./create.ts";
import type { Device } from "./device.ts";
import type { GpuLimits } from "./gpu/limits.ts";

export type { CpuLimits, CpuPeak, GpuLimits, WasmLoops };

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

/** The processor's part of {@link measureLimits} alone, in some hundredths of a second: the peak of the moment. */
export async function measurePeak(options: CreateDeviceOptions = {}): Promise<CpuPeak> {
  const cpu = await import("./cpu/limits.ts");
  return cpu.measurePeak(options);
}

/**
 * What WebAssembly SIMD gives on one thread at most, for benchmarks: loops written by hand, which the kernels of that tier are
 * held against. Takes about half a second.
 */
export async function measureWasmLoops(): Promise<WasmLoops> {
  const wasm = await import("./cpu/wasm-loops.ts");
  return wasm.measureWasmLoops();
}

/**
 * What a GPU gives at most, for benchmarks: multiply-adds in registers and reading in order, by shaders made for that.
 *
 * @throws DeviceError unless the device is a `gpu`
 */
export async function measureGpuLimits(device: Device): Promise<GpuLimits> {
  const [{ GpuDevice }, limits] = await Promise.all([import("./gpu/index.ts"), import("./gpu/limits.ts")]);
  if (!(device instanceof GpuDevice)) throw new DeviceError("measureGpuLimits", `${device.info.name} is not a GPU`);
  return limits.measureGpuLimits(device.context);
}

/** What a device says of itself, in words and numbers; of a GPU: who gives it, features, and limits. */
export async function describeDevice(device: Device): Promise<Record<string, string | number>> {
  const { name, isa, threads } = device.info;
  const said = { device: name, isa, threads };
  // No GPU is loaded to find out that a device is none.
  if (name !== "gpu") return { ...said, types: device.dtypes.join(" ") };
  const [{ GpuDevice }, { FallbackDevice, MOST_ELEMENTS }] = await Promise.all([
    import("./gpu/index.ts"),
    import("./gpu/fallback/device.ts"),
  ]);

  if (device instanceof FallbackDevice) {
    const { backend, refused, dtypes } = device;
    const why: Record<string, string> = refused.length > 0 ? { refused: refused.join("; ") } : {};
    return {
      ...{ ...said, adapter: backend.describe(), backend: `${backend.name} of gpu.js`, types: dtypes.join(" ") },
      ...{ maxElementsOfKernel: MOST_ELEMENTS, ...backend.limits(), ...why },
    };
  }
  if (!(device instanceof GpuDevice)) return said;
  const { vendor, architecture, description, software, provider, features, limits } = device.adapter;
  return {
    ...said,
    ...{ adapter: `${vendor} ${architecture} ${description}`, software: software ? "yes" : "no" },
    ...{
      backend: `WebGPU of ${provider}`,
      features: features.join(" "),
      subgroupNeighbours: device.context.subgroup,
      types: device.dtypes.join(" "),
    },
    ...limits,
  };
}
