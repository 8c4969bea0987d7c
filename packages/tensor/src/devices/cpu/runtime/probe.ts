// May machine code run here, and on what processor?
import { CodeMemory, CodeMemoryError } from "./code-memory.ts";
import { type CpuInfo, detectCpu } from "./cpu-info.ts";
import type { NativeHost } from "./host.ts";
import type { Memory } from "./memory.ts";
import { NativeMemory } from "./native-memory.ts";

let refusalTold = false;

/** What machine code needs. */
export interface Probed {
  readonly cpu: CpuInfo;
  readonly code: CodeMemory;
  readonly createMemory: () => Memory;
}

/** The processor, when machine code may run here; a refusal is told once. */
export function probe(host: NativeHost): Probed | undefined {
  const code = new CodeMemory(host);
  try {
    return { cpu: detectCpu(host, code), code, createMemory: () => new NativeMemory(host) };
  } catch (error) {
    if (!(error instanceof CodeMemoryError)) throw error;
    if (!refusalTold) console.warn(`${error.message}: using WebAssembly kernels, which are slower.`);
    refusalTold = true;
    return undefined;
  }
}
