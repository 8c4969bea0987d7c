import type { DType, TypedArray } from "../dtype.ts";
import type { Program } from "../expr/program.ts";
import type { Storage } from "../memory.ts";

/**
 * A strided window on a storage: what every primitive reads and writes. `offset` and `strides` count elements of
 * `dtype`; a stride of 0 repeats the element along that dimension (broadcasting). Destinations never overlap inputs,
 * except that an elementwise program may write exactly over one of its inputs (same storage, offset, shape, strides).
 */
export interface View {
  readonly storage: Storage;
  readonly dtype: DType;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

/** How a reduction joins values. `max` and `min` give NaN where any value is NaN, as PyTorch's `amax` and `amin`. */
export type ReduceKind = "sum" | "max" | "min";

/**
 * Where one sequence lies in the rows of a pass: its queries are rows `query … query+queries`, its keys rows
 * `key … key+keys` of k and v. The last query stands at the last key; a query sees the keys at and before its place.
 */
export interface Segment {
  readonly query: number;
  readonly queries: number;
  readonly key: number;
  readonly keys: number;
}

/**
 * Names one stream of Philox 4x32-10 numbers (Salmon et al., 2011): `seed` is the key, `stream` tells apart the
 * uses within a seed. All are unsigned 32-bit.
 */
export interface RandomKey {
  readonly seed: readonly [number, number];
  readonly stream: number;
}

/**
 * By which means a device makes results that it rounds otherwise for few rows (decoding) than for many (reading a prompt).
 * Named, it holds for any number of rows: a row's result is then the same in any company.
 */
export type RowsKind = "few" | "many";

/** What a matrix product may do besides multiplying: `out = alpha·a·b (+ out, or + addend) (+ bias)`. */
export interface MatmulOptions {
  /** Factor on the product; 1 unless given. */
  readonly alpha?: number;
  /** Add to what `out` holds instead of replacing it. */
  readonly accumulate?: boolean;
  /** f32 [n], added to every row. */
  readonly bias?: View;
  /** f32 [m, n], added to the result; without `accumulate` and batch dimensions. */
  readonly addend?: View;
  /** By the number of rows (`FEW_ROWS`) unless given. */
  readonly rows?: RowsKind;
}

/**
 * What keys in blocks lack: key j of a segment is what k holds and `bias`, rotated to position j as {@link Device.rope} does.
 * A bias, the same for all keys before they are rotated, may be far larger than what differs between them, and blocks round
 * in proportion to their largest number.
 */
export interface KeyBias {
  /** f32 [kvHeads, size] */
  readonly bias: View;
  /** f32 [positions, size]: cosines of the angles of a position, then their sines. */
  readonly rotations: View;
}

/** Shape of an attention call. `scale` multiplies q·k (1/√head size). */
export interface AttentionOptions {
  readonly segments: readonly Segment[];
  readonly scale: number;
  /**
   * i32 [n]: rows of k and v. Where given, segments count their keys here: key j is row keyRows[j]. So sequences may lie
   * in pages of a cache, and share them. Only for a device that {@link Device.readsKeyRows}, and not backward.
   */
  readonly keyRows?: View;
  /** Only where k and v are blocks. */
  readonly keyBias?: KeyBias;
  /** By each segment's number of queries unless given. */
  readonly rows?: RowsKind;
}

/** Arguments of {@link Device.lowRank} and {@link Device.lowRankBackward}; all f32 (f64 on reference). */
export interface LowRankArgs {
  /** [rows, in] */
  readonly x: View;
  /** [r, in] */
  readonly a: View;
  /** [out, r] */
  readonly b: View;
  readonly scaling: number;
  /** Of x, as {@link Device.dropout} does it. */
  readonly dropout?: { readonly p: number; readonly key: RandomKey; readonly rows: View };
  /** [rows, r]: written by the forward pass, read by the backward pass. */
  readonly low: View;
}

/** Where the gradients of {@link Device.lowRank} go. */
export interface LowRankGradients {
  /** [rows, out]: that to its result. */
  readonly grad: View;
  /** [rows, in], added to. */
  readonly gradX?: View;
  /** [r, in], overwritten or with `accumulateA` added to. */
  readonly gradA?: View;
  readonly accumulateA?: boolean;
  /** [out, r], overwritten or with `accumulateB` added to. */
  readonly gradB?: View;
  readonly accumulateB?: boolean;
}

/** Arguments of {@link Device.linearCrossEntropy}. */
export interface LinearCrossEntropyArgs {
  /** f32 [rows, hidden] */
  readonly hidden: View;
  /** f32, bf16 or blocks [vocabulary, hidden] */
  readonly weight: View;
  /** i32 [rows]; a negative target carries no loss and costs nothing. */
  readonly targets: View;
  /** f32 [rows]: factor of each row's loss in the gradients. */
  readonly scale: View;
  /** f32 [rows]: −log softmax(hidden·weightᵀ)[target], unscaled, 0 where the target is negative. */
  readonly loss: View;
  /** f32 [rows, hidden]: gradient of Σ scale·loss to `hidden`, when wanted. */
  readonly gradHidden?: View;
  /** f32 [rows]: 1 where no class has a greater logit than the target, otherwise 0 (also without a target), when wanted. */
  readonly correct?: View;
  /** f32 [vocabulary, hidden]: gradient to `weight` (overwritten), when wanted. */
  readonly gradWeight?: View;
}

/** Arguments of {@link Device.adamW}, one step for one parameter (Loshchilov & Hutter, 2019; PyTorch's `AdamW`). */
export interface AdamWArgs {
  readonly param: View;
  readonly grad: View;
  /** First and second moments, f32, same shape. */
  readonly m: View;
  readonly v: View;
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** 1 for the first step. */
  readonly step: number;
  /** f32 [1]: factor on the gradient (clipping), read on the device; 1 when absent. */
  readonly gradScale?: View;
}

/** What a device says of itself. */
export interface DeviceInfo {
  readonly name: string;
  /** Instruction set or backend in use: `avx2`, `wasm`, `js`, an adapter's name. */
  readonly isa: string;
  readonly threads: number;
  /** What whoever chose it should be told, with what to do: it computes rightly, but not as fast as its name promises. */
  readonly warning?: string;
}

/** Products of up to so many rows are those of decoding: devices may make them by other means than products of many. */
export const FEW_ROWS = 8;

/** Calls that can be made again on the same memory, whatever that holds by then. */
export interface Recording {
  /**
   * Whether {@link replay} can do it: not once memory that was used is freed, nor ever where `body` did on the host what a
   * recording cannot repeat.
   */
  readonly repeatable: boolean;
  /**
   * Makes the calls again; `segments` that were given to attention are read anew, and must still fit the tensors. False, and
   * nothing was done, where it is not {@link repeatable}.
   */
  replay(): boolean;
  /** Gives the memory of the recording back: its results are of no use afterwards. */
  dispose(): void;
}

/**
 * What a device must be able to do. Ops call these primitives in order; a device runs them in that order and may
 * return before they are done: results and errors surface at `read` and `synchronize`, the only places that wait.
 *
 * Ownership: handles come from `allocate` and `map` and go back through `free`, also in order, so a storage may be
 * freed right after the call that uses it. Primitives write into the destination they are given and keep no view.
 *
 * Shapes are already checked when a primitive is called; a device checks again only what its memory safety needs.
 * A row's result depends on that row alone, not on the other rows in the call and not on threads; but products of few rows
 * (`FEW_ROWS`) may round otherwise than those of many.
 */
export interface Device {
  readonly info: DeviceInfo;
  /** Element types that storages may hold here. */
  readonly dtypes: readonly DType[];
  /** Attention takes `keyRows`; elsewhere keys and values are gathered first. */
  readonly readsKeyRows?: boolean;
  /**
   * Attention takes keys and values in blocks of `q8_0`, forward, and `gatherRows` and `scatterRows` move rows of blocks as
   * they lie. Its result is the one for the numbers that the blocks decode to.
   */
  readonly readsBlockKeys?: boolean;

