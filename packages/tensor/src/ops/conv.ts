import { DTypeError, ShapeError } from "../errors.ts";
import { show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { matmul } from "./matmul.ts";
import { channelAffine } from "./normalization.ts";
import { apply } from "./op.ts";
import { reshape } from "./shape.ts";
import { checkWindows, pad, type Window, windowOps } from "./windows.ts";

/** Settings of a convolution; one number stands for all dimensions. */
export interface ConvOptions {
  /** Steps of the kernel, 1. */
  readonly stride?: number | readonly number[];
  /** Zeros on both sides of each dimension, 0; `same` keeps the sizes (stride 1 only). */
  readonly padding?: number | readonly number[] | "same" | "valid";
  /** From one element of the kernel to the next, 1. */
  readonly dilation?: number | readonly number[];
  /** Channels are cut into so many groups, each with kernels of its own, 1; as many as channels: depthwise. */
  readonly groups?: number;
}

/** A setting for each of `n` dimensions. */
export function spread(op: string, name: string, value: number | readonly number[], n: number): readonly number[] {
  if (typeof value === "number") return new Array<number>(n).fill(value);
  if (value.length !== n) throw new ShapeError(op, `${name} ${show(value)} needs ${n} number${n === 1 ? "" : "s"}`);
  return value;
}

/** Zeros before and after each dimension, from the last one: as `pad` takes them. */
function padSizes(op: string, { padding = 0, stride = 1, dilation = 1 }: ConvOptions, kernel: readonly number[]) {
  const n = kernel.length;
  if (padding === "valid") return [];
  if (padding === "same") {
    if (spread(op, "stride", stride, n).some((s) => s !== 1))
      throw new ShapeError(op, `padding "same" needs stride 1, not ${stride}`);
    const reach = spread(op, "dilation", dilation, n).map((d, i) => d * (kernel[i] - 1));
    return reach.reverse().flatMap((r) => [Math.floor(r / 2), Math.ceil(r / 2)]);
  }
  return [...spread(op, "padding", padding, n)].reverse().flatMap((p) => [p, p]);
}

function convolve(op: string, n: number, x: Tensor, weight: Tensor, bias: Tensor | undefined, options: ConvOptions) {
  const { stride = 1, dilation = 1, groups = 1 } = options;
  const sizes = n === 1 ? "length" : "height, width";
  const fits = `an input of ${show(x.shape)} does not fit a weight of ${show(weight.shape)}`;
  if (x.rank !== n + 2 || weight.rank !== n + 2) {
    throw new ShapeError(op, `needs x [batch, channels, ${sizes}] and weight [out, channels/groups, ...]: ${fits}`);
  }
  const [batch, channels] = x.shape as [number, number];
  const [out, perGroup, ...kernel] = weight.shape as [number, number, ...number[]];
  if (!Number.isSafeInteger(groups) || groups < 1 || perGroup * groups !== channels || out % groups !== 0) {
    throw new ShapeError(op, `${fits} in ${groups} group${groups === 1 ? "" : "s"}`);
  }
  if (x.dtype !== weight.dtype)
    throw new DTypeError(op, `element types do not go together: ${x.dtype} × ${weight.dtype}; use to('${x.dtype}')`);
  if (bias && (bias.rank !== 1 || bias.shape[0] !== out))
    throw new ShapeError(op, `bias ${show(bias.shape)} does not fit a weight of ${show(weight.shape)}`);

  const [strides, dilations] = [spread(op, "stride", stride, n), spread(op, "dilation", dilation, n)];
  const windows: Window[] = kernel.map((size, i) => ({
    ...{ dim: 2 + i, size, step: strides[i], dilation: dilations[i] },
  }));
  const around = pad(x, padSizes(op, options, kernel));
  checkWindows(op, around.shape, windows);
  const columns = apply(windowOps.columns, [around], windows);
  const places = columns.shape.slice(3);
  const inner = perGroup * sizeOf(kernel);
  const result = matmul(
    reshape(weight, [groups, out / groups, inner]),
    reshape(columns, [batch, groups, inner, sizeOf(places)]),
  );
  return channelAffine(reshape(result, [batch, out, ...places]), undefined, bias);
}
/**
 * Convolution over a sequence: PyTorch's `functional.conv1d` (a cross-correlation, as there). Made of windows that are
 * laid side by side and one matrix product. Shapes: x [batch, channels, length], weight [out, channels/groups, size],
 * bias [out], result [batch, out, length'].
 * @throws ShapeError where they do not fit each other or a kernel is larger than the padded input
 */
export function conv1d(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvOptions = {}): Tensor {
  return convolve("conv1d", 1, x, weight, bias, options);
}
/**
 * Convolution over pictures: PyTorch's `functional.conv2d`. Shapes: x [batch, channels, height, width], weight
 * [out, channels/groups, kernel height, kernel width], bias [out], result [batch, out, height', width'].
 * @throws ShapeError where they do not fit each other or a kernel is larger than the padded input
 */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvOptions = {}): Tensor {
  return convolve("conv2d", 2, x, weight, bias, options);
}
