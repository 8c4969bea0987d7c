/** Lowers a kernel to x86-64 machine code, for the vector unit its target has. */

import type { KernelCode } from "../lang/ir.ts";
import { removeMoves } from "./prepare.ts";
import { Avx2Emitter } from "./x64-avx2.ts";
import type { Abi, MachineCode } from "./x64-emitter.ts";

export type { Abi, MachineCode } from "./x64-emitter.ts";

/** Machine code of one kernel: a function that takes the address of its argument block and the range of its items. */
export function emitX64(code: KernelCode, options: { abi?: Abi; listing?: boolean } = {}): MachineCode {
  removeMoves(code);
  return new Avx2Emitter(code, options.abi ?? "sysv", options.listing ?? false).run();
}
