// The compiled device: the host's own memory, worked on by machine code or WebAssembly on all cores. What has no compiled
// kernel runs the reference's loops over the same memory.
import type { DType, TypedArray } from "../../dtype.ts";
import type { Storage } from "../../memory.ts";
import type { DeviceInfo, MatmulOptions, View } from "../device.ts";
import { HostDevice } from "../reference/host-device.ts";
import { type Block, CpuContext } from "./context.ts";
import { matmul } from "./matmul.ts";

/** How the compiled device is set up. */
export interface CpuDeviceOptions {
  /** Threads that compute; default: the physical cores this process may use. */
  readonly threads?: number;
  /** Forces a tier of kernels (`avx2`, `wasm`, …); default: `TENSOR_ISA`, else the best that runs here. */
  readonly isa?: string;
}

/** After this long without a pause, waiting for results gives timers, sockets and signal handlers their turn. */
const PAUSE_MS = 8;

export class CpuDevice extends HostDevice {
  readonly info: DeviceInfo;
  readonly dtypes: readonly DType[] = ["f32", "bf16", "i32"];
  readonly #cpu: CpuContext;
  #lastPause = performance.now();

  /** @throws IsaError when the forced tier cannot run here */
  constructor(options: CpuDeviceOptions = {}) {
    super();
    this.#cpu = new CpuContext(options);
    const { isa, threads } = this.#cpu.runtime;
    this.info = { name: "cpu", isa, threads };
  }

  allocate(byteLength: number): Block {
    return this.#cpu.allocate(byteLength);
  }
  map(bytes: Uint8Array, elementBytes: number): Block {
    return this.#cpu.map(bytes, elementBytes);
  }
  free(handle: unknown): void {
    this.#cpu.free(handle as Block);
  }
  protected bytes(storage: Storage): Uint8Array {
    return this.#cpu.bytes(storage);
  }
  protected array(view: View): TypedArray {
    return this.#cpu.array(view);
  }
  override async read(storage: Storage, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    const bytes = await super.read(storage, byteOffset, byteLength);
    await this.#pause();
    return bytes;
  }
  override async synchronize(): Promise<void> {
    await this.#pause();
  }
  async dispose(): Promise<void> {
    await this.#cpu.runtime.dispose();
  }

  override matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
    if (!matmul(this.#cpu, a, b, out, options)) super.matmul(a, b, out, options);
  }

  /** Lets the event loop run: kernels run to their end inside a call, so signals and sockets wait for this. */
  async #pause(): Promise<void> {
    if (performance.now() - this.#lastPause < PAUSE_MS) return;
    await new Promise<void>((resolve) => {
      if (typeof setImmediate === "function") setImmediate(resolve);
      else setTimeout(resolve, 0);
    });
    this.#lastPause = performance.now();
  }
}
