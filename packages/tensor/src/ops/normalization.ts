import { ones } from "../creation.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { type Shape, sameShape, show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { add, div, mul, neg, rsqrt, sub } from "./elementwise.ts";
import { rmsNorm } from "./model.ts";
import { mean, sum } from "./reduce.ts";
import { expand, reshape } from "./shape.ts";

function checkFloat(op: string, x: Tensor): void {
  if (x.dtype !== "f32" && x.dtype !== "f64")
    throw new DTypeError(op, `needs f32 or f64, not ${x.dtype}; use to('f32')`);
}

/**
 * (x − mean)/√(var + eps)·weight + bias over the last dimensions: PyTorch's `functional.layer_norm` (Ba et al., 2016).
 * What is left of x after its mean is taken off has its variance as its mean square, so `rmsNorm` does the rest. Shapes: x
 * [..., ...weight], weight and bias alike (without either, `shape` says over which sizes).
 * @throws ShapeError where weight or bias do not end x's shape
 */
export function layerNorm(x: Tensor, shape: Shape, weight?: Tensor, bias?: Tensor, eps = 1e-5): Tensor {
  checkFloat("layerNorm", x);
  const [size, lead] = [sizeOf(shape), x.shape.slice(0, x.rank - shape.length)];
  if (shape.length === 0 || shape.length > x.rank || !sameShape(x.shape.slice(lead.length), shape))
    throw new ShapeError("layerNorm", `${show(x.shape)} does not end with ${show(shape)}`);
  for (const [name, t] of Object.entries({ weight, bias })) {
    if (t && !sameShape(t.shape, shape))
      throw new ShapeError("layerNorm", `${name} ${show(t.shape)} is not of the shape ${show(shape)}`);
  }
  const flat = shape.length === 1 ? x : reshape(x, [...lead, size]);
  const { dtype, device } = x;
  const scale = weight ? reshape(weight, [size]) : ones([size], { dtype, device });
  const out = rmsNorm(sub(flat, mean(flat, -1, true)), scale, eps);
  const shifted = bias ? add(out, reshape(bias, [size])) : out;
  return shape.length === 1 ? shifted : reshape(shifted, x.shape);
}

/** x [batch, channels, ...] with a row for each channel of each example: sums along rows, and numbers beside them, are fast. */
function channelRows(x: Tensor): Tensor {
  const [batch, channels, ...places] = x.shape;
  return reshape(x, [batch * channels, sizeOf(places)]);
}
/** A number for each channel beside the {@link channelRows}. */
function perChannel(t: Tensor, batch: number): Tensor {
  return reshape(expand(reshape(t, [1, t.size]), [batch, t.size]), [batch * t.size, 1]);
}

/** x·scale + shift, each [channels]. Shapes: x and result [batch, channels, ...]. */
export function channelAffine(x: Tensor, scale: Tensor | undefined, shift: Tensor | undefined): Tensor {
  let out = channelRows(x);
  if (scale) out = mul(out, perChannel(scale, x.shape[0]));
  if (shift) out = add(out, perChannel(shift, x.shape[0]));
  return reshape(out, x.shape);
}
/** Mean of each channel of x [batch, channels, ...], [channels]. */
export function channelMean(x: Tensor): Tensor {
  const [batch, channels] = x.shape;
  const sums = reshape(sum(channelRows(x), 1), [batch, channels]);
  return div(sum(sums, 0), x.size / Math.max(1, channels));
}

/**
 * x less a mean and over √(variance + eps), both by channel, then ·weight + bias: PyTorch's `functional.batch_norm` with
 * the statistics given. Shapes: x [batch, channels, ...], all others [channels].
 * @throws ShapeError where they do not fit
 */
export function batchNorm(
  x: Tensor,
  runningMean: Tensor,
  runningVar: Tensor,
  weight?: Tensor,
  bias?: Tensor,
  eps = 1e-5,
): Tensor {
  checkFloat("batchNorm", x);
  for (const t of [runningMean, runningVar, weight, bias]) {
    if (t && (x.rank < 2 || t.size !== x.shape[1]))
      throw new ShapeError("batchNorm", `${show(t.shape)} is not a number for each channel of ${show(x.shape)}`);
  }
  const scale = rsqrt(add(runningVar, eps));
  return channelAffine(channelAffine(x, undefined, neg(runningMean)), weight ? mul(scale, weight) : scale, bias);
}

/**
 * Layer normalisation over groups of channels: PyTorch's `functional.group_norm` (Wu & He, 2018). Shapes: x [batch,
 * channels, ...], weight and bias [channels]; channels are cut into `groups`.
 */
export function groupNorm(x: Tensor, groups: number, weight?: Tensor, bias?: Tensor, eps = 1e-5): Tensor {
  checkFloat("groupNorm", x);
  const [batch, channels] = x.shape;
  if (x.rank < 2 || !Number.isSafeInteger(groups) || groups < 1 || channels % groups !== 0)
    throw new ShapeError("groupNorm", `the channels of ${show(x.shape)} are not cut into ${groups} groups`);
  for (const t of [weight, bias]) {
    if (t && t.size !== channels)
      throw new ShapeError("groupNorm", `${show(t.shape)} is not a number for each channel of ${show(x.shape)}`);
  }
  const size = x.size / Math.max(1, batch * groups);
  const normal = reshape(layerNorm(reshape(x, [batch, groups, size]), [size], undefined, undefined, eps), x.shape);
  return channelAffine(normal, weight, bias);
}
