// May machine code run here, and on what processor?
import { CodeMemory, CodeMemoryError } from "./code-memory.ts";
import { type CpuInfo, detectCpu } from "./cpu-info.ts";
import type { NativeHost } from "./host.ts";

let refusalTold = false;

/** The processor, when machine code may run here; a refusal is told once. */
export function probe(host: NativeHost): { cpu: CpuInfo; code: CodeMemory } | undefined {
  const code = new CodeMemory(host);
  try {
    return { cpu: detectCpu(host, code), code };
  } catch (error) {
    if (!(error instanceof CodeMemoryError)) throw error;
    if (!refusalTold) console.warn(`${error.message}: using WebAssembly kernels, which are slower.`);
    refusalTold = true;
    return undefined;
  }
}
