import type { RandomKey } from "./devices/device.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import { FILL } from "./expr/program.ts";
import { scope } from "./memory.ts";
import { argsort } from "./ops/sort.ts";
import type { Shape } from "./shape.ts";
import { type Nested, Tensor, type TensorOptions } from "./tensor.ts";

/**
 * From nested arrays or one typed array: `tensor([[1, 2], [3, 4]])`. Numbers become f32 unless `dtype` says otherwise.
 * @throws ShapeError when nested arrays have unequal lengths
 */
export function tensor(values: Nested | ArrayLike<number>, options: TensorOptions & { shape?: Shape } = {}): Tensor {
  const flat: number[] = [];
  const shape: number[] = [];
  const visit = (value: Nested, depth: number): void => {
    if (typeof value === "number") {
      if (depth !== shape.length) throw new ShapeError("tensor", "nested arrays have unequal depths");
      flat.push(value);
      return;
    }
    if (depth === shape.length && flat.length === 0) shape.push(value.length);
    if (shape[depth] !== value.length) throw new ShapeError("tensor", "nested arrays have unequal lengths");
    for (const item of value) visit(item, depth + 1);
  };
  if (ArrayBuffer.isView(values)) {
    const array = values as unknown as ArrayLike<number>;
    return Tensor.from(array, options.shape ?? [array.length], options);
  }
  visit(values as Nested, 0);
  return Tensor.from(flat, options.shape ?? shape, options);
}

/** A number everywhere: PyTorch's `full`. */
export function full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
  const out = Tensor.empty(shape, options);
  out.device.elementwise(FILL, [value], [], out);
  return out;
}
/** 0 everywhere: PyTorch's `zeros`. */
export function zeros(shape: Shape, options?: TensorOptions): Tensor {
  return full(shape, 0, options);
}
/** 1 everywhere: PyTorch's `ones`. */
export function ones(shape: Shape, options?: TensorOptions): Tensor {
  return full(shape, 1, options);
}
/** Shape, type and device of another tensor, unless options say otherwise. */
function like(t: Tensor, options: TensorOptions | undefined): TensorOptions {
  return { dtype: t.dtype, device: t.device, ...options };
}
/** 0 everywhere, of the shape, type and device of `t`: PyTorch's `zeros_like`. */
export function zerosLike(t: Tensor, options?: TensorOptions): Tensor {
  return full(t.shape, 0, like(t, options));
}
/** 1 everywhere, of the shape, type and device of `t`: PyTorch's `ones_like`. */
export function onesLike(t: Tensor, options?: TensorOptions): Tensor {
  return full(t.shape, 1, like(t, options));
}
/** A number everywhere, of the shape, type and device of `t`: PyTorch's `full_like`. */
export function fullLike(t: Tensor, value: number, options?: TensorOptions): Tensor {
  return full(t.shape, value, like(t, options));
}
/** Undefined content, until something is written: PyTorch's `empty`. */
export function empty(shape: Shape, options?: TensorOptions): Tensor {
  return Tensor.empty(shape, options);
}

/** 0, 1, … below `end`: PyTorch's `arange`. i32 unless another type is given. */
export function arange(end: number, options?: TensorOptions): Tensor;
/**
 * `start`, `start + step`, … before `end`, `step` being 1 unless given: PyTorch's `arange`. i32 where all three are whole,
 * else f32, unless another type is given.
 * @throws ShapeError where the steps do not lead from start to end
 */
export function arange(start: number, end: number, step?: number, options?: TensorOptions): Tensor;
export function arange(first: number, second?: number | TensorOptions, step = 1, last: TensorOptions = {}): Tensor {
  const [start, end] = typeof second === "number" ? [first, second] : [0, first];
  const options = typeof second === "object" ? second : last;
  const count = Math.ceil((end - start) / step);
  if (!Number.isSafeInteger(count) || count < 0 || step === 0)
    throw new ShapeError("arange", `steps of ${step} do not lead from ${start} to ${end}`);
  const dtype = [start, end, step].every(Number.isInteger) ? "i32" : "f32";
  return Tensor.from(
    Array.from({ length: count }, (_, i) => start + i * step),
    [count],
    { dtype, ...options },
  );
}

/** @throws ShapeError unless it is a whole number, 0 or more */
function checkCount(op: string, count: number): void {
  if (!Number.isSafeInteger(count) || count < 0)
    throw new ShapeError(op, `the count must be a whole number, 0 or more, not ${count}`);
}

