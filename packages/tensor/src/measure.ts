// What operations took, and what the machine allows: for benchmarks, apart from what programs and pages load.
export {
  type CpuLimits,
  type CpuPeak,
  describeDevice,
  type GpuLimits,
  measureGpuLimits,
  measureLimits,
  measurePeak,
  measureWasmLoops,
  type WasmLoops,
} from "./devices/limits.ts";
export { type Call, Profile, type ProfileRow, profiled, profileRows, quietest } from "./devices/profile/index.ts";
