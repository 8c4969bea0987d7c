// What the tests of this folder share: the same call on the compiled device and on the reference.
import { fromBf16, toBf16 } from "../../dtype.ts";
import { Storage } from "../../memory.ts";
import type { Device, View } from "../device.ts";
import { ReferenceDevice } from "../reference/index.ts";
import { type Memory, MemoryError, type NativeHost, ViewedMemory } from "./runtime/index.ts";

/** Memory whose every block ends (or with `early` begins) at an inaccessible page, and is inaccessible once freed. */
export class GuardedMemory extends ViewedMemory implements Memory {
  private readonly host: NativeHost;
  private readonly early: boolean;
  private readonly blocks = new Map<number, { bytes: number; start: number; size: number; view: ArrayBuffer }>();

  constructor(host: NativeHost, early: boolean) {
    super();
    this.host = host;
    this.early = early;
  }

  allocate(bytes: number): number {
    const size = Math.max(1, Math.ceil(bytes / this.host.pageBytes)) * this.host.pageBytes;
    const start = this.host.map(size);
    if (start === 0) throw new MemoryError(`no ${bytes} bytes`);
    // Elements are aligned, nothing else is.
    const address = this.early ? start : start + size - Math.ceil(bytes / 4) * 4;
    this.blocks.set(address, { bytes, start, size, view: this.host.view(start, size) });
    return address;
  }

  free(address: number): void {
    const { start, size } = this.blocks.get(address)!;
    this.blocks.delete(address);
    this.host.unmap(start, size);
  }

  override buffer(address: number, bytes: number): { buffer: ArrayBufferLike; byteOffset: number } {
    for (const { start, size, view } of this.blocks.values()) {
      if (address >= start && address + bytes <= start + size) return { buffer: view, byteOffset: address - start };
    }
    throw new MemoryError(`${bytes} bytes at ${address} are not memory of this device`);
  }

  stats() {
    return { used: 0, peak: 0, blocks: this.blocks.size, reserved: 0 };
  }
}

export interface ViewSpec {
  readonly shape: readonly number[];
  readonly dtype?: "f32" | "bf16" | "i32";
  /** Elements; dense where absent. */
  readonly strides?: readonly number[];
  readonly offset?: number;
  /** Values of the storage, repeated; random in [-2, 2) where absent. */
  readonly data?: ArrayLike<number>;
}

export function denseStrides(shape: readonly number[]): number[] {
  return shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
}

/** Makes the same views on a device and on the reference, and compares what the two hold. */
export class Pair {
  readonly device: Device;
  readonly reference: Device = new ReferenceDevice();
  private seed = 1;

  constructor(device: Device) {
    this.device = device;
  }

  private random(): number {
    this.seed = (Math.imul(this.seed, 1664525) + 1013904223) | 0;
    return (this.seed >> 8) / 2 ** 22;
  }

  /** The view on both devices, values and all. */
  make({ shape, dtype = "f32", strides = denseStrides(shape), offset = 0, data }: ViewSpec): readonly [View, View] {
    const last = shape.reduce((sum, n, d) => sum + Math.max(0, n - 1) * strides[d]!, offset);
    const values = Float32Array.from({ length: last + 1 }, (_, i) => (data ? data[i % data.length]! : this.random()));
    const stored =
      dtype === "bf16" ? Uint16Array.from(values, toBf16) : dtype === "i32" ? Int32Array.from(values) : values;
    const on = (device: Device): View => {
      const storage = Storage.allocate(device, stored.byteLength);
      device.write(storage, 0, new Uint8Array(stored.buffer));
      return { storage, dtype, offset, shape, strides };
    };
    return [on(this.device), on(this.reference)];
  }

  /** Calls both devices. */
  run(call: (device: Device, side: 0 | 1) => void): void {
    call(this.device, 0);
    call(this.reference, 1);
  }

  async values(pair: readonly [View, View]): Promise<[Float64Array, Float64Array]> {
    const read = async (device: Device, { storage, dtype }: View) => {
      const { buffer } = (await device.read(storage, 0, storage.byteLength)).slice();
      if (dtype === "bf16") return Float64Array.from(new Uint16Array(buffer), fromBf16);
      return Float64Array.from(dtype === "i32" ? new Int32Array(buffer) : new Float32Array(buffer));
    };
    return [await read(this.device, pair[0]), await read(this.reference, pair[1])];
  }

  /** The largest difference, relative to the largest magnitude that the reference has; NaN and infinities must agree. */
  async distance(...pairs: (readonly [View, View])[]): Promise<number> {
    let worst = 0;
    for (const pair of pairs) {
      const [got, expected] = await this.values(pair);
      const size = expected.reduce(
        (max, value) => (Number.isFinite(value) ? Math.max(max, Math.abs(value)) : max),
        1e-30,
      );
      got.forEach((value, i) => {
        const wanted = expected[i]!;
        if (Object.is(value, wanted) || value === wanted) return;
        const error = Math.abs(value - wanted) / size;
        worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
      });
    }
    return worst;
  }
}
