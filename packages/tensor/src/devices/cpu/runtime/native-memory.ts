// Memory of the system, for machine code.
import { Heap } from "./heap.ts";
import type { NativeHost } from "./host.ts";
import { HeapMemory, type Memory, MemoryError } from "./memory.ts";

const GIB = 2 ** 30;
/** Address space per region; its pages cost nothing until they are touched. */
const REGION_BYTES = GIB / 4;
const LARGEST_VIEW = 4 * GIB;

interface Region {
  readonly address: number;
  readonly bytes: number;
  /** One view of the whole region; undefined when it is too large for one. */
  readonly view: ArrayBuffer | undefined;
}

/** Native memory in regions between guard pages. */
export class NativeMemory extends HeapMemory implements Memory {
  protected readonly heap: Heap;
  private readonly host: NativeHost;
  private readonly regions: Region[] = [];

  constructor(host: NativeHost) {
    super();
    this.host = host;
    this.heap = new Heap((bytes) => this.grow(bytes));
  }

  buffer(address: number, bytes: number): { buffer: ArrayBufferLike; byteOffset: number } {
    for (const region of this.regions) {
      if (address < region.address || address + bytes > region.address + region.bytes) continue;
      if (region.view) return { buffer: region.view, byteOffset: address - region.address };
      return { buffer: this.host.view(address, bytes), byteOffset: 0 };
    }
    throw new MemoryError(`[memory] ${bytes} bytes at address ${address} are not memory of this device`);
  }

  /** Gives all pages back. The address space stays taken, because a typed array kept by mistake would fault otherwise. */
  dispose(): void {
    for (const { address, bytes } of this.regions) this.host.discard(address, bytes);
  }

  private grow(least: number): Region {
    const bytes = Math.max(REGION_BYTES, least);
    const address = this.host.map(bytes);
    if (address === 0) {
      throw new MemoryError(
        `[memory] the system gave no ${bytes} bytes; ${this.stats().used} are in use by this device`,
      );
    }
    const view = bytes <= LARGEST_VIEW ? this.host.view(address, bytes) : undefined;
    const region = { address, bytes, view };
    this.regions.push(region);
    return region;
  }
}
