import { type Edge, isGradEnabled, type Node, backward as runBackward } from "./autograd.ts";
import type { Device, View } from "./devices/device.ts";
import { defaultDevice } from "./devices/registry.ts";
import { BLOCKS, BYTES, type DType, fromBf16, isBlocks, isFloating, toBf16, typedArray } from "./dtype.ts";
import { DTypeError, GradientError, ShapeError, TensorError } from "./errors.ts";
import { type FormatOptions, formatTensor } from "./format.ts";
import { Storage, type Tracked, track, untrack } from "./memory.ts";
import * as ops from "./ops/index.ts";
import { decodeBlocks } from "./quantized/decode.ts";
import { checkShape, contiguousStrides, isContiguous, type Shape, show, sizeOf } from "./shape.ts";

/** Where and as what a tensor is made. */
export interface TensorOptions {
  /** f32 unless given. */
  dtype?: DType;
  /** The default device unless given; see `setDefaultDevice`. */
  device?: Device;
  /** Collect a gradient in `grad`. Needs f32 or f64. */
  requiresGrad?: boolean;
}

/** Who frees a tensor. */
interface TensorOwnership {
  /** The current scope, where there is one. */
  tracked?: boolean;
  /** The caller, in any case: not even the garbage collector need look after it. */
  owned?: boolean;
  requiresGrad?: boolean;
}

/** Numbers in nested arrays of equal lengths, as `[[1, 2], [3, 4]]`. */
export type Nested = number | readonly Nested[];

/** @throws ShapeError unless rows are whole blocks */
function checkBlocks(op: string, dtype: DType, shape: Shape): void {
  if (!isBlocks(dtype)) return;
  const { elements } = BLOCKS[dtype];
  if (shape.length === 0 || shape.at(-1)! % elements !== 0) {
    throw new ShapeError(op, `rows of ${dtype} are blocks of ${elements} elements; ${show(shape)} has others`);
  }
}

/** Frees the storage of tensors that were dropped outside of all scopes without being disposed. */
const dropped = new FinalizationRegistry<Storage>((storage) => storage.release());

/**
 * A strided, typed array of numbers on a device, and what is needed for its gradient. Methods read as PyTorch's;
 * operations return at once and are done in order, `data()` waits for them.
 *
 * Memory is freed by `scope()`, `dispose()` or `using`; the garbage collector is only the last resort.
 */
export class Tensor implements View, Tracked {
  readonly storage: Storage;
  readonly dtype: DType;
  readonly offset: number;
  readonly shape: Shape;
  readonly strides: readonly number[];
  /** The gradient collected by `backward()`: same shape, contiguous. */
  grad: Tensor | undefined;
  /** The operation that made this tensor, when it is recorded. For ops. */
  node: Node | undefined;
  /** The scope that frees this tensor, and its neighbours there. For scopes. */
  scope: Tracked["scope"] = undefined;
  previous: Tracked["previous"] = undefined;
  next: Tracked["next"] = undefined;
  #requiresGrad = false;
  #disposed = false;
  #registered = false;

  /** For ops: takes over one reference of `storage`. Everyone else makes tensors by {@link tensor}, {@link zeros} and so on. */
  constructor(view: View, { tracked = true, owned = false, requiresGrad = false }: TensorOwnership = {}) {
    this.storage = view.storage;
    this.dtype = view.dtype;
    this.offset = view.offset;
    this.shape = view.shape;
    this.strides = view.strides;
    if (!owned && !(tracked && track(this))) this.left();
    if (requiresGrad) this.requiresGrad = true;
  }

  /** A contiguous tensor with undefined content. */
  static empty(shape: Shape, options: TensorOptions = {}): Tensor {
    checkShape("empty", shape);
    const dtype = options.dtype ?? "f32";
    const device = options.device ?? defaultDevice();
    if (!device.dtypes.includes(dtype)) throw new DTypeError("empty", `device ${device.info.name} has no ${dtype}`);
    checkBlocks("empty", dtype, shape);
    const storage = Storage.allocate(device, sizeOf(shape) * BYTES[dtype]);
    return new Tensor(
      { storage, dtype, offset: 0, shape: [...shape], strides: contiguousStrides(shape) },
      { requiresGrad: options.requiresGrad },
    );
  }

