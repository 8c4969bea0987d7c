// The device of GPUs: storages are buffers, primitives are kernels on one stream.
import { BLOCKS, type BlockType, type DType } from "../../dtype.ts";
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
import { adamW } from "./adamw.ts";
import { type AdapterInfo, closeGpu, type Gpu, openGpu } from "./adapter.ts";
import type { Block } from "./buffers.ts";
import type { GpuContext } from "./context.ts";
import { linearCrossEntropy } from "./cross-entropy.ts";
import { close, elementwise } from "./elementwise.ts";
import { lowRank, lowRankBackward } from "./low-rank.ts";
import { rmsNorm, rmsNormBackward } from "./norm.ts";
import { quantize } from "./quantize.ts";
import { dropout, random } from "./random.ts";
import { reduce } from "./reduce.ts";
import { rope } from "./rope.ts";
import { argmax, gatherRows, scatterRows } from "./rows.ts";
import { swiglu, swigluBackward } from "./swiglu.ts";
import { attention, attentionBackward } from "./wgsl/attention.ts";
import { matmul, type Tiling } from "./wgsl/matmul.ts";
import { SOFTWARE_TILING, tilingFor } from "./wgsl/tuning.ts";

/** How a {@link GpuDevice} is set up. */
export interface GpuOptions {
  /** Use the adapter's subgroups, where it has them; default: unless `TENSOR_GPU_SUBGROUPS` is 0. Results are the same. */
  readonly subgroups?: boolean;
}

const wantsSubgroups = (): boolean => globalThis.process?.env?.TENSOR_GPU_SUBGROUPS !== "0";

export class GpuDevice implements Device {
  readonly info: DeviceInfo;
  readonly dtypes: readonly DType[] = ["f32", "bf16", "i32", ...(Object.keys(BLOCKS) as BlockType[])];
  readonly readsKeyRows = true;
  /** What it runs on. */
  readonly adapter: AdapterInfo;
  /** The stream of work, for tests and benchmarks. */
  readonly context: GpuContext;
  readonly #tiling: Tiling;

  private constructor({ context, info }: Gpu, tiling: Tiling) {
    this.context = context;
    this.adapter = info;
    this.#tiling = tiling;
    const isa = info.description || `${info.vendor} ${info.architecture}`;
    const warning = `no GPU is used: the adapter is a software driver (${isa}), slower than --device cpu. Use that, or for a GPU its own driver`;
    this.info = { name: "gpu", isa, threads: 1, ...(info.software && { warning }) };
  }

  /** @throws DeviceError where there is no GPU that computes rightly, with what to install */
  static async open({ subgroups = wantsSubgroups() }: GpuOptions = {}): Promise<GpuDevice> {
    const gpu = await openGpu(subgroups);
    const { vendor, architecture, description, software } = gpu.info;
    const name = `${vendor} ${architecture} ${description}`;
    return new GpuDevice(gpu, software ? SOFTWARE_TILING : await tilingFor(gpu.context, name));
  }

  allocate(byteLength: number): Block {
    return this.context.allocate(byteLength);
  }
  map(bytes: Uint8Array): Block {
    const block = this.context.allocate(bytes.byteLength);
    this.context.upload(block.buffer!, 0, bytes);
    return block;
  }
  free(handle: unknown): void {
    this.context.free(handle as Block);
  }
  write(storage: Storage, byteOffset: number, bytes: Uint8Array): void {
    this.context.write(this.context.blockOf(storage), byteOffset, bytes);
  }
  read(storage: Storage, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    return this.context.read(this.context.blockOf(storage), byteOffset, byteLength);
  }
  synchronize(): Promise<void> {
    return this.context.done();
  }
  async dispose(): Promise<void> {
    closeGpu(this.context);
  }

  elementwise(
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void {
    elementwise(this.context, program, params, inputs, out, accumulate);
  }
  reduce(
    kind: ReduceKind,
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void {
    reduce(this.context, kind, program, params, inputs, out, accumulate);
  }
  argmax(x: View, out: View): void {
    argmax(this.context, x, out);
  }
  random(kind: "uniform" | "normal", key: RandomKey, out: View): void {
    random(this.context, kind, key, out);
  }
  dropout(x: View, rows: View, p: number, key: RandomKey, out: View): void {
    dropout(this.context, x, rows, p, key, out);
  }
  matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
    matmul(this.context, this.#tiling, a, b, out, options);
  }
  lowRank(args: LowRankArgs, out: View): void {
    lowRank(this.context, this.#tiling, args, out);
  }
  lowRankBackward(args: LowRankArgs, gradients: LowRankGradients): void {
    lowRankBackward(this.context, this.#tiling, args, gradients);
  }
  swiglu(gate: View, up: View, out: View): void {
    swiglu(this.context, gate, up, out);
  }
  swigluBackward(grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
    swigluBackward(this.context, grad, gate, up, gradGate, gradUp);
  }
  quantize(x: View, out: View): void {
    quantize(this.context, x, out);
  }
  gatherRows(table: View, index: View, out: View): void {
    gatherRows(this.context, table, index, out);
  }
  scatterRows(src: View, index: View, out: View, mode: "set" | "add"): void {
    scatterRows(this.context, src, index, out, mode);
  }
  rmsNorm(x: View, weight: View, eps: number, out: View, rstd: View): void {
    rmsNorm(this.context, x, weight, eps, out, rstd);
  }
  rmsNormBackward(
    grad: View,
    x: View,
    weight: View,
    rstd: View,
    gradX: View | undefined,
    gradWeight: View | undefined,
    accumulate?: boolean,
  ): void {
    rmsNormBackward(this.context, grad, x, weight, rstd, gradX, gradWeight, accumulate);
  }
  rope(x: View, positions: View, frequencies: View, inverse: boolean, out: View): void {
    rope(this.context, x, positions, frequencies, inverse, out);
  }
  attention(q: View, k: View, v: View, options: AttentionOptions, out: View, lse: View | undefined): void {
    close(this.context, [q, k, v], ([q, k, v]) => {
      attention(this.context, this.#tiling, q, k, v, options, out, lse);
    });
  }
  attentionBackward(
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
    close(this.context, [grad, q, k, v, out], ([grad, q, k, v, out]) => {
      attentionBackward(this.context, this.#tiling, grad, q, k, v, out, lse, options, gradQ, gradK, gradV);
    });
  }
  linearCrossEntropy(args: LinearCrossEntropyArgs): void {
    linearCrossEntropy(this.context, this.#tiling, args);
  }
  adamW(args: AdamWArgs): void {
    adamW(this.context, args);
  }
}
