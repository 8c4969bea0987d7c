// Kernels compiled on first use for the runtime's tier, and their calls.
import { machineCode } from "#machine-code";
import { debug, recordTime } from "./debug.ts";
import { emitWasm } from "./emit/wasm.ts";
import { type ArgumentTypes, type ArgumentValues, buildKernel, type Kernel, writeArguments } from "./lang/kernel.ts";
import { AVX2, type Target, WASM } from "./lang/target.ts";
import type { Tier } from "./machine-code.ts";
import type { CpuRecording } from "./recording.ts";
import type { Isa, KernelIndex, Runtime } from "./runtime/index.ts";

const TIERS: { readonly [I in Isa]?: Tier } = {
  ...machineCode?.tiers,
  wasm: { target: WASM, emit: (code) => ({ code: emitWasm(code), listing: [] }) },
};

/** Tiers for which kernels can be compiled. */
export const emitters = Object.keys(TIERS) as readonly Isa[];

export class KernelLibrary {
  readonly target: Target;
  private readonly tier: Tier;
  private readonly runtime: Runtime;
  private readonly loaded = new Map<unknown, KernelIndex>();
  /** Sees what is run. */
  recording: CpuRecording | undefined;

  constructor(runtime: Runtime) {
    this.runtime = runtime;
    this.tier = TIERS[runtime.isa]!;
    this.target = this.tier.target;
  }

  /** Runs a kernel over its items on all threads, `chunk` items a call; returns when all are done. */
  run<A extends ArgumentTypes>(kernel: Kernel<A>, values: ArgumentValues<A>, items: number, chunk = 1): void {
    const index = this.loaded.get(kernel) ?? this.load(kernel);
    const { args } = this.runtime;
    writeArguments(kernel, args, 0, values);
    this.recording?.ran(kernel as unknown as Kernel, index, args, items, chunk);
    this.call(index, kernel.name, items, chunk);
  }

  /** Runs a kernel whose arguments are written: where `run` writes them, or at an address. */
  call(kernel: KernelIndex, name: string, items: number, chunk: number, args?: number): void {
    if (!debug.timings) {
      this.runtime.run(kernel, items, chunk, args);
      return;
    }
    const begin = performance.now();
    this.runtime.run(kernel, items, chunk, args);
    recordTime(name, performance.now() - begin);
  }

  private load<A extends ArgumentTypes>(kernel: Kernel<A>): KernelIndex {
    // Every processor with the wider vectors has the narrower ones too.
    const target = this.target.lanes > (kernel.maximumLanes ?? this.target.lanes) ? AVX2 : this.target;
    const { code, listing } = this.tier.emit(buildKernel(kernel, target), debug.code, this.runtime.cpu?.features);
    if (debug.code) console.error(`${kernel.name}, ${target.name}, ${code.length} bytes\n${listing.join("\n")}\n`);
    const index = this.runtime.load(kernel.name, code);
    this.loaded.set(kernel, index);
    return index;
  }
}
