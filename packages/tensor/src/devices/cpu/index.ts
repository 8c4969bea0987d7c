export { CpuDevice, type CpuDeviceOptions } from "./device.ts";
export { type Isa, IsaError, PoolError } from "./runtime/index.ts";
