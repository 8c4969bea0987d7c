// The compiled device: the host's own memory, worked on by machine code or WebAssembly on all cores. What has no compiled
// kernel runs the reference's loops over the same memory.
import { machineCode } from "#machine-code";
import { BLOCKS, type BlockType, type DType, type TypedArray } from "../../dtype.ts";
import type { Program } from "../../expr/program.ts";
import type { Storage } from "../../memory.ts";
import type {
  AdamWArgs,
  AttentionOptions,
  Device,
  DeviceInfo,
  LinearCrossEntropyArgs,
  LowRankArgs,
  LowRankGradients,
  MatmulOptions,
  RandomKey,
  ReduceKind,
  View,
} from "../device.ts";
import { HostDevice } from "../reference/host-device.ts";
import { attention, attentionBackward } from "./attention.ts";
import { type Block, CpuContext, type CpuContextOptions, type Precision } from "./context.ts";
import { linearCrossEntropy } from "./cross-entropy.ts";
import { elementwise, reduce } from "./elementwise.ts";
import { lowRank, lowRankBackward } from "./low-rank.ts";
import { matmul } from "./matmul.ts";
import { adamW, dropout, RopeTables, rmsNorm, rmsNormBackward, rope, softmax } from "./model.ts";
import { quantize } from "./quantized.ts";
import { argmax, gatherRows, scatterRows } from "./rows.ts";
import { swiglu, swigluBackward } from "./swiglu.ts";

/** How the compiled device is set up. */
export interface CpuDeviceOptions {
  /** Threads that compute; default: the physical cores this process may use. */
  readonly threads?: number;
  /** Forces a tier of kernels (`avx2`, `wasm`, …); default: `TENSOR_ISA`, else the best that runs here. */
  readonly isa?: string;
  /**
   * How matrix products take f32 numbers where the processor multiplies bf16 (AMX): as sums of bf16 numbers that keep what
   * counts (`f32`, the default), or rounded to one bf16 number, faster, with 8 bits of mantissa. Other processors
   * compute with f32 either way.
   */
  readonly precision?: Precision;
}

/** Options that only tests use. */
type TestOptions = Pick<CpuContextOptions, "memory" | "kernels">;

/** After this long without a pause, waiting for results gives timers, sockets and signal handlers their turn. */
const PAUSE_MS = 8;

