import { type CreateDeviceOptions, createDevice, type DeviceName } from "./devices/create.ts";
import type { Device } from "./devices/device.ts";
import { setDefaultDevice } from "./devices/registry.ts";

/** How far {@link init} is. */
export interface InitProgress {
  /** `loading` the device's code, then `ready`. */
  readonly stage: "loading" | "ready";
  /** For people. */
  readonly message: string;
}

/** Settings of {@link init}. */
export interface InitOptions extends CreateDeviceOptions {
  /** `auto` (the fastest that runs here) unless given. */
  readonly device?: DeviceName;
  /** Called at each stage. */
  readonly progress?: (progress: InitProgress) => void;
}

/**
 * Starts a device and makes later tensors on it; living ones stay where they are, and so does their device until its
 * `dispose()`. Without it all is computed by plain loops, on the reference device.
 *
 * @example
 * import * as tensor from "@tslm/tensor";
 * await tensor.init({ device: "cpu", threads: 4 });
 * @throws DeviceError for an unknown name
 */
export async function init({ device = "auto", progress, ...options }: InitOptions = {}): Promise<Device> {
  progress?.({ stage: "loading", message: `Starting the device ${device}` });
  const made = await createDevice(device, options);
  setDefaultDevice(made);
  const { name, isa, threads, warning } = made.info;
  const counted = threads > 1 ? `${threads} threads` : "1 thread";
  progress?.({ stage: "ready", message: `Computing on ${name} (${isa}), ${counted}${warning ? `; ${warning}` : ""}` });
  return made;
}
