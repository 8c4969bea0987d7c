// Node and browsers: kernels are WebAssembly.
import type { MachineCode } from "./machine-code.ts";

export const machineCode: MachineCode | undefined = undefined;
