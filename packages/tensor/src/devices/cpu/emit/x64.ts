/** Lowers a kernel to x86-64 machine code, for the vector unit its target has. */

import type { KernelCode } from "../lang/ir.ts";
import { removeMoves } from "./prepare.ts";
import { Avx2Emitter } from "./x64-avx2.ts";
import { Avx512Emitter } from "./x64-avx512.ts";
import type { Abi, MachineCode } from "./x64-emitter.ts";

export type { Abi, MachineCode } from "./x64-emitter.ts";

/** Machine code of one kernel: a function that takes the address of its argument block and the range of its items. */
export function emitX64(code: KernelCode, options: { abi?: Abi; listing?: boolean } = {}): MachineCode {
  removeMoves(code);
  const Emitter = code.target.lanes === 16 ? Avx512Emitter : Avx2Emitter;
  return new Emitter(code, options.abi ?? "sysv", options.listing ?? false).run();
}