/** Waits for the event loop's next turn. In browsers by a message: they keep timers back for 4 ms where one sets another. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") return void setImmediate(resolve);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}

export class CpuDevice extends HostDevice {
  readonly info: DeviceInfo;
  readonly record: Device["record"];
  readonly dtypes: readonly DType[] = ["f32", "bf16", "i32", ...(Object.keys(BLOCKS) as BlockType[])];
  readonly #cpu: CpuContext;
  readonly #turns = new RopeTables();
  #lastPause = performance.now();

  /** @throws IsaError when the forced tier cannot run here */
  constructor(options: CpuDeviceOptions & TestOptions = {}) {
    super();
    this.#cpu = new CpuContext(options);
    const { isa, threads } = this.#cpu.runtime;
    this.info = { name: "cpu", isa, threads };
    this.record = machineCode && ((body) => machineCode!.record(this.#cpu, body));
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

  override elementwise(
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void {
    if (!elementwise(this.#cpu, program, params, inputs, out, accumulate)) {
      super.elementwise(program, params, inputs, out, accumulate);
    }
  }
  override reduce(
    kind: ReduceKind,
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void {
    if (!reduce(this.#cpu, kind, program, params, inputs, out, accumulate)) {
      super.reduce(kind, program, params, inputs, out, accumulate);
    }
  }
  override argmax(x: View, out: View): void {
    this.#cpu.onHost(() => {
      if (!argmax(this.#cpu, x, out)) super.argmax(x, out);
    });
  }
  override matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
    if (!matmul(this.#cpu, a, b, out, options)) super.matmul(a, b, out, options);
  }
  override lowRank(args: LowRankArgs, out: View): void {
    if (!lowRank(this.#cpu, args, out)) super.lowRank(args, out);
  }
  override lowRankBackward(args: LowRankArgs, gradients: LowRankGradients): void {
    if (!lowRankBackward(this.#cpu, args, gradients)) super.lowRankBackward(args, gradients);
  }
  override softmax(x: View, out: View): void {
    if (!softmax(this.#cpu, x, out)) super.softmax(x, out);
  }
  override swiglu(gate: View, up: View, out: View): void {
    if (!swiglu(this.#cpu, gate, up, out)) super.swiglu(gate, up, out);
  }
  override swigluBackward(grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
    if (!swigluBackward(this.#cpu, grad, gate, up, gradGate, gradUp)) {
      super.swigluBackward(grad, gate, up, gradGate, gradUp);
    }
  }
  override quantize(x: View, out: View): void {
    if (!quantize(this.#cpu, x, out)) super.quantize(x, out);
  }
  override gatherRows(table: View, index: View, out: View): void {
    this.#cpu.onHost(() => {
      if (!gatherRows(this.#cpu, table, index, out)) super.gatherRows(table, index, out);
    });
  }
  override scatterRows(src: View, index: View, out: View, mode: "set" | "add"): void {
    this.#cpu.onHost(() => {
      if (!scatterRows(this.#cpu, src, index, out, mode)) super.scatterRows(src, index, out, mode);
    });
  }
  override rmsNorm(x: View, weight: View, eps: number, out: View, rstd: View): void {
    if (!rmsNorm(this.#cpu, x, weight, eps, out, rstd)) super.rmsNorm(x, weight, eps, out, rstd);
  }
  override rmsNormBackward(
    grad: View,
    x: View,
    weight: View,
    rstd: View,
    gradX: View | undefined,
    gradWeight: View | undefined,
    accumulate?: boolean,
  ): void {
    if (!rmsNormBackward(this.#cpu, grad, x, weight, rstd, gradX, gradWeight, accumulate)) {
      super.rmsNormBackward(grad, x, weight, rstd, gradX, gradWeight, accumulate);
    }
  }
  override rope(x: View, positions: View, frequencies: View, inverse: boolean, out: View): void {
    if (!rope(this.#cpu, this.#turns, x, positions, frequencies, inverse, out)) {
      this.#cpu.onHost(() => super.rope(x, positions, frequencies, inverse, out));
    }
  }
  override dropout(x: View, rows: View, p: number, key: RandomKey, out: View): void {
    if (!dropout(this.#cpu, x, rows, p, key, out)) super.dropout(x, rows, p, key, out);
  }
  override attention(q: View, k: View, v: View, options: AttentionOptions, out: View, lse: View | undefined): void {
    if (!attention(this.#cpu, q, k, v, options, out, lse)) {
      this.#cpu.onHost(() => super.attention(q, k, v, options, out, lse));
    }
  }
  override attentionBackward(
    grad: View,
    q: View,
    k: View,
    v: View,
    out: View,
    lse: View,
    options: AttentionOptions,
    gradQ: View,
    gradK: View,
    gradV: View,
  ): void {
    if (!attentionBackward(this.#cpu, grad, q, k, v, out, lse, options, gradQ, gradK, gradV)) {
      super.attentionBackward(grad, q, k, v, out, lse, options, gradQ, gradK, gradV);
    }
  }
  override linearCrossEntropy(args: LinearCrossEntropyArgs): void {
    if (!linearCrossEntropy(this.#cpu, args)) super.linearCrossEntropy(args);
  }
  override adamW(args: AdamWArgs): void {
    if (!adamW(this.#cpu, args)) super.adamW(args);
  }

  /** Lets the event loop run: kernels run to their end inside a call, so signals and sockets wait for this. */
  async #pause(): Promise<void> {
    if (performance.now() - this.#lastPause < PAUSE_MS) return;
    await nextTask();
    this.#lastPause = performance.now();
  }
}
