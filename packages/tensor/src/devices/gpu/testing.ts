import { DeviceError } from "../../errors.ts";
import { GpuDevice, type GpuOptions } from "./device.ts";

/** The GPU of this machine for tests, or why there is none. */
export async function gpuHere(): Promise<{
  missing: string | undefined;
  open: (options?: GpuOptions) => Promise<GpuDevice>;
}> {
  const open = (options?: GpuOptions): Promise<GpuDevice> => GpuDevice.open(options);
  try {
    await (await open()).dispose();
    return { missing: undefined, open };
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    return { missing: error.message, open };
  }
}
