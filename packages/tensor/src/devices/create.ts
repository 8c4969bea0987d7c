import { DeviceError } from "../errors.ts";
import { hasGpu } from "./adapter.ts";
import type { Device } from "./device.ts";
import { reference } from "./registry.ts";

/** Names that {@link createDevice} takes. */
export const DEVICE_NAMES = ["auto", "cpu", "gpu", "reference"] as const;

/** A name that {@link createDevice} takes. */
export type DeviceName = (typeof DEVICE_NAMES)[number];

/** How a device is set up. */
export interface CreateDeviceOptions {
  /** Threads that compute; default: the physical cores this process may use. */
  threads?: number;
  /** For the cpu device: forces a tier of kernels (`avx2`, `wasm`, …); default: `TENSOR_ISA`, else the best that runs here. */
  isa?: string;
  /** For the cpu device, where the processor multiplies bf16 (AMX): `bf16` rounds the factors of matrix products; default `f32`. */
  precision?: "f32" | "bf16";
  /** For the gpu device: the backend of gpu.js, and no other; default: `TENSOR_GPU_BACKEND`, else the first that works here. */
  backend?: "webgpu" | "webgl2" | "webasm" | "cpu";
  /** For the gpu device on WebGPU: use the adapter's subgroups where it has them; default: unless `TENSOR_GPU_SUBGROUPS` is 0. */
  subgroups?: boolean;
}

/**
 * The device of that name, started; `auto` takes the fastest that runs here. Devices are loaded when asked for.
 *
 * @example setDefaultDevice(await createDevice("auto"));
 * @throws DeviceError for an unknown name, and for `gpu` where there is none, with what to install
 */
export async function createDevice(name: DeviceName, options: CreateDeviceOptions = {}): Promise<Device> {
  switch (name) {
    case "reference":
      return reference;
    case "auto": {
      const cpu = await createDevice("cpu", options);
      // Only where two devices are to be measured is the code of both loaded.
      if (!(await hasGpu())) return cpu;
      const { fasterGpu } = await import("./gpu/auto.ts");
      const gpu = await fasterGpu(cpu);
      if (gpu) await cpu.dispose();
      return gpu ?? cpu;
    }
    case "cpu": {
      const { CpuDevice } = await import("./cpu/index.ts");
      return new CpuDevice(options);
    }
    case "gpu": {
      const { openGpuDevice } = await import("./gpu/open.ts");
      return openGpuDevice(options.backend, options);
    }
    default:
      throw new DeviceError("createDevice", `no device is called "${name}"; there are ${DEVICE_NAMES.join(", ")}`);
  }
}
