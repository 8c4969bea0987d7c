import { DTypeError } from "../errors.ts";
import { IDENTITY, Program } from "../expr/program.ts";
import { axisOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, type Context, defineOp, type ResultType } from "./op.ts";
import { amax } from "./reduce.ts";
import { broadcastView } from "./views.ts";

const EXP_SHIFTED = Program.of(2, 0, ([x, max]) => x.sub(max).exp());
const DIVIDE = Program.of(2, 0, ([a, b]) => a.div(b));
const PRODUCT = Program.of(2, 0, ([a, b]) => a.mul(b));
/** To x from y = softmax(x): y·(g − Σ g·y). */
const SOFTMAX_GRADIENT = Program.of(3, 0, ([grad, y, sum]) => y.mul(grad.sub(sum)));
const LOG_SHIFTED = Program.of(3, 0, ([x, max, sum]) => x.sub(max).sub(sum.log()));
/** To x from y = logSoftmax(x): g − eʸ·Σ g. */
const LOG_SOFTMAX_GRADIENT = Program.of(3, 0, ([grad, y, sum]) => grad.sub(y.exp().mul(sum)));

/** Along which dimension probabilities add up to 1. */
export interface SoftmaxArgs {
  readonly dim: number;
}

function infer(op: string, [x]: readonly Tensor[]): ResultType {
  if (x.dtype !== "f32" && x.dtype !== "f64")
    throw new DTypeError(op, `needs f32 or f64, not ${x.dtype}; use to('f32')`);
  return { shape: x.shape, dtype: x.dtype };
}

/** Σ program(inputs) along `dim`, as it broadcasts against the inputs. */
function sumAlong(context: Context, program: Program, inputs: readonly Tensor[], dim: number): Tensor {
  const [{ shape, dtype }] = inputs;
  const out = context.empty(
    shape.map((n, d) => (d === dim ? 1 : n)),
    dtype,
  );
  context.device.reduce("sum", program, [], inputs, broadcastView(out, shape));
  return out;
}

/** The largest along `dim`; where there is none, anything. */
function largest(x: Tensor, dim: number): Tensor {
  return x.shape[dim] === 0 ? x : amax(x, dim, true);
}

export const softmaxOps = {
  /** eˣ/Σeˣ. */
  softmax: defineOp<SoftmaxArgs>({
    name: "softmax",
    infer: (inputs) => infer("softmax", inputs),
    forward(context, [x], { dim }) {
      const out = context.output();
      if (x.size > 0 && dim === x.rank - 1 && context.device.softmax) context.device.softmax(x, out);
      else if (x.size > 0) {
        const e = context.output();
        context.device.elementwise(EXP_SHIFTED, [], [x, broadcastView(largest(x, dim), x.shape)], e);
        const sum = sumAlong(context, IDENTITY, [e], dim);
        context.device.elementwise(DIVIDE, [], [e, broadcastView(sum, x.shape)], out);
      }
      context.save(out);
      return out;
    },
    backward(context, grad, { dim }) {
      const [y] = context.saved;
      const out = context.empty(y.shape, y.dtype);
      if (y.size > 0) {
        const sum = sumAlong(context, PRODUCT, [grad, y], dim);
        context.device.elementwise(SOFTMAX_GRADIENT, [], [grad, y, broadcastView(sum, y.shape)], out);
      }
      return [out];
    },
  }),
  /** x − log Σeˣ. */
  logSoftmax: defineOp<SoftmaxArgs>({
    name: "logSoftmax",
    infer: (inputs) => infer("logSoftmax", inputs),
    forward(context, [x], { dim }) {
      const out = context.output();
      if (x.size > 0) {
        const max = broadcastView(largest(x, dim), x.shape);
        const sum = context.empty(
          x.shape.map((n, d) => (d === dim ? 1 : n)),
          x.dtype,
        );
        context.device.reduce("sum", EXP_SHIFTED, [], [x, max], broadcastView(sum, x.shape));
        context.device.elementwise(LOG_SHIFTED, [], [x, max, broadcastView(sum, x.shape)], out);
      }
      context.save(out);
      return out;
    },
    backward(context, grad, { dim }) {
      const [y] = context.saved;
      const out = context.empty(y.shape, y.dtype);
      if (y.size > 0) {
        const sum = sumAlong(context, IDENTITY, [grad], dim);
        context.device.elementwise(LOG_SOFTMAX_GRADIENT, [], [grad, y, broadcastView(sum, y.shape)], out);
      }
      return [out];
    },
  }),
} as const;

/** eˣ/Σeˣ along `dim`, with the maximum taken off first so that nothing overflows: PyTorch's `softmax`. */
export function softmax(x: Tensor, dim = -1): Tensor {
  return apply(softmaxOps.softmax, [x], { dim: axisOf("softmax", dim, x.rank) });
}
/** log of {@link softmax}, exact where the probability is too small for a float: PyTorch's `log_softmax`. */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return apply(softmaxOps.logSoftmax, [x], { dim: axisOf("logSoftmax", dim, x.rank) });
}
