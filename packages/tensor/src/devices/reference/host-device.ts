import type { DType, TypedArray } from "../../dtype.ts";
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
import * as loops from "./loops.ts";
import * as modelLoops from "./model-loops.ts";

/**
 * A device whose memory the host sees as typed arrays. It runs the reference's plain loops; one that has compiled
 * kernels extends it and overrides what it has.
 */
export abstract class HostDevice implements Device {
  abstract readonly info: DeviceInfo;
  abstract readonly dtypes: readonly DType[];
  readonly readsKeyRows: boolean = true;
  readonly readsBlockKeys: boolean = true;

  abstract allocate(byteLength: number): unknown;
  abstract map(bytes: Uint8Array, elementBytes: number): unknown;
  abstract free(handle: unknown, byteLength: number): void;
  abstract dispose(): Promise<void>;

  /** The bytes of a storage. */
  protected abstract bytes(storage: Storage): Uint8Array;
  /** The storage of a view as elements of its type; index 0 is the storage's start, whatever the view's offset. */
  protected abstract array(view: View): TypedArray;

  readonly #host = (view: View): TypedArray => this.array(view);

  write(storage: Storage, byteOffset: number, bytes: Uint8Array): void {
    this.bytes(storage).set(bytes, byteOffset);
  }
  async read(storage: Storage, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    return this.bytes(storage).slice(byteOffset, byteOffset + byteLength);
  }
  async synchronize(): Promise<void> {}

  elementwise(
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void {
    loops.elementwise(this.#host, program, params, inputs, out, accumulate);
  }
  reduce(
    kind: ReduceKind,
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void {
    loops.reduce(this.#host, kind, program, params, inputs, out, accumulate);
  }
  argmax(x: View, out: View): void {
    loops.argmax(this.#host, x, out);
  }
  random(kind: "uniform" | "normal", key: RandomKey, out: View): void {
    loops.random(this.#host, kind, key, out);
  }
  dropout(x: View, rows: View, p: number, key: RandomKey, out: View): void {
    loops.dropout(this.#host, x, rows, p, key, out);
  }
  matmul(a: View, b: View, out: View, options?: MatmulOptions): void {
    loops.matmul(this.#host, a, b, out, options);
  }
  lowRank(args: LowRankArgs, out: View): void {
    modelLoops.lowRank(this.#host, args, out);
  }
  lowRankBackward(args: LowRankArgs, gradients: LowRankGradients): void {
    modelLoops.lowRankBackward(this.#host, args, gradients);
  }
  softmax(x: View, out: View): void {
    modelLoops.softmax(this.#host, x, out);
  }
  swiglu(gate: View, up: View, out: View): void {
    modelLoops.swiglu(this.#host, gate, up, out);
  }
  swigluBackward(grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
    modelLoops.swigluBackward(this.#host, grad, gate, up, gradGate, gradUp);
  }
  quantize(x: View, out: View): void {
    loops.quantize(this.#host, x, out);
  }
  gatherRows(table: View, index: View, out: View): void {
    loops.gatherRows(this.#host, table, index, out);
  }
  scatterRows(src: View, index: View, out: View, mode: "set" | "add"): void {
    loops.scatterRows(this.#host, src, index, out, mode);
  }
  rmsNorm(x: View, weight: View, eps: number, out: View, rstd: View): void {
    modelLoops.rmsNorm(this.#host, x, weight, eps, out, rstd);
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
    modelLoops.rmsNormBackward(this.#host, grad, x, weight, rstd, gradX, gradWeight, accumulate);
  }
  rope(x: View, positions: View, frequencies: View, inverse: boolean, out: View): void {
    modelLoops.rope(this.#host, x, positions, frequencies, inverse, out);
  }
  attention(q: View, k: View, v: View, options: AttentionOptions, out: View, lse: View | undefined): void {
    modelLoops.attention(this.#host, q, k, v, options, out, lse);
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
    modelLoops.attentionBackward(this.#host, grad, q, k, v, out, lse, options, gradQ, gradK, gradV);
  }
  linearCrossEntropy(args: LinearCrossEntropyArgs): void {
    modelLoops.linearCrossEntropy(this.#host, args);
  }
  adamW(args: AdamWArgs): void {
    modelLoops.adamW(this.#host, args);
  }
}
