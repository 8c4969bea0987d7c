// What the files of this folder need of the device to call kernels.
import { BYTES, type DType, type TypedArray, typedArray } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import type { Storage } from "../../memory.ts";
import type { View } from "../device.ts";
import { debug } from "./debug.ts";
import { emitters, KernelLibrary } from "./kernel-library.ts";
import type { Terms } from "./kernels/gemm-tiles.ts";
import type { Arena, CpuRecording } from "./recording.ts";
import { type Memory, MemoryError, Runtime, type RuntimeOptions } from "./runtime/index.ts";

/** Memory behind a storage. */
export interface Block {
  /** Where kernels see it; 0 while bytes taken over by `map` are not in the kernels' memory. */
  address: number;
  readonly bytes: number;
  /** Bytes taken over by `map`, kept alive here. */
  readonly source: Uint8Array | undefined;
  /** Whether `address` is a block of the device's own memory, to be freed. */
  owned: boolean;
  /** Of a recording's memory: never freed before that is. */
  readonly arena?: Arena;
  /** One typed array over the whole block for each type asked for. */
  readonly arrays: Partial<Record<DType | "u8", TypedArray | Uint8Array>>;
}

/** How matrix products take f32 numbers where the processor multiplies bf16 (AMX). */
export type Precision = "f32" | "bf16";

export interface CpuContextOptions extends Omit<RuntimeOptions, "emitters"> {
  readonly precision?: Precision;
  /** Kernels in place of the runtime's own: tests model those that no computer at hand can run. */
  readonly kernels?: (runtime: Runtime) => KernelLibrary;
}

/**
 * bf16 numbers that an f32 number is taken as. `TENSOR_TERMS` says how many stand for full precision: two keep 16 bits
 * of mantissa, three all.
 */
function termsOf(precision: Precision): Terms {
  const given = globalThis.process?.env?.TENSOR_TERMS;
  if (given && given !== "2" && given !== "3")
    throw new DeviceError("cpu", `TENSOR_TERMS is ${given}; it must be 2 or 3`);
  if (precision === "bf16") return 1;
  return given === "3" ? 3 : 2;
}

/** Bytes of a constant that kernels may read: a vector's width several times over. */
export const CONSTANT_BYTES = 1024;

/** @throws DeviceError where its memory is gone */
function alive({ handle }: Storage, op: string): Block {
  const block = handle as Block;
  if (block.address || block.source) return block;
  throw new DeviceError(op, "a tensor was used after its memory was freed");
}

export class CpuContext {
  readonly runtime: Runtime;
  readonly memory: Memory;
  readonly kernels: KernelLibrary;
  readonly threads: number;
  /** bf16 numbers that stand for an f32 number in products on matrix tiles. */
  readonly terms: Terms;
  /** Address of 1,024 bytes of zeros. */
  readonly zeros: number;
  /** Address of 256 f32 ones: loaded in part, they tell a vector's lanes that count. */
  readonly ones: number;
  private readonly slots: number;
  /** Scratch memory of all threads, see {@link workspace}. */
  space = { address: 0, bytes: 0 };
  #recording: CpuRecording | undefined;

  /** @throws IsaError when a forced tier cannot run here */
  constructor({ precision = "f32", kernels, ...options }: CpuContextOptions) {
    this.terms = termsOf(precision);
    this.runtime = new Runtime({ ...options, emitters });
    this.memory = this.runtime.memory;
    this.threads = this.runtime.threads;
    this.kernels = kernels?.(this.runtime) ?? new KernelLibrary(this.runtime);
    if (debug.device) {
      const { isa, threads, cpu } = this.runtime;
      console.error(`cpu device: ${isa}, ${threads} threads, ${cpu?.brand ?? "no machine code here"}`);
    }
    this.zeros = this.memory.allocate(CONSTANT_BYTES);
    this.memory.u8(this.zeros, CONSTANT_BYTES).fill(0);
    this.ones = this.memory.allocate(CONSTANT_BYTES);
    this.memory.f32(this.ones, CONSTANT_BYTES / 4).fill(1);
    this.slots = this.memory.allocate(4 * this.threads);
    this.memory.i32(this.slots, this.threads).fill(0);
  }

  /** Scratch memory of at least `bytes` for each thread, and the flags by which kernels claim it. */
  workspace(bytes: number): { address: number; slots: number } {
    if (this.space.bytes < bytes) {
      if (this.space.address) this.memory.free(this.space.address);
      this.space = { address: this.memory.allocate(bytes * this.threads), bytes };
    }
    this.#recording?.usesWorkspace(this.space.address);
    return { address: this.space.address, slots: this.slots };
  }

  /** Lends memory for the time of `body`, which gets its address. */
  scratch<T>(bytes: number, body: (address: number) => T): T {
    const memory = this.#recording?.arena ?? this.memory;
    const address = memory.allocate(bytes);
    try {
      return body(address);
    } finally {
      memory.free(address);
    }
  }

  /** Whether calls are being recorded: those that choose by what may be another the next time leave the choice out. */
  get isRecording(): boolean {
    return this.#recording !== undefined;
  }