  /** From host values in row-major order; `bf16` rounds numbers, and takes the bits as they are from a Uint16Array. */
  static from(values: ArrayLike<number>, shape: Shape, options: TensorOptions = {}): Tensor {
    const dtype = options.dtype ?? "f32";
    if (values.length !== sizeOf(shape)) {
      throw new ShapeError("tensor", `${values.length} numbers do not fill a tensor of shape ${show(shape)}`);
    }
    if (isBlocks(dtype)) throw new DTypeError("tensor", `make f32 and quantise it with to('${dtype}')`);
    const out = Tensor.empty(shape, options);
    const host = typedArray(dtype, new ArrayBuffer(values.length * BYTES[dtype]), 0, values.length);
    if (dtype === "bf16" && !(values instanceof Uint16Array)) {
      for (let i = 0; i < values.length; i++) host[i] = toBf16(values[i]);
    } else host.set(values);
    out.device.write(out.storage, 0, new Uint8Array(host.buffer));
    return out;
  }

  /** Over bytes that never change, such as a part of a mapped file: not copied where the device can read them in place. */
  static map(bytes: Uint8Array, shape: Shape, dtype: DType, device: Device = defaultDevice()): Tensor {
    checkShape("map", shape);
    if (!device.dtypes.includes(dtype)) throw new DTypeError("map", `device ${device.info.name} has no ${dtype}`);
    checkBlocks("map", dtype, shape);
    if (bytes.byteLength !== sizeOf(shape) * BYTES[dtype]) {
      throw new ShapeError("map", `${bytes.byteLength} bytes are not a ${dtype} tensor of shape ${show(shape)}`);
    }
    // Blocks are read byte by byte, wherever they begin.
    const storage = Storage.map(device, bytes, isBlocks(dtype) ? 1 : BYTES[dtype]);
    return new Tensor({ storage, dtype, offset: 0, shape: [...shape], strides: contiguousStrides(shape) });
  }

