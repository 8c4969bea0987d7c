export { GpuDevice } from "./device.ts";
