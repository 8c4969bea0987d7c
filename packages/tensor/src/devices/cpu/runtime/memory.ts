// The memory that kernels compute in, WebAssembly's or native (native-memory.ts): blocks by address, and typed arrays over any range of it.
import { Heap, type HeapStats, MemoryError } from "./heap.ts";

export { MemoryError } from "./heap.ts";

/** Addresses are plain numbers: pointers natively, offsets into the WebAssembly memory otherwise. */
export interface Memory {
  /** A block of at least `bytes` bytes, 64-aligned, contents undefined. @throws MemoryError when there is none left. */
  allocate(bytes: number): number;
  free(address: number): void;
  /** The buffer that holds a range and the range's place in it. Ranges are at most 4 GiB. */
  buffer(address: number, bytes: number): { buffer: ArrayBufferLike; byteOffset: number };
  u8(address: number, length: number): Uint8Array;
  i32(address: number, length: number): Int32Array;
  u32(address: number, length: number): Uint32Array;
  f32(address: number, length: number): Float32Array;
  stats(): HeapStats;
  /** Gives all pages back, where the system takes them. */
  dispose?(): void;
}

/** Typed arrays over memory, given where a range lies. */
export abstract class ViewedMemory {
  abstract buffer(address: number, bytes: number): { buffer: ArrayBufferLike; byteOffset: number };

  u8(address: number, length: number): Uint8Array {
    const { buffer, byteOffset } = this.buffer(address, length);
    return new Uint8Array(buffer, byteOffset, length);
  }

  i32(address: number, length: number): Int32Array {
    const { buffer, byteOffset } = this.buffer(address, length * 4);
    return new Int32Array(buffer, byteOffset, length);
  }

  u32(address: number, length: number): Uint32Array {
    const { buffer, byteOffset } = this.buffer(address, length * 4);
    return new Uint32Array(buffer, byteOffset, length);
  }

  f32(address: number, length: number): Float32Array {
    const { buffer, byteOffset } = this.buffer(address, length * 4);
    return new Float32Array(buffer, byteOffset, length);
  }
}

/** Blocks of a heap. */
export abstract class HeapMemory extends ViewedMemory {
  protected abstract readonly heap: Heap;

  allocate(bytes: number): number {
    return this.heap.allocate(bytes);
  }

  free(address: number): void {
    this.heap.free(address);
  }

  stats(): HeapStats {
    return this.heap.stats();
  }
}

const WASM_PAGE_BYTES = 65536;
/** 4 GiB, the end of 32-bit addresses. Modules must declare the same maximum. */
export const WASM_MAXIMUM_PAGES = 65536;
/** The memory grows by at least this much. */
const WASM_GROWTH_BYTES = 16 * 2 ** 20;

/** One shared WebAssembly memory, which never shrinks; address 0 stays unused, so that 0 means none. */
export class WasmMemory extends HeapMemory implements Memory {
  readonly memory: WebAssembly.Memory;
  protected readonly heap: Heap;

  constructor() {
    super();
    this.memory = new WebAssembly.Memory({ initial: 1, maximum: WASM_MAXIMUM_PAGES, shared: true });
    this.heap = new Heap((bytes) => this.grow(bytes));
  }

  buffer(address: number, bytes: number): { buffer: ArrayBufferLike; byteOffset: number } {
    const { buffer } = this.memory;
    if (address < 0 || address + bytes > buffer.byteLength) {
      throw new MemoryError(`[memory] ${bytes} bytes at address ${address} are not memory of this device`);
    }
    return { buffer, byteOffset: address };
  }

  private grow(least: number): { address: number; bytes: number } {
    const address = this.memory.buffer.byteLength;
    const room = WASM_MAXIMUM_PAGES * WASM_PAGE_BYTES - address;
    const bytes =
      Math.ceil(Math.min(Math.max(least, WASM_GROWTH_BYTES), Math.max(least, room)) / WASM_PAGE_BYTES) *
      WASM_PAGE_BYTES;
    try {
      this.memory.grow(bytes / WASM_PAGE_BYTES);
    } catch {
      throw new MemoryError(
        `[memory] WebAssembly has no ${least} bytes left: ${this.stats().used} of at most 4 GiB are in use by this device`,
      );
    }
    return { address, bytes };
  }
}
