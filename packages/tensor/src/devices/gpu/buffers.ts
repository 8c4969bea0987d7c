// GPU buffers behind storages: kept after use and given out again, since making one costs more than most kernels.
import { DeviceLostError } from "../../errors.ts";

/** `GPUBufferUsage` by number: where WebGPU comes from a package, its globals may not be there. */
export const USAGE = { mapRead: 0x1, copySrc: 0x4, copyDst: 0x8, uniform: 0x40, storage: 0x80 } as const;

/** Memory behind a storage: a buffer of its own, at least `bytes` long, undefined once freed. */
export interface Block {
  buffer: GPUBuffer | undefined;
  readonly bytes: number;
}

/** Buffers of up to so many bytes in all are kept for reuse beside those in use. */
const KEPT_BYTES = 512 * 2 ** 20;
const SMALLEST = 256;

/** Sizes are rounded up to one of eight steps between powers of two, so that nearly equal ones share buffers. */
export function sizeClass(bytes: number): number {
  if (bytes <= SMALLEST) return SMALLEST;
  const step = 2 ** Math.max(4, Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}

export class BufferPool {
  readonly #device: GPUDevice;
  readonly #free = new Map<number, GPUBuffer[]>();
  /** Buffers that exist, in use or kept. */
  buffers = 0;
  /** Their bytes. */
  bytes = 0;
  keptBytes = 0;

  /** What it holds, for people. */
  get held(): string {
    return `which holds ${Math.round(this.bytes / 2 ** 20)} MiB in ${this.buffers} buffers`;
  }

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /**
   * Memory that the GPU turns out not to have is no error here: that comes with the next read.
   * @throws DeviceLostError when one buffer cannot hold so much, or none can be made
   */
  take(bytes: number): GPUBuffer {
    const { maxBufferSize } = this.#device.limits;
    if (!(bytes <= maxBufferSize)) {
      throw new DeviceLostError(
        "allocate",
        `no memory for ${bytes} bytes on gpu: its buffers hold ${maxBufferSize} at most`,
      );
    }
    const size = Math.min(sizeClass(bytes), Math.floor(maxBufferSize / 4) * 4);
    const kept = this.#free.get(size)?.pop();
    if (kept) {
      this.keptBytes -= size;
      return kept;
    }
    let buffer: GPUBuffer;
    try {
      buffer = this.#device.createBuffer({ size, usage: USAGE.storage | USAGE.copySrc | USAGE.copyDst });
    } catch (cause) {
      throw new DeviceLostError("allocate", `no memory for ${bytes} bytes on gpu, ${this.held}`, { cause });
    }
    this.buffers++;
    this.bytes += size;
    return buffer;
  }

  /** Takes a buffer back. What was recorded before uses it before anyone to whom it is given next. */
  give(buffer: GPUBuffer): void {
    const list = this.#free.get(buffer.size);
    if (list) list.push(buffer);
    else this.#free.set(buffer.size, [buffer]);
    this.keptBytes += buffer.size;
  }

  /** Ends kept buffers beyond the bound, the largest sizes first. All recorded work must have been submitted. */
  trim(kept = KEPT_BYTES): void {
    if (this.keptBytes <= kept) return;
    for (const size of [...this.#free.keys()].sort((a, b) => b - a)) {
      for (const list = this.#free.get(size)!; list.length > 0 && this.keptBytes > kept; ) {
        list.pop()!.destroy();
        this.keptBytes -= size;
        this.bytes -= size;
        this.buffers--;
      }
    }
  }
}