  /**
   * Memory that the host writes before kernels read it, lent for the time of `body`; a recording keeps it and has `write` called
   * again each time.
   */
  written(bytes: number, write: (address: number) => void, body: (address: number) => void): void {
    const lend = (address: number): void => {
      this.onHost(() => write(address));
      body(address);
    };
    if (this.#recording) lend(this.#recording.arena.allocate(bytes));
    else this.scratch(bytes, lend);
  }

  /**
   * Does what is more than running kernels on addresses: reading or writing memory here, or choosing by what it holds. A
   * recording does it again as a whole.
   */
  onHost(step: () => void): void {
    this.#recording?.did(step);
    if (this.#recording) this.record(undefined, step);
    else step();
  }

  /** Runs `body` and has its calls recorded, or not. */
  record<T>(recording: CpuRecording | undefined, body: () => T): T {
    const before = this.#recording;
    this.#recording = recording;
    this.kernels.recording = recording;
    try {
      return body();
    } finally {
      this.#recording = before;
      this.kernels.recording = before;
    }
  }

  /** The host reads or writes what kernels see, outside of `onHost`. */
  touched(): void {
    this.#recording?.spoil();
  }

  allocate(bytes: number): Block {
    const arena = this.#recording?.arena;
    const address = this.#take(arena ?? this.memory, bytes);
    const block: Block = { address, bytes, source: undefined, owned: true, arena, arrays: {} };
    arena?.add(block);
    return block;
  }

  #take(memory: Pick<Memory, "allocate">, bytes: number): number {
    try {
      return memory.allocate(bytes);
    } catch (cause) {
      if (!(cause instanceof MemoryError)) throw cause;
      throw new DeviceError("allocate", `no memory for ${bytes} bytes on cpu: ${cause.message}`, { cause });
    }
  }

  /**
   * Machine code reads the bytes where they are. A WebAssembly module cannot: bytes that a kernel needs are copied whole
   * into its memory on first use and stay there; the reference's loops read them in place.
   */
  map(bytes: Uint8Array, elementBytes: number): Block {
    const address = this.runtime.addressOf(bytes);
    const block: Block = { address: address ?? 0, bytes: bytes.byteLength, source: bytes, owned: false, arrays: {} };
    if (bytes.byteOffset % elementBytes === 0 && (address ?? 0) % elementBytes === 0) return block;
    this.adopt(block);
    return { ...block, source: undefined };
  }

  free(block: Block): void {
    if (block.arena) {
      // Calls that are made again find it where it was.
      if (block.address) block.arena.free(block.address);
      return;
    }
    if (block.owned) this.memory.free(block.address);
    block.owned = false;
    block.address = 0;
  }

  #touch(storage: Storage): Block {
    this.touched();
    return alive(storage, "read");
  }

  bytes(storage: Storage): Uint8Array {
    const block = this.#touch(storage);
    return (block.arrays.u8 ??= block.source ?? this.memory.u8(block.address, block.bytes)) as Uint8Array;
  }

  /** The storage of a view as elements of its type. */
  array(view: View): TypedArray {
    const block = this.#touch(view.storage);
    let array = block.arrays[view.dtype];
    if (array === undefined) {
      const { buffer, byteOffset, byteLength } = this.bytes(view.storage);
      array = typedArray(view.dtype, buffer, byteOffset, Math.floor(byteLength / BYTES[view.dtype]));
      block.arrays[view.dtype] = array;
    }
    return array as TypedArray;
  }

  /** The storage of an f32 view as its bits. */
  bits(view: View): Uint32Array {
    const { buffer, byteOffset, length } = this.array(view);
    return new Uint32Array(buffer, byteOffset, length);
  }

  /** The address of a view's first element, for kernels. @throws DeviceError unless the whole view lies in its storage */
  address(view: View, op: string): number {
    this.check(view, op);
    const block = view.storage.handle as Block;
    if (block.address === 0) this.adopt(block);
    this.#recording?.uses(block);
    return block.address + view.offset * BYTES[view.dtype];
  }

  /** @throws DeviceError unless the whole view lies in its living storage */
  check(view: View, op: string): void {
    const block = alive(view.storage, op);
    let first = view.offset;
    let last = view.offset;
    for (let d = 0; d < view.shape.length; d++) {
      if (view.shape[d] === 0) return;
      const reach = (view.shape[d]! - 1) * view.strides[d]!;
      if (reach < 0) first += reach;
      else last += reach;
    }
    if (first >= 0 && (last + 1) * BYTES[view.dtype] <= block.bytes) return;
    throw new DeviceError(
      op,
      `a view of shape [${view.shape}] at element ${view.offset} leaves its storage of ${block.bytes} bytes`,
    );
  }

  /** Copies mapped bytes into the kernels' memory. */
  private adopt(block: Block): void {
    const address = this.#take(this.memory, block.bytes);
    this.memory.u8(address, block.bytes).set(block.source!);
    block.address = address;
    block.owned = true;
  }
}
