// Kernels compiled on first use for the runtime's tier, and their calls.
import { emitX64 } from "./emit/x64.ts";
import { type ArgumentTypes, type ArgumentValues, buildKernel, type Kernel, writeArguments } from "./lang/kernel.ts";
import { AVX2, type Target } from "./lang/target.ts";
import type { Isa, KernelIndex, Runtime } from "./runtime/index.ts";

/** Tiers for which kernels can be compiled. */
export const emitters: readonly Isa[] = ["avx2"];

const TARGETS: { readonly [I in Isa]?: Target } = { avx2: AVX2 };

export class KernelLibrary {
  readonly target: Target;
  private readonly runtime: Runtime;
  private readonly loaded = new Map<unknown, KernelIndex>();

  constructor(runtime: Runtime) {
    this.runtime = runtime;
    this.target = TARGETS[runtime.isa]!;
  }

  /** Runs a kernel over its items on all threads, `chunk` items a call; returns when all are done. */
  run<A extends ArgumentTypes>(kernel: Kernel<A>, values: ArgumentValues<A>, items: number, chunk = 1): void {
    const index = this.loaded.get(kernel) ?? this.load(kernel);
    writeArguments(kernel, this.runtime.args, 0, values);
    this.runtime.run(index, items, chunk);
  }

  private load<A extends ArgumentTypes>(kernel: Kernel<A>): KernelIndex {
    const { code } = emitX64(buildKernel(kernel, this.target));
    const index = this.runtime.load(kernel.name, code);
    this.loaded.set(kernel, index);
    return index;
  }
}
