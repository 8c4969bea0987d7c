import type { RandomKey } from "./devices/device.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import { FILL } from "./expr/program.ts";
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

/** A number everywhere. */
export function full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
  const out = Tensor.empty(shape, options);
  out.device.elementwise(FILL, [value], [], out);
  return out;
}
/** 0 everywhere. */
export function zeros(shape: Shape, options?: TensorOptions): Tensor {
  return full(shape, 0, options);
}
/** 1 everywhere. */
export function ones(shape: Shape, options?: TensorOptions): Tensor {
  return full(shape, 1, options);
}
/** 0, 1, … as i32 unless another type is given. */
export function arange(end: number, options: TensorOptions = {}): Tensor {
  return Tensor.from(
    Array.from({ length: end }, (_, i) => i),
    [end],
    { dtype: "i32", ...options },
  );
}

function draw(kind: "uniform" | "normal", shape: Shape, key: RandomKey, options: TensorOptions): Tensor {
  if (options.dtype === "bf16" || options.dtype === "i32")
    throw new DTypeError("random", "random numbers are f32 or f64");
  const out = Tensor.empty(shape, options);
  out.device.random(kind, key, out);
  return out;
}
/** Uniform in [0, 1): the same for the same key, on every device. */
export function rand(shape: Shape, key: RandomKey, options: TensorOptions = {}): Tensor {
  return draw("uniform", shape, key, options);
}
/** Standard normal. */
export function randn(shape: Shape, key: RandomKey, options: TensorOptions = {}): Tensor {
  return draw("normal", shape, key, options);
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