  /** Memory of `byteLength` bytes, content undefined. @throws DeviceError when there is none left. */
  allocate(byteLength: number): unknown;
  /** Takes over bytes that never change (a mapped file), elements of `elementBytes`; copies only where it must. */
  map(bytes: Uint8Array, elementBytes: number): unknown;
  free(handle: unknown, byteLength: number): void;
  /** Copies host bytes into a storage; the bytes may be reused at return. */
  write(storage: Storage, byteOffset: number, bytes: Uint8Array): void;
  /** Waits for all calls so far and copies bytes out. */
  read(storage: Storage, byteOffset: number, byteLength: number): Promise<Uint8Array>;
  /** Waits for all calls so far; throws the first error among them. */
  synchronize(): Promise<void>;
  /** Ends workers and gives back all memory; the device is not used afterwards. */
  dispose(): Promise<void>;

  /**
   * `out = program(inputs, params)`, element by element; inputs have out's shape (strides 0 where broadcast) and any
   * dtypes: this is also cast, copy, fill and strided accumulate. With `accumulate` adds to out.
   */
  elementwise(
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void;
  /**
   * Joins `program(inputs, params)` over the dimensions in which `out` has stride 0; all views have the iteration
   * shape. An empty reduction gives 0 for sum, ∓∞ for max and min.
   */
  reduce(
    kind: ReduceKind,
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate?: boolean,
  ): void;
  /** Index of the largest value (the first of equals; a NaN counts as largest) along the last dimension; out i32. */
  argmax(x: View, out: View): void;
  /** Fills f32/f64 `out` (contiguous): uniform in [0,1), or standard normal (Box–Muller); element i uses counter i/4. */
  random(kind: "uniform" | "normal", key: RandomKey, out: View): void;
  /**
   * Inverted dropout, x and out [rows, features] f32: element (row, f) is kept, times 1/(1−p), where the Philox word of
   * counter (f/4, token, sequence, stream) is at least p·2³². `rows` i32 [rows, 2] holds (sequence, token) of each row.
   * The same call with a gradient as x is its backward. `out` may be x itself.
   */
  dropout(x: View, rows: View, p: number, key: RandomKey, out: View): void;
  /**
   * a [...batch, m, k] × b [...batch, k, n] → out [...batch, m, n]; transposition and broadcasting are strides.
   * a and out are f32 (f64 on reference); b may also be bf16, or quantised blocks that run along one of its dimensions.
   * Where b's blocks run along k (a linear layer's weight) and a has few rows, a device may round a to 8 bits in groups
   * of 32 first, as llama.cpp does; a row's result then depends on that row and on this choice alone.
   */
  matmul(a: View, b: View, out: View, options?: MatmulOptions): void;
  /** The low-rank change of a linear layer (LoRA): low = scaling·dropout(x)·aᵀ, and low·bᵀ is added to out [rows, out]. */
  lowRank(args: LowRankArgs, out: View): void;
  /** Its gradients, the dropped input drawn again. */
  lowRankBackward(args: LowRankArgs, gradients: LowRankGradients): void;
  /**
   * out = eˣ/Σeˣ over the last dimension, f32 (f64 on reference), out contiguous; exponentials below 2⁻¹²⁶ of the largest may
   * count as 0. A device without it gets softmax composed of the others.
   */
  softmax?(x: View, out: View): void;
  /** out = gate·σ(gate)·up, all of one shape. */
  swiglu(gate: View, up: View, out: View): void;
  /** Gradients of swiglu (overwritten). gradGate may be exactly gate, and gradUp up. */
  swigluBackward(grad: View, gate: View, up: View, gradGate: View, gradUp: View): void;
  /** Rounds x, f32 or bf16, to out's blocks (`q8_0` or `q4_1`, contiguous): see `quantized/encode.ts`. */
  quantize(x: View, out: View): void;
  /** out[i] = table[index[i]]: table [size, features] of any dtype, index i32 [n], out [n, features]. */
  gatherRows(table: View, index: View, out: View): void;
  /** out[index[i]] = src[i], or += with `add` (in order of i): the way back from gatherRows, and the key/value cache. */
  scatterRows(src: View, index: View, out: View, mode: "set" | "add"): void;
  /** out = x · rsqrt(mean(x²) + eps) · weight over the last dimension; `rstd` [rows] receives the rsqrt. */
  rmsNorm(x: View, weight: View, eps: number, out: View, rstd: View): void;
  /** Gradients of rmsNorm to x (overwritten, or with `accumulate` added to) and to weight (overwritten), when given. */
  rmsNormBackward(
    grad: View,
    x: View,
    weight: View,
    rstd: View,
    gradX: View | undefined,
    gradWeight: View | undefined,
    accumulate?: boolean,
  ): void;
  /**
   * Rotary position embedding in halves (`rotate_half` of transformers): x and out [rows, heads, size], positions i32
   * [rows], frequencies f32 [size/2] in radians per position. `inverse` rotates back: the gradient.
   */
  rope(x: View, positions: View, frequencies: View, inverse: boolean, out: View): void;
  /**
   * Causal attention inside each segment with grouped queries: q and out [queries, heads, size], k and v
   * [keys, kvHeads, size] (f32, or both `q8_0` where the device {@link readsBlockKeys}; strides free but for the last),
   * heads a multiple of kvHeads.
   * `lse` f32 [heads, queries] receives the log-sum-exp of the scaled scores, when given.
   */
  attention(q: View, k: View, v: View, options: AttentionOptions, out: View, lse: View | undefined): void;
  /** Gradients of attention to q, k and v (overwritten), scores recomputed from lse (FlashAttention-2, Dao 2023). */
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
  ): void;
  /** Loss over a vocabulary that is never written out whole, and its gradients, in one pass over blocks of it. */
  linearCrossEntropy(args: LinearCrossEntropyArgs): void;
  /** Updates param, m and v in place. */
  adamW(args: AdamWArgs): void;

  /**
   * Runs `body` and remembers the calls that it makes, to make them again: what CUDA calls a graph. Memory that it allocates is
   * the recording's own, also that of its result. Synchronous, inside `noGrad`, and memory that others own is written only
   * before or after, with `write`. Devices whose calls cost nothing to make do without.
   */
  record?<T>(body: () => T): { readonly result: T; readonly recording: Recording };
}

/** A typed array over a view's storage from its first element, for devices whose memory the host can see. */
export type HostArray = (view: View) => TypedArray;
