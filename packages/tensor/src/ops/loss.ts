import { noGrad } from "../autograd.ts";
import { full } from "../creation.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { constant, type Expr, select } from "../expr/expr.ts";
import { sameShape, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { abs, add, div, elementwise, exp, ge, log, lt, mul, ne, neg, square, sub, where } from "./elementwise.ts";
import { explainIndex } from "./embedding.ts";
import { gather } from "./indexing.ts";
import { clamp, log1pExpr } from "./math.ts";
import { apply } from "./op.ts";
import { mean, sum } from "./reduce.ts";
import { reshape, squeeze, unsqueeze } from "./shape.ts";
import { logSoftmax } from "./softmax.ts";

/** How the losses of the elements become one: `none` leaves them. PyTorch's `reduction`. */
export type Reduction = "mean" | "sum" | "none";

/** Setting of every loss. */
export interface LossOptions {
  /** `mean` unless given. */
  readonly reduction?: Reduction;
}

/** Huber's parabola inside ±δ and lines outside: times δ, or not, it is `huber_loss` or `smooth_l1_loss`. */
const huberExpr = (x: Expr, delta: Expr): Expr =>
  select(x.abs().lt(delta), x.mul(x).mul(0.5), delta.mul(x.abs().sub(delta.mul(0.5))));

/** Parts of losses that one pass computes. */
export const lossOps = {
  /** max(x, 0) − x·y + log(1 + e^−|x|): −log σ(x) for y = 1, −log(1 − σ(x)) for 0. */
  bceWithLogits: elementwise("bceWithLogits", 2, ([x, y]) =>
    x.max(0).sub(x.mul(y)).add(log1pExpr(x.abs().neg().exp())),
  ),
  huber: elementwise("huber", 1, ([x], [delta]) => huberExpr(x, delta), { params: 1 }),
  /** y·log y, 0 at 0. */
  xlogx: elementwise("xlogx", 1, ([y]) => select(y.eq(0), constant(0), y.mul(y.log()))),
} as const;

function reduceLoss(losses: Tensor, reduction: Reduction = "mean"): Tensor {
  if (reduction === "none") return losses;
  return reduction === "sum" ? sum(losses) : mean(losses);
}

function checkSame(op: string, input: Tensor, target: Tensor): void {
  if (!sameShape(input.shape, target.shape)) {
    throw new ShapeError(
      op,
      `input ${show(input.shape)} and target ${show(target.shape)} differ; reshape or expand one of them`,
    );
  }
}

/** Settings of {@link crossEntropy}. */
export interface ClassLossOptions extends LossOptions {
  /** A target that carries no loss, besides all that are negative. */
  readonly ignoreIndex?: number;
  /** Share of the target spread evenly over all classes, 0 … 1 (Szegedy et al., 2016). */
  readonly labelSmoothing?: number;
  /** Factor of each class' loss, f32 [classes]. */
  readonly weight?: Tensor;
}

/**
 * −log softmax(logits)[target]: PyTorch's `cross_entropy`. Shapes: logits [rows, classes] or [rows, classes, ...places],
 * targets i32 [rows] or [rows, ...places]. The mean is over the targets that count (by their class' weight); negative ones
 * do not.
 * @throws IndexError for a target beyond the classes, on devices whose memory the host sees; on others the loss is NaN
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: ClassLossOptions = {}): Tensor {
  checkClasses("crossEntropy", logits, targets);
  return classLoss("crossEntropy", logSoftmax(logits, 1), targets, options);
}

/**
 * −logProbabilities[target]: PyTorch's `nll_loss`. Shapes, targets and errors as those of {@link crossEntropy}, for
 * logarithms of probabilities instead of logits.
 */
export function nllLoss(
  logProbabilities: Tensor,
  targets: Tensor,
  options: Omit<ClassLossOptions, "labelSmoothing"> = {},
): Tensor {
  checkClasses("nllLoss", logProbabilities, targets);
  return classLoss("nllLoss", logProbabilities, targets, options);
}

function checkClasses(op: string, logits: Tensor, targets: Tensor): void {
  const [rows, , ...places] = logits.shape;
  if (logits.rank < 2 || !sameShape(targets.shape, [rows, ...places])) {
    throw new ShapeError(
      op,
      `needs logits [rows, classes, ...] and targets [rows, ...]: ${show(logits.shape)}, ${show(targets.shape)}`,
    );
  }
  if (targets.dtype !== "i32") throw new DTypeError(op, `targets must be i32, not ${targets.dtype}; use to('i32')`);
}

function classLoss(op: string, logProbabilities: Tensor, targets: Tensor, options: ClassLossOptions): Tensor {
  const { ignoreIndex = -100, labelSmoothing = 0, weight, reduction = "mean" } = options;
  const classes = logProbabilities.shape[1];
  const { dtype, device } = logProbabilities;
  if (weight && !sameShape(weight.shape, [classes]))
    throw new ShapeError(op, `the weight ${show(weight.shape)} is not a number for each of ${classes} classes`);

  const { counted, index, factors } = noGrad(() => {
    const seen = mul(ge(targets, 0), ne(targets, ignoreIndex));
    // Those left out point to class 0, which exists, and count for nothing.
    const index = mul(targets, seen);
    return { counted: seen.to(dtype), index, factors: weight && gather(weight.to(dtype), 0, reshape(index, [-1])) };
  });
  const share = factors ? mul(counted, reshape(factors, targets.shape)) : counted;
  const picked = explainIndex(
    op,
    () => "a target",
    () => `${classes} classes`,
    () => squeeze(gather(logProbabilities, 1, unsqueeze(index, 1)), 1),
  );
  // Where no device looks, what is beyond the classes still must not pass for a loss.
  const valid = where(lt(index, classes), picked, full([], Number.NaN, { dtype, device }));
  let losses = neg(mul(valid, share));
  if (labelSmoothing > 0) {
    const byClass = weight
      ? mul(logProbabilities, reshape(weight.to(dtype), perClass(classes, targets.rank)))
      : logProbabilities;
    const even = neg(mul(div(sum(byClass, 1), classes), counted));
    losses = add(mul(losses, 1 - labelSmoothing), mul(even, labelSmoothing));
  }
  return reduction === "mean" ? div(sum(losses), sum(share)) : reduceLoss(losses, reduction);
}

const perClass = (classes: number, rank: number): number[] => [classes, ...new Array<number>(rank - 1).fill(1)];

/** Mean squared difference: PyTorch's `mse_loss`. Shapes: input and target alike. */
export function mseLoss(input: Tensor, target: Tensor, { reduction }: LossOptions = {}): Tensor {
  checkSame("mseLoss", input, target);
  return reduceLoss(square(sub(input, target)), reduction);
}
/** Mean size of the difference: PyTorch's `l1_loss`. Shapes: input and target alike. */
export function l1Loss(input: Tensor, target: Tensor, { reduction }: LossOptions = {}): Tensor {
  checkSame("l1Loss", input, target);
  return reduceLoss(abs(sub(input, target)), reduction);
}
/** Half the square of differences below `delta`, a line beyond: PyTorch's `huber_loss` (Huber, 1964). */
export function huberLoss(
  input: Tensor,
  target: Tensor,
  { reduction, delta = 1 }: LossOptions & { readonly delta?: number } = {},
): Tensor {
  checkSame("huberLoss", input, target);
  return reduceLoss(apply(lossOps.huber, [sub(input, target)], [delta]), reduction);
}
/** The {@link huberLoss} over its `beta`: PyTorch's `smooth_l1_loss`. */
export function smoothL1Loss(
  input: Tensor,
  target: Tensor,
  { reduction, beta = 1 }: LossOptions & { readonly beta?: number } = {},
): Tensor {
  checkSame("smoothL1Loss", input, target);
  if (beta === 0) return l1Loss(input, target, { reduction });
  return reduceLoss(div(apply(lossOps.huber, [sub(input, target)], [beta]), beta), reduction);
}

/** Settings of {@link bceLoss} and {@link bceWithLogitsLoss}. */
export interface BinaryLossOptions extends LossOptions {
  /** Factor of each element's loss; broadcasts. */
  readonly weight?: Tensor;
}

const weighted = (losses: Tensor, weight: Tensor | undefined): Tensor => (weight ? mul(losses, weight) : losses);

/**
 * −(y·log p + (1 − y)·log(1 − p)) for probabilities p: PyTorch's `binary_cross_entropy`, the logarithms counting as at
 * least −100, as there. Shapes: input and target alike. Where the probabilities come from a sigmoid,
 * {@link bceWithLogitsLoss} is exact.
 */
export function bceLoss(input: Tensor, target: Tensor, { reduction, weight }: BinaryLossOptions = {}): Tensor {
  checkSame("bceLoss", input, target);
  const [yes, no] = [clamp(log(input), -100), clamp(log(add(neg(input), 1)), -100)];
  const losses = neg(add(mul(target, yes), mul(add(neg(target), 1), no)));
  return reduceLoss(weighted(losses, weight), reduction);
}
/**
 * {@link bceLoss} of σ(logits), which overflows nowhere: PyTorch's `binary_cross_entropy_with_logits`. Shapes: logits and
 * target alike.
 */
export function bceWithLogitsLoss(
  logits: Tensor,
  target: Tensor,
  { reduction, weight }: BinaryLossOptions = {},
): Tensor {
  checkSame("bceWithLogitsLoss", logits, target);
  return reduceLoss(weighted(apply(lossOps.bceWithLogits, [logits, target], []), weight), reduction);
}

/** Settings of {@link klDivLoss}. */
export interface KlOptions {
  /** `batchmean`, the sum over the first dimension's size, is the divergence itself; `mean` unless given. */
  readonly reduction?: Reduction | "batchmean";
  /** Whether the target is given as logarithms, false. */
  readonly logTarget?: boolean;
}

/**
 * target·(log target − input), elementwise: PyTorch's `kl_div`. Shapes alike; input holds logarithms of probabilities. A
 * target of 0 gives 0.
 */
export function klDivLoss(input: Tensor, target: Tensor, { reduction, logTarget = false }: KlOptions = {}): Tensor {
  checkSame("klDivLoss", input, target);
  const losses = logTarget
    ? mul(exp(target), sub(target, input))
    : sub(apply(lossOps.xlogx, [target], []), mul(target, input));
  if (reduction === "batchmean") return div(sum(losses), input.shape[0] ?? 1);
  return reduceLoss(losses, reduction);
}
