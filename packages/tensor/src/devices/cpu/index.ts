export { CpuDevice, type CpuDeviceOptions } from "./device.ts";
export { type Isa, IsaError, MappedFile, PoolError } from "./runtime/index.ts";