  get device(): Device {
    return this.storage.device;
  }
  /** Number of dimensions. */
  get rank(): number {
    return this.shape.length;
  }
  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }
  get disposed(): boolean {
    return this.#disposed;
  }
  get requiresGrad(): boolean {
    return this.#requiresGrad || this.node !== undefined;
  }
  set requiresGrad(on: boolean) {
    if (this.node)
      throw new GradientError("requiresGrad", "only a leaf can be set; use detach() for a copy without history");
    if (on && (!isFloating(this.dtype) || this.dtype === "bf16")) {
      throw new DTypeError("requiresGrad", `gradients need f32 or f64, not ${this.dtype}`);
    }
    this.#requiresGrad = on;
  }
  /** Where this tensor's gradient goes; undefined where none flows. For ops. */
  get edge(): Edge | undefined {
    return this.node ?? (this.#requiresGrad ? this : undefined);
  }

  /** Waits for the device and copies the elements out, row-major; bf16 and quantised blocks come as f32. */
  async data(): Promise<Float32Array | Float64Array | Int32Array> {
    const bytes = await this.bytes();
    if (isBlocks(this.dtype)) return Float32Array.from(decodeBlocks(this.dtype, bytes, 0, this.size));
    const values = typedArray(this.dtype, bytes.buffer, bytes.byteOffset, this.size);
    if (values instanceof Uint16Array) return Float32Array.from(values, fromBf16);
    return values as Float32Array | Float64Array | Int32Array;
  }
  /** Waits for the device and copies the elements' bytes out, row-major: bf16 as it is, two bytes each, blocks as they lie. */
  async bytes(): Promise<Uint8Array> {
    this.#check("data");
    const dense = isContiguous(this.shape, this.strides) ? this.alias() : ops.contiguousCopy(this);
    try {
      const size = BYTES[this.dtype];
      return await this.device.read(dense.storage, dense.offset * size, this.size * size);
    } finally {
      dense.dispose();
    }
  }
  /** The one element as a number. @throws ShapeError when there is more than one */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError("item", `a tensor of shape ${show(this.shape)} is not one number`);
    return (await this.data())[0];
  }
  /** The elements in nested arrays. */
  async tolist(): Promise<Nested> {
    const values = await this.data();
    const build = (dim: number, at: number): Nested =>
      dim === this.rank
        ? values[at]
        : Array.from({ length: this.shape[dim] }, (_, i) =>
            build(dim + 1, at + i * contiguousStrides(this.shape)[dim]),
          );
    return build(0, 0);
  }

  /** Another tensor on the same memory, untracked and without history unless told otherwise. For ops and caches. */
  alias({ tracked = false, owned = false }: TensorOwnership = {}): Tensor {
    this.#check("alias");
    this.storage.retain();
    return new Tensor(this, { tracked, owned });
  }
  /** Hands an untracked tensor to the current scope. */
  adopt(): this {
    track(this);
    return this;
  }
  /** Takes the tensor out of its scope: it lives until `dispose()`. */
  keep(): this {
    untrack(this);
    this.left();
    return this;
  }
  /** Has the garbage collector free the memory as the last resort. For scopes. */
  left(): void {
    if (this.#registered || this.#disposed) return;
    this.#registered = true;
    dropped.register(this, this.storage, this);
  }
  /** Gives the memory back. Safe to call twice. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    untrack(this);
    if (this.#registered) dropped.unregister(this);
    this.storage.release();
    this.grad?.dispose();
    this.grad = undefined;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  #check(op: string): void {
    if (this.#disposed)
      throw new TensorError(
        op,
        `the tensor of shape ${show(this.shape)} was freed; keep() it, or return it from its scope`,
      );
  }

  /** Sends gradients back to all leaves; see {@link runBackward}. */
  backward(gradient?: Tensor): void {
    runBackward(this, gradient);
  }
  /** The same values without history. */
  detach(): Tensor {
    return this.alias({ tracked: true });
  }
  /** A contiguous copy; the gradient flows through. */
  clone(): Tensor {
    return ops.clone(this);
  }

  add(b: Tensor | number): Tensor {
    return ops.add(this, b);
  }
  sub(b: Tensor | number): Tensor {
    return ops.sub(this, b);
  }
  mul(b: Tensor | number): Tensor {
    return ops.mul(this, b);
  }
  div(b: Tensor | number): Tensor {
    return ops.div(this, b);
  }
  pow(b: Tensor | number): Tensor {
    return ops.pow(this, b);
  }
  maximum(b: Tensor | number): Tensor {
    return ops.maximum(this, b);
  }
  minimum(b: Tensor | number): Tensor {
    return ops.minimum(this, b);
  }
  /** 1 where less, else 0. */
  lt(b: Tensor | number): Tensor {
    return ops.lt(this, b);
  }
  le(b: Tensor | number): Tensor {
    return ops.le(this, b);
  }
  gt(b: Tensor | number): Tensor {
    return ops.gt(this, b);
  }
  ge(b: Tensor | number): Tensor {
    return ops.ge(this, b);
  }
  eq(b: Tensor | number): Tensor {
    return ops.eq(this, b);
  }
  ne(b: Tensor | number): Tensor {
    return ops.ne(this, b);
  }
  neg(): Tensor {
    return ops.neg(this);
  }
  abs(): Tensor {
    return ops.abs(this);
  }
  sign(): Tensor {
    return ops.sign(this);
  }
  floor(): Tensor {
    return ops.floor(this);
  }
  ceil(): Tensor {
    return ops.ceil(this);
  }
  round(): Tensor {
    return ops.round(this);
  }
  sqrt(): Tensor {
    return ops.sqrt(this);
  }
  rsqrt(): Tensor {
    return ops.rsqrt(this);
  }
  square(): Tensor {
    return ops.square(this);
  }
  exp(): Tensor {
    return ops.exp(this);
  }
  log(): Tensor {
    return ops.log(this);
  }
  sin(): Tensor {
    return ops.sin(this);
  }
  cos(): Tensor {
    return ops.cos(this);
  }
  tanh(): Tensor {
    return ops.tanh(this);
  }
  erf(): Tensor {
    return ops.erf(this);
  }
  sigmoid(): Tensor {
    return ops.sigmoid(this);
  }
  silu(): Tensor {
    return ops.silu(this);
  }
  relu(): Tensor {
    return ops.relu(this);
  }
  gelu(options?: ops.GeluOptions): Tensor {
    return ops.gelu(this, options);
  }
  log2(): Tensor {
    return ops.log2(this);
  }
  log10(): Tensor {
    return ops.log10(this);
  }
  log1p(): Tensor {
    return ops.log1p(this);
  }
  expm1(): Tensor {
    return ops.expm1(this);
  }
  reciprocal(): Tensor {
    return ops.reciprocal(this);
  }
  trunc(): Tensor {
    return ops.trunc(this);
  }
  remainder(b: Tensor | number): Tensor {
    return ops.remainder(this, b);
  }
  /** Values outside of [min, max] moved to its ends. */
  clamp(min?: number, max?: number): Tensor {
    return ops.clamp(this, min, max);
  }
  /** `value` where `mask` is not 0. */
  maskedFill(mask: Tensor, value: number): Tensor {
    return ops.maskedFill(this, mask, value);
  }
  /** These elements where `test` is not 0, else those of `other`. */
  where(test: Tensor, other: Tensor | number): Tensor {
    return ops.where(test, this, other);
  }
  isnan(): Tensor {
    return ops.isnan(this);
  }
  isinf(): Tensor {
    return ops.isinf(this);
  }
  isfinite(): Tensor {
    return ops.isfinite(this);
  }
  logicalNot(): Tensor {
    return ops.logicalNot(this);
  }
  logicalAnd(b: Tensor): Tensor {
    return ops.logicalAnd(this, b);
  }
  logicalOr(b: Tensor): Tensor {
    return ops.logicalOr(this, b);
  }

  /** Sum over `dims` (all unless given). */
  sum(dims?: number | readonly number[], keepdim = false): Tensor {
    return ops.sum(this, dims, keepdim);
  }
  mean(dims?: number | readonly number[], keepdim = false): Tensor {
    return ops.mean(this, dims, keepdim);
  }
  amax(dims?: number | readonly number[], keepdim = false): Tensor {
    return ops.amax(this, dims, keepdim);
  }
  amin(dims?: number | readonly number[], keepdim = false): Tensor {
    return ops.amin(this, dims, keepdim);
  }
  /** The largest over all, or with `dim` the largest along it and where it stands. */
  max(): Tensor;
  max(dim: number, keepdim?: boolean): ops.Sorted;
  max(dim?: number, keepdim = false): Tensor | ops.Sorted {
    return dim === undefined ? ops.amax(this) : ops.max(this, dim, keepdim);
  }
  /** The smallest over all, or with `dim` the smallest along it and where it stands. */
  min(): Tensor;
  min(dim: number, keepdim?: boolean): ops.Sorted;
  min(dim?: number, keepdim = false): Tensor | ops.Sorted {
    return dim === undefined ? ops.amin(this) : ops.min(this, dim, keepdim);
  }
  /** Index of the largest value along `dim`, the last unless given, i32. */
  argmax(dim?: number, keepdim?: boolean): Tensor {
    return ops.argmax(this, dim, keepdim);
  }
  /** Index of the smallest value along `dim`, the last unless given, i32. */
  argmin(dim?: number, keepdim?: boolean): Tensor {
    return ops.argmin(this, dim, keepdim);
  }
  /** Variance over `dims` (all unless given), with Bessel's correction unless told otherwise. */
  var(dims?: number | readonly number[], options?: ops.VarianceOptions): Tensor {
    return ops.variance(this, dims, options);
  }
  std(dims?: number | readonly number[], options?: ops.VarianceOptions): Tensor {
    return ops.std(this, dims, options);
  }
  /** (Σ|x|ᵖ)^(1/p) over `dims`, all unless given. */
  norm(p?: number, dims?: number | readonly number[], keepdim?: boolean): Tensor {
    return ops.norm(this, p, dims, keepdim);
  }
  prod(dim?: number, keepdim?: boolean): Tensor {
    return ops.prod(this, dim, keepdim);
  }
  logsumexp(dims?: number | readonly number[], keepdim?: boolean): Tensor {
    return ops.logsumexp(this, dims, keepdim);
  }
  cumsum(dim: number): Tensor {
    return ops.cumsum(this, dim);
  }
  cumprod(dim: number): Tensor {
    return ops.cumprod(this, dim);
  }
  any(dims?: number | readonly number[], keepdim?: boolean): Tensor {
    return ops.any(this, dims, keepdim);
  }
  all(dims?: number | readonly number[], keepdim?: boolean): Tensor {
    return ops.all(this, dims, keepdim);
  }
  sort(dim?: number, options?: ops.SortOptions): ops.Sorted {
    return ops.sort(this, dim, options);
  }
  argsort(dim?: number, options?: ops.SortOptions): Tensor {
    return ops.argsort(this, dim, options);
  }
  /** The `k` largest (or smallest) along `dim` in order, and where they stood. */
  topk(k: number, dim?: number, largest?: boolean): ops.Sorted {
    return ops.topk(this, k, dim, largest);
  }
  softmax(dim = -1): Tensor {
    return ops.softmax(this, dim);
  }
  logSoftmax(dim = -1): Tensor {
    return ops.logSoftmax(this, dim);
  }

  matmul(b: Tensor): Tensor {
    return ops.matmul(this, b);
  }

  /** A view where strides allow, else a copy; one size may be −1. */
  reshape(...shape: number[]): Tensor {
    return ops.reshape(this, shape);
  }
  permute(...dims: number[]): Tensor {
    return ops.permute(this, dims);
  }
  transpose(a: number, b: number): Tensor {
    return ops.transpose(this, a, b);
  }
  /** The matrix transpose of the last two dimensions. */
  get T(): Tensor {
    return ops.transpose(this, -2, -1);
  }
  unsqueeze(dim: number): Tensor {
    return ops.unsqueeze(this, dim);
  }
  /** Without dimension `dim`, whose size is 1; without all such unless given. */
  squeeze(dim?: number): Tensor {
    return ops.squeeze(this, dim);
  }
  expand(...shape: number[]): Tensor {
    return ops.expand(this, shape);
  }
  /** Elements `start` to `end` (not included) along `dim`, every `step`th; negative numbers count from the end. */
  slice(dim: number, start?: number, end?: number, step?: number): Tensor {
    return ops.slice(this, dim, start, end, step);
  }
  /** One index along `dim`, the dimension dropped. */
  select(dim: number, index: number): Tensor {
    return ops.select(this, dim, index);
  }
  /** Indexing as in brackets: `x.at(0, "1:5:2", "...", null, -1)`. See `at`. */
  at(...index: readonly ops.Index[]): Tensor {
    return ops.at(this, ...index);
  }
  /** Slices of `dim` (the first unless given) picked by an i32 tensor. */
  indexSelect(index: Tensor): Tensor;
  indexSelect(dim: number, index: Tensor): Tensor;
  indexSelect(a: number | Tensor, b?: Tensor): Tensor {
    return typeof a === "number" ? ops.indexSelect(this, a, b!) : ops.embedding(this, a);
  }
  /** Elements of `dim` picked by an i32 tensor of as many dimensions. */
  gather(dim: number, index: Tensor): Tensor {
    return ops.gather(this, dim, index);
  }
  scatter(dim: number, index: Tensor, src: Tensor): Tensor {
    return ops.scatter(this, dim, index, src);
  }
  scatterAdd(dim: number, index: Tensor, src: Tensor): Tensor {
    return ops.scatterAdd(this, dim, index, src);
  }
  flip(dims: number | readonly number[]): Tensor {
    return ops.flip(this, dims);
  }
  roll(shift: number, dim: number): Tensor {
    return ops.roll(this, shift, dim);
  }
  flatten(start?: number, end?: number): Tensor {
    return ops.flatten(this, start, end);
  }
  unflatten(dim: number, sizes: Shape): Tensor {
    return ops.unflatten(this, dim, sizes);
  }
  movedim(from: number, to: number): Tensor {
    return ops.movedim(this, from, to);
  }
  repeat(...counts: number[]): Tensor {
    return ops.repeat(this, counts);
  }
  split(size: number | readonly number[], dim?: number): Tensor[] {
    return ops.split(this, size, dim);
  }
  chunk(count: number, dim?: number): Tensor[] {
    return ops.chunk(this, count, dim);
  }
  unbind(dim?: number): Tensor[] {
    return ops.unbind(this, dim);
  }
  /** Windows along `dim`, their elements as a new last dimension: a view. */
  unfold(dim: number, size: number, step?: number): Tensor {
    return ops.unfold(this, dim, size, step);
  }
  diagonal(offset?: number, dim1?: number, dim2?: number): Tensor {
    return ops.diagonal(this, offset, dim1, dim2);
  }
  tril(diagonal?: number): Tensor {
    return ops.tril(this, diagonal);
  }
  triu(diagonal?: number): Tensor {
    return ops.triu(this, diagonal);
  }
  contiguous(): Tensor {
    return isContiguous(this.shape, this.strides) ? this : ops.clone(this);
  }
  /** The values in another element type. */
  to(dtype: DType): Tensor {
    return dtype === this.dtype ? this : ops.cast(this, dtype);
  }

  /** The values as PyTorch prints them: `tensor([[1.0000, 0.5000]])`; only the ends of large ones. Waits for the device. */
  async format(options?: FormatOptions): Promise<string> {
    return formatTensor(await this.data(), this.shape, this.dtype, options);
  }
  /** What the tensor is, without its values, which only {@link format} can wait for. */
  toString(): string {
    return `Tensor(shape=${show(this.shape)}, dtype=${this.dtype}, device=${this.device.info.name}${isGradEnabled() && this.requiresGrad ? ", requiresGrad" : ""})`;
  }
}
