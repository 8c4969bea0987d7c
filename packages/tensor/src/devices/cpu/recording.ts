// Calls that are made again without what it costs to make them: kernels whose arguments are written already. What CUDA calls a
// graph. A decoded token is some 300 kernels; to find and write their arguments takes JavaScript 4 ms, and 10 while it is not yet
// compiled, where the kernels themselves take 17 (4-bit weights).
import type { Recording } from "../device.ts";
import type { Block, CpuContext } from "./context.ts";
import type { Kernel } from "./lang/kernel.ts";
import { argumentBlockBytes } from "./lang/kernel.ts";
import type { KernelIndex, Memory } from "./runtime/index.ts";

/** A kernel's run, its arguments in memory of the recording. */
export interface KernelCall {
  readonly kernel: KernelIndex;
  readonly name: string;
  /** Address of the arguments. */
  readonly args: number;
  readonly items: number;
  readonly chunk: number;
}

const CACHE_LINE = 64;
const wholeLines = (bytes: number) => Math.max(1, Math.ceil(bytes / CACHE_LINE)) * CACHE_LINE;

/** Memory for what is allocated in a recording: given and taken back inside it, and to nobody else until it is disposed of. */
export class Arena {
  readonly #memory: Memory;
  readonly #sizes = new Map<number, number>();
  readonly #free = new Map<number, number[]>();
  readonly #blocks: Block[] = [];

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  allocate(bytes: number): number {
    const size = wholeLines(bytes);
    const freed = this.#free.get(size)?.pop();
    if (freed !== undefined) return freed;
    const address = this.#memory.allocate(size);
    this.#sizes.set(address, size);
    return address;
  }

  free(address: number): void {
    const size = this.#sizes.get(address)!;
    const freed = this.#free.get(size);
    if (freed) freed.push(address);
    else this.#free.set(size, [address]);
  }

  /** Blocks of this memory are of no use once it is given back. */
  add(block: Block): void {
    this.#blocks.push(block);
  }

  dispose(): void {
    for (const block of this.#blocks.splice(0)) block.address = 0;
    for (const address of this.#sizes.keys()) this.#memory.free(address);
    this.#sizes.clear();
    this.#free.clear();
  }
}

/** A kernel's run as it is seen while recording. */
interface SeenCall extends Omit<KernelCall, "args"> {
  readonly args: Uint8Array;
}

/** Sees the calls of a device while they are made for the first time, and makes them again. */
export class CpuRecording implements Recording {
  readonly arena: Arena;
  readonly #cpu: CpuContext;
  readonly #seen: (SeenCall | (() => void))[] = [];
  /** What kernels' arguments point to and others own: while all of it lives, the addresses are good. */
  readonly #used = new Set<Block>();
  readonly #workspaces = new Set<number>();
  #steps: readonly (KernelCall | (() => void))[] = [];
  #args = 0;
  #repeatable = true;

  constructor(cpu: CpuContext) {
    this.#cpu = cpu;
    this.arena = new Arena(cpu.memory);
  }

  get repeatable(): boolean {
    const { space } = this.#cpu;
    if (!this.#repeatable) return false;
    for (const address of this.#workspaces) if (address !== space.address) return false;
    for (const { address } of this.#used) if (address === 0) return false;
    return true;
  }

  /** A kernel ran with these arguments. */
  ran(kernel: Kernel, index: KernelIndex, { buffer, byteOffset }: DataView, items: number, chunk: number): void {
    const args = new Uint8Array(buffer, byteOffset, argumentBlockBytes(kernel)).slice();
    this.#seen.push({ kernel: index, name: kernel.name, args, items, chunk });
  }
  /** Something is done on the host, and again each time. */
  did(step: () => void): void {
    this.#seen.push(step);
  }
  uses(block: Block): void {
    if (!block.arena) this.#used.add(block);
  }
  usesWorkspace(address: number): void {
    this.#workspaces.add(address);
  }
  /** The host has read or written memory in between, which kernels alone do not repeat. */
  spoil(): void {
    this.#repeatable = false;
  }

  /** Nothing more is recorded. */
  finish(): void {
    const { memory } = this.#cpu;
    const sizes = this.#seen.map((step) => (typeof step === "function" ? 0 : wholeLines(step.args.length)));
    const total = sizes.reduce((sum, size) => sum + size, 0);
    this.#args = memory.allocate(Math.max(CACHE_LINE, total));
    let at = this.#args;
    this.#steps = this.#seen.map((step, i) => {
      if (typeof step === "function") return step;
      const args = at;
      memory.u8(args, step.args.length).set(step.args);
      at += sizes[i]!;
      return { ...step, args };
    });
    this.#seen.length = 0;
  }

  replay(): boolean {
    if (!this.repeatable) return false;
    const { kernels } = this.#cpu;
    for (const step of this.#steps) {
      if (typeof step === "function") step();
      else kernels.call(step.kernel, step.name, step.items, step.chunk, step.args);
    }
    return true;
  }

  dispose(): void {
    this.#repeatable = false;
    this.#steps = [];
    this.#used.clear();
    this.arena.dispose();
    if (this.#args) this.#cpu.memory.free(this.#args);
    this.#args = 0;
  }
}

/** See `Device.record`. */
export function recordCalls<T>(cpu: CpuContext, body: () => T): { readonly result: T; readonly recording: Recording } {
  const recording = new CpuRecording(cpu);
  try {
    const result = cpu.record(recording, body);
    recording.finish();
    return { result, recording };
  } catch (error) {
    recording.dispose();
    throw error;
  }
}
