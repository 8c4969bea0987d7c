// The gpu device, on the first backend of gpu.js that works here.
import { DeviceError } from "../../errors.ts";
import type { Device } from "../device.ts";
import type { GpuOptions } from "./device.ts";
import { FALLBACKS, type FallbackName } from "./fallback/backend.ts";

/** Backends of the gpu device, in the order in which they are tried. */
export const GPU_BACKENDS = ["webgpu", ...FALLBACKS] as const;

/** A backend of {@link GPU_BACKENDS}. */
export type GpuBackend = (typeof GPU_BACKENDS)[number];

/**
 * The gpu device: on WebGPU, or where that is absent or computes wrongly on the first of gpu.js' other backends that works
 * (`webgl2` in browsers, `webasm`, `cpu`). What it runs on is its `info.isa`.
 *
 * @param backend that one and no other; default: `TENSOR_GPU_BACKEND` of the environment, else the first that works
 * @param options of the device on WebGPU
 * @throws DeviceError when none works, or not the one named, with the reasons
 */
export async function openGpuDevice(
  backend: string | undefined = globalThis.process?.env?.TENSOR_GPU_BACKEND || undefined,
  options: GpuOptions = {},
): Promise<Device> {
  if (backend !== undefined && !GPU_BACKENDS.includes(backend as GpuBackend)) {
    throw new DeviceError("gpu", `no backend is called "${backend}"; there are ${GPU_BACKENDS.join(", ")}`);
  }
  const refused: string[] = [];
  if (backend === undefined || backend === "webgpu") {
    const { GpuDevice } = await import("./device.ts");
    try {
      return await GpuDevice.open(options);
    } catch (error) {
      if (backend !== undefined || !(error instanceof DeviceError)) throw error;
      refused.push(`webgpu: ${error.message}`);
    }
  }
  const { openFallback } = await import("./fallback/open.ts");
  return openFallback(backend === undefined ? FALLBACKS : [backend as FallbackName], refused);
}