/** `count` numbers from `start` to `end` (included), evenly apart: PyTorch's `linspace`. */
export function linspace(start: number, end: number, count: number, options?: TensorOptions): Tensor {
  checkCount("linspace", count);
  const step = count > 1 ? (end - start) / (count - 1) : 0;
  // From both ends, as PyTorch does, so that the last one is exact.
  const at = (i: number): number => (2 * i < count ? start + i * step : end - (count - 1 - i) * step);
  return Tensor.from(
    Array.from({ length: count }, (_, i) => at(i)),
    [count],
    options,
  );
}
/** `base` to the powers of {@link linspace}: PyTorch's `logspace`. */
export function logspace(start: number, end: number, count: number, base = 10, options?: TensorOptions): Tensor {
  checkCount("logspace", count);
  const step = count > 1 ? (end - start) / (count - 1) : 0;
  return Tensor.from(
    Array.from({ length: count }, (_, i) => base ** (start + i * step)),
    [count],
    options,
  );
}
/** 1 on the diagonal, else 0; `columns` is `rows` unless given: PyTorch's `eye`. */
export function eye(rows: number, columns = rows, options?: TensorOptions): Tensor {
  for (const n of [rows, columns]) checkCount("eye", n);
  const values = new Uint8Array(rows * columns);
  for (let i = 0; i < Math.min(rows, columns); i++) values[i * columns + i] = 1;
  return Tensor.from(values, [rows, columns], options);
}
/**
 * 1 where the last dimension's number is the class, else 0: PyTorch's `functional.one_hot`, i32. Shapes: classes i32 [...],
 * result [..., count]. A class outside of the count gives a row of 0.
 */
export function oneHot(classes: Tensor, count: number): Tensor {
  checkCount("oneHot", count);
  if (classes.dtype !== "i32")
    throw new DTypeError("oneHot", `classes must be i32, not ${classes.dtype}; use to('i32')`);
  return classes.unsqueeze(-1).eq(arange(count, { device: classes.device }));
}
/** Coordinates of a grid, one tensor an axis, the first varying slowest: PyTorch's `meshgrid` with `indexing="ij"`. Views. */
export function meshgrid(...axes: readonly Tensor[]): Tensor[] {
  const wrong = axes.find(({ rank }) => rank !== 1);
  if (wrong) throw new ShapeError("meshgrid", `needs vectors, not a tensor of ${wrong.rank} dimensions`);
  const shape = axes.map(({ size }) => size);
  return axes.map((axis, d) => axis.reshape(...shape.map((_, i) => (i === d ? axis.size : 1))).expand(...shape));
}

function draw(kind: "uniform" | "normal", shape: Shape, key: RandomKey, options: TensorOptions): Tensor {
  if (options.dtype === "bf16" || options.dtype === "i32")
    throw new DTypeError("random", "random numbers are f32 or f64");
  const out = Tensor.empty(shape, options);
  out.device.random(kind, key, out);
  return out;
}
/** Uniform in [0, 1), the same for the same key, on every device: PyTorch's `rand`. */
export function rand(shape: Shape, key: RandomKey, options: TensorOptions = {}): Tensor {
  return draw("uniform", shape, key, options);
}
/** Standard normal, the same for the same key: PyTorch's `randn`. */
export function randn(shape: Shape, key: RandomKey, options: TensorOptions = {}): Tensor {
  return draw("normal", shape, key, options);
}

/** Whole numbers from `low` to `high` (not included), i32: PyTorch's `randint`. The same for the same key, on every device. */
export function randint(low: number, high: number, shape: Shape, key: RandomKey, options: TensorOptions = {}): Tensor {
  const span = high - low;
  if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || span < 1 || span > 2 ** 24)
    throw new DTypeError("randint", `needs whole numbers at most 2^24 apart, not ${low} and ${high}`);
  const { dtype = "i32", requiresGrad: _, ...rest } = options;
  // A number just below 1 may round to the end.
  return scope(() =>
    rand(shape, key, rest)
      .mul(span)
      .floor()
      .minimum(span - 1)
      .to("i32")
      .add(low)
      .to(dtype),
  );
}
/** The numbers below `count` in random order, i32: PyTorch's `randperm`. The same for the same key, on every device. */
export function randperm(count: number, key: RandomKey, options: TensorOptions = {}): Tensor {
  checkCount("randperm", count);
  return scope(() => argsort(rand([count], key, { device: options.device })));
}
/** 1 with the probability that stands in its place, else 0: PyTorch's `bernoulli`. Shapes: result as the probabilities. */
export function bernoulli(probabilities: Tensor, key: RandomKey): Tensor {
  const { dtype, device, shape } = probabilities;
  return scope(() => rand(shape, key, { dtype, device }).lt(probabilities.detach()));
}

/** Hands out random keys one after another: what layers take to initialise themselves. Equal seeds give equal keys. */
export class Generator {
  readonly seed: readonly [number, number];
  #stream = 0;

  /** @param seed a whole number from 0 to 2⁵³−1 */
  constructor(seed = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new RangeError(`a seed is a whole number from 0 to 2^53-1, not ${seed}`);
    this.seed = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  }
  next(): RandomKey {
    return { seed: this.seed, stream: this.#stream++ };
  }
}
