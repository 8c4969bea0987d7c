// Kernels compiled on first use for the runtime's tier, and their calls.
import { emitWasm } from "./emit/wasm.ts";
import { emitX64 } from "./emit/x64.ts";
import type { KernelCode } from "./lang/ir.ts";
import { type ArgumentTypes, type ArgumentValues, buildKernel, type Kernel, writeArguments } from "./lang/kernel.ts";
import { AVX2, type Target, WASM } from "./lang/target.ts";
import type { Isa, KernelIndex, Runtime } from "./runtime/index.ts";

interface Tier {
  readonly target: Target;
  readonly emit: (code: KernelCode) => Uint8Array;
}

const TIERS: { readonly [I in Isa]?: Tier } = {
  avx2: { target: AVX2, emit: (code) => emitX64(code).code },
  wasm: { target: WASM, emit: emitWasm },
};

/** Tiers for which kernels can be compiled. */
export const emitters = Object.keys(TIERS) as readonly Isa[];

export class KernelLibrary {
  readonly target: Target;
  private readonly tier: Tier;
  private readonly runtime: Runtime;
  private readonly loaded = new Map<unknown, KernelIndex>();

  constructor(runtime: Runtime) {
    this.runtime = runtime;
    this.tier = TIERS[runtime.isa]!;
    this.target = this.tier.target;
  }

  /** Runs a kernel over its items on all threads, `chunk` items a call; returns when all are done. */
  run<A extends ArgumentTypes>(kernel: Kernel<A>, values: ArgumentValues<A>, items: number, chunk = 1): void {
    const index = this.loaded.get(kernel) ?? this.load(kernel);
    writeArguments(kernel, this.runtime.args, 0, values);
    this.runtime.run(index, items, chunk);
  }

  private load<A extends ArgumentTypes>(kernel: Kernel<A>): KernelIndex {
    const index = this.runtime.load(kernel.name, this.tier.emit(buildKernel(kernel, this.target)));
    this.loaded.set(kernel, index);
    return index;
  }
}
