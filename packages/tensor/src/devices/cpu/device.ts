// The compiled device: the host's own memory, worked on by machine code or WebAssembly on all cores. What has no compiled
// kernel runs the reference's loops over the same memory.
import { BYTES, type DType, type TypedArray, typedArray } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import type { Storage } from "../../memory.ts";
import type { DeviceInfo, View } from "../device.ts";
import { HostDevice } from "../reference/host-device.ts";
import { type Memory, MemoryError, Runtime } from "./runtime/index.ts";

/** How the compiled device is set up. */
export interface CpuDeviceOptions {
  /** Threads that compute; default: the physical cores this process may use. */
  readonly threads?: number;
  /** Forces a tier of kernels (`avx2`, `wasm`, …); default: `TENSOR_ISA`, else the best that runs here. */
  readonly isa?: string;
}

/** Memory behind a storage. */
interface Block {
  /** Where kernels see it; 0 while bytes taken over by `map` are not in the kernels' memory. */
  address: number;
  readonly bytes: number;
  /** Bytes taken over by `map`, kept alive here. */
  readonly source: Uint8Array | undefined;
  /** Whether `address` is a block of the device's own memory, to be freed. */
  owned: boolean;
  /** One typed array over the whole block for each type asked for. */
  readonly arrays: Partial<Record<DType | "u8", TypedArray | Uint8Array>>;
}

/** After this long without a pause, waiting for results gives timers, sockets and signal handlers their turn. */
const PAUSE_MS = 8;

export class CpuDevice extends HostDevice {
  readonly info: DeviceInfo;
  readonly dtypes: readonly DType[] = ["f32", "bf16", "i32"];
  protected readonly runtime: Runtime;
  private readonly memory: Memory;
  private lastPause = performance.now();

  /** @throws IsaError when the forced tier cannot run here */
  constructor(options: CpuDeviceOptions = {}) {
    super();
    this.runtime = new Runtime({ ...options, emitters: ["wasm"] });
    this.memory = this.runtime.memory;
    this.info = { name: "cpu", isa: this.runtime.isa, threads: this.runtime.threads };
  }

  allocate(byteLength: number): Block {
    try {
      const address = this.memory.allocate(byteLength);
      return { address, bytes: byteLength, source: undefined, owned: true, arrays: {} };
    } catch (cause) {
      if (!(cause instanceof MemoryError)) throw cause;
      throw new DeviceError("allocate", `no memory for ${byteLength} bytes on cpu: ${cause.message}`, { cause });
    }
  }

  /**
   * Machine code reads the bytes where they are. A WebAssembly module cannot: bytes that a kernel needs are copied whole
   * into its memory on first use and stay there, the reference's loops read them in place.
   */
  map(bytes: Uint8Array, elementBytes: number): Block {
    const address = this.runtime.addressOf(bytes);
    const aligned = bytes.byteOffset % elementBytes === 0;
    const block: Block = { address: address ?? 0, bytes: bytes.byteLength, source: bytes, owned: false, arrays: {} };
    if (aligned && (address === undefined || address % elementBytes === 0)) return block;
    this.adopt(block);
    return { ...block, source: undefined };
  }

  free(handle: unknown): void {
    const block = handle as Block;
    if (block.owned) this.memory.free(block.address);
    block.owned = false;
    block.address = 0;
  }

  override async read(storage: Storage, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    const bytes = await super.read(storage, byteOffset, byteLength);
    await this.pause();
    return bytes;
  }

  override async synchronize(): Promise<void> {
    await this.pause();
  }

  async dispose(): Promise<void> {
    await this.runtime.dispose();
  }

  protected bytes(storage: Storage): Uint8Array {
    const block = storage.handle as Block;
    return (block.arrays.u8 ??= block.source ?? this.memory.u8(block.address, block.bytes)) as Uint8Array;
  }

  protected array(view: View): TypedArray {
    const block = view.storage.handle as Block;
    let array = block.arrays[view.dtype];
    if (array === undefined) {
      const { buffer, byteOffset, byteLength } = this.bytes(view.storage);
      array = typedArray(view.dtype, buffer, byteOffset, Math.floor(byteLength / BYTES[view.dtype]));
      block.arrays[view.dtype] = array;
    }
    return array as TypedArray;
  }

  /** The address of a view's first element, for kernels; checks that the whole view lies inside its storage. */
  protected address(view: View, op: string): number {
    const block = view.storage.handle as Block;
    if (block.address === 0) {
      if (block.source === undefined) throw new DeviceError(op, "a tensor was used after its memory was freed");
      this.adopt(block);
    }
    let first = view.offset;
    let last = view.offset;
    for (let d = 0; d < view.shape.length; d++) {
      if (view.shape[d] === 0) return block.address;
      const reach = (view.shape[d] - 1) * view.strides[d];
      if (reach < 0) first += reach;
      else last += reach;
    }
    const size = BYTES[view.dtype];
    if (!(first >= 0 && (last + 1) * size <= block.bytes)) {
      throw new DeviceError(
        op,
        `a view of shape [${view.shape}] at element ${view.offset} leaves its storage of ${block.bytes} bytes`,
      );
    }
    return block.address + view.offset * size;
  }

  /** Copies mapped bytes into the kernels' memory. */
  private adopt(block: Block): void {
    const { address } = this.allocate(block.bytes);
    this.memory.u8(address, block.bytes).set(block.source!);
    block.address = address;
    block.owned = true;
  }

  /** Lets the event loop run: kernels run to their end inside a call, so signals and sockets wait for this. */
  private async pause(): Promise<void> {
    if (performance.now() - this.lastPause < PAUSE_MS) return;
    await new Promise<void>((resolve) => {
      if (typeof setImmediate === "function") setImmediate(resolve);
      else setTimeout(resolve, 0);
    });
    this.lastPause = performance.now();
  }
}
