import type { View } from "../devices/device.ts";
import { isBlocks } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { broadcastShapes, show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, type Context, defineOp } from "./op.ts";
import { broadcastView } from "./views.ts";

function checkTypes(op: string, a: Tensor, b: Tensor): void {
  if (a.dtype !== "f32" && a.dtype !== "f64")
    throw new DTypeError(op, `the left side must be f32 or f64, not ${a.dtype}; use to('f32')`);
  if (b.dtype !== a.dtype && !(a.dtype === "f32" && (b.dtype === "bf16" || isBlocks(b.dtype)))) {
    throw new DTypeError(op, `element types do not go together: ${a.dtype} × ${b.dtype}`);
  }
}

/** The batch dimensions of a product spread over those of its result. */
function batched(view: View, batch: readonly number[]): View {
  return broadcastView(view, [...batch, ...view.shape.slice(-2)]);
}

function multiply(context: Context, a: Tensor, b: Tensor, out: Tensor): void {
  const batch = out.shape.slice(0, -2);
  context.device.matmul(batched(a, batch), batched(b, batch), out);
}

/** Sums a product's gradient over the batch dimensions in which its operand was repeated. */
function reduceBatch(grad: Tensor, shape: readonly number[]): Tensor {
  const lead = grad.rank - shape.length;
  const dims = grad.shape.flatMap((n, d) => (d < lead || (shape[d - lead] === 1 && n !== 1) ? [d] : []));
  return dims.length > 0 ? grad.sum(dims, true).reshape(...shape) : grad;
}

/** All dimensions but the last joined. */
function asRows(x: Tensor): Tensor {
  return x.reshape(sizeOf(x.shape.slice(0, -1)), x.shape.at(-1)!);
}

export const matmulOps = {
  matmul: defineOp<undefined>({
    name: "matmul",
    blocks: [1],
    infer([a, b]) {
      if (a.rank < 2 || b.rank < 2)
        throw new ShapeError("matmul", `needs matrices: ${show(a.shape)} × ${show(b.shape)}`);
      if (a.shape.at(-1) !== b.shape.at(-2))
        throw new ShapeError("matmul", `inner sizes differ: ${show(a.shape)} × ${show(b.shape)}`);
      checkTypes("matmul", a, b);
      const batch = broadcastShapes("matmul", a.shape.slice(0, -2), b.shape.slice(0, -2));
      return { shape: [...batch, a.shape.at(-2)!, b.shape.at(-1)!], dtype: a.dtype };
    },
    forward(context, [a, b]) {
      const out = context.output();
      multiply(context, a, b, out);
      context.save(...(context.needs[1] ? [a] : []), ...(context.needs[0] ? [b] : []));
      return out;
    },
    backward(context, grad) {
      const [a, b] = context.inputs;
      const [needA, needB] = context.needs;
      const left = needB ? context.saved[0] : undefined;
      const right = needA ? context.saved[needB ? 1 : 0] : undefined;
      return [right && reduceBatch(matmul(grad, right.T), a.shape), left && reduceBatch(matmul(left.T, grad), b.shape)];
    },
  }),

  /** x·weightᵀ + bias, weight [out, in] as PyTorch keeps it. */
  linear: defineOp<undefined>({
    name: "linear",
    blocks: [1],
    infer([x, weight, bias]) {
      if (weight.rank !== 2 || x.rank < 1 || x.shape.at(-1) !== weight.shape[1]) {
        throw new ShapeError(
          "linear",
          `input ${show(x.shape)} does not fit a weight of ${show(weight.shape)} (out, in)`,
        );
      }
      if (bias && (bias.rank !== 1 || bias.shape[0] !== weight.shape[0])) {
        throw new ShapeError(
          "linear",
          `bias ${show(bias.shape)} does not fit a weight of ${show(weight.shape)} (out, in)`,
        );
      }
      checkTypes("linear", x, weight);
      if (bias && bias.dtype !== x.dtype) {
        throw new DTypeError(
          "linear",
          `the bias must be ${x.dtype} as the input, not ${bias.dtype}; use to('${x.dtype}')`,
        );
      }
      return { shape: [...x.shape.slice(0, -1), weight.shape[0]], dtype: x.dtype };
    },
    forward(context, [x, weight, bias]) {
      const out = context.output();
      context.device.matmul(asRows(x), weight.T, asRows(out), bias ? { bias } : undefined);
      context.save(...(context.needs[1] ? [x] : []), ...(context.needs[0] ? [weight] : []));
      return out;
    },
    backward(context, grad) {
      const [x, , bias] = context.inputs;
      const [needX, needWeight, needBias] = context.needs;
      const rows = asRows(grad);
      const input = needWeight ? asRows(context.saved[0]) : undefined;
      return [
        needX ? matmul(rows, context.saved[needWeight ? 1 : 0]).reshape(...x.shape) : undefined,
        input && matmul(rows.T, input),
        bias && (needBias ? rows.sum(0) : undefined),
      ];
    },
  }),
} as const;

/** Matrix product with broadcast batch dimensions; a vector counts as a row on the left and a column on the right. */
export function matmul(a: Tensor, b: Tensor): Tensor {
  if (a.rank === 1 && b.rank === 1) return matmul(a.unsqueeze(0), b.unsqueeze(1)).reshape();
  if (a.rank === 1) return matmul(a.unsqueeze(0), b).squeeze(-2);
  if (b.rank === 1) return matmul(a, b.unsqueeze(1)).squeeze(-1);
  return apply(matmulOps.matmul, [a, b], undefined);
}

/** PyTorch's `functional.linear`. Shapes: x [..., in], weight [out, in], bias [out]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  return apply(matmulOps.linear, bias ? [x, weight, bias] : [x, weight], undefined);
}
