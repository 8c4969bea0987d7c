// The ground that kernels stand on: processor, memory, code and threads, the same to the device whether kernels are
// machine code (Bun) or WebAssembly (Node, browsers, hardened systems).
import { native, probe } from "#native";
import { defaultThreads } from "#system";
import type { CodeMemory } from "./code-memory.ts";
import type { CpuInfo } from "./cpu-info.ts";
import type { KernelFunction, NativeHost } from "./host.ts";
import { chooseIsa, type Isa, IsaError } from "./isa.ts";
import { type Memory, WasmMemory } from "./memory.ts";
import { checkThreads, type KernelIndex, mayShare, type PoolOptions, WorkerPool } from "./pool.ts";

export type { CpuFeatures, CpuInfo } from "./cpu-info.ts";
export type { NativeHost } from "./host.ts";
export { type Isa, IsaError } from "./isa.ts";
export { type Memory, MemoryError, ViewedMemory } from "./memory.ts";
export { type KernelIndex, PoolError } from "./pool.ts";

export interface RuntimeOptions {
  /** Threads that compute; default: the physical cores this process may use. */
  readonly threads?: number;
  /** Tiers for which the caller can make kernels. */
  readonly emitters: readonly Isa[];
  /** Forces a tier; default: `TENSOR_ISA` of the environment, else the best. */
  readonly isa?: string;
  /** Memory of machine code in place of the usual heap: tests put every block between guard pages. */
  readonly memory?: (host: NativeHost) => Memory;
}

/** Room for the arguments of one kernel. */
const ARGUMENTS_BYTES = 1024;

export class Runtime {
  readonly isa: Isa;
  readonly threads: number;
  /** Undefined where machine code cannot run. */
  readonly cpu: CpuInfo | undefined;
  readonly memory: Memory;
  /** A block of arguments, for a `run` that follows at once; it lies at `argsAddress`. */
  readonly args: DataView;
  private readonly argsAddress: number;
  private readonly code: CodeMemory | undefined;
  private readonly pool: WorkerPool;

  /** @throws IsaError when the forced tier cannot run here */
  constructor(options: RuntimeOptions) {
    const probed = native && probe?.(native);
    this.cpu = probed?.cpu;
    const forced = options.isa ?? globalThis.process?.env?.TENSOR_ISA;
    let emitters = options.emitters;
    let isa = chooseIsa(this.cpu, emitters, forced);
    if (isa === "amx" && !native!.requestTiles()) {
      if (forced)
        throw new IsaError("TENSOR_ISA=amx is impossible here: the system refuses the use of tile registers.");
      emitters = emitters.filter((name) => name !== "amx");
      isa = chooseIsa(this.cpu, emitters, forced);
    }
    this.isa = isa;
    this.threads = checkThreads(options.threads ?? (mayShare ? defaultThreads() : 1));
    let kind: Pick<PoolOptions, "memory" | "prelude">;
    if (isa === "wasm") {
      probed?.code.dispose();
      const memory = new WasmMemory();
      this.memory = memory;
      kind = { memory: memory.memory };
    } else {
      this.code = probed!.code;
      this.memory = options.memory?.(native!) ?? probed!.createMemory();
      kind = { prelude: native!.workerPrelude };
    }
    const block = this.memory.u8((this.argsAddress = this.memory.allocate(ARGUMENTS_BYTES)), ARGUMENTS_BYTES);
    this.args = new DataView(block.buffer, block.byteOffset, ARGUMENTS_BYTES);
    this.pool = new WorkerPool({ threads: this.threads, ...kind });
  }

  /**
   * Makes a kernel runnable.
   * @param code machine code with its entry at the first byte, or a WebAssembly module that imports `env.memory`
   *   (shared, maximum 65,536 pages) and exports `kernel(args, begin, end)`
   */
  load(name: string, code: Uint8Array): KernelIndex {
    if (this.code) {
      const address = this.code.add(name, code);
      return this.pool.register(name, native!.kernelAt(address), address, code.length);
    }
    const { memory } = this.memory as WasmMemory;
    const instance = new WebAssembly.Instance(new WebAssembly.Module(code as Uint8Array<ArrayBuffer>), {
      env: { memory },
    });
    // The threads make their own instance from these bytes; they stay for the device's life.
    const address = this.memory.allocate(code.length);
    this.memory.u8(address, code.length).set(code);
    return this.pool.register(name, instance.exports.kernel as KernelFunction, address, code.length);
  }

  /**
   * Runs a kernel over items 0 … items−1 on all threads, in chunks; returns when all are done.
   * @param args address of its arguments; where `args` writes them unless given
   */
  run(kernel: KernelIndex, items: number, chunk = 1, args = this.argsAddress): void {
    this.pool.run(kernel, args, items, chunk);
  }

  /** The address of bytes that lie outside `memory`, or undefined where kernels cannot see them (WebAssembly). */
  addressOf(bytes: Uint8Array): number | undefined {
    // Short arrays move when their buffer is touched; only long ones and views of foreign memory have a lasting address.
    return this.code && bytes.byteLength > 1000 ? native!.addressOf(bytes) : undefined;
  }

  /** Ends the threads, then unmaps the code and gives the memory back. */
  async dispose(): Promise<void> {
    await this.pool.close();
    this.code?.dispose();
    this.memory.dispose?.();
  }
}
