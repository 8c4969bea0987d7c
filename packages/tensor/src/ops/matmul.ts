import type { View } from "../devices/device.ts";
import { isBlocks } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { broadcastShapes, sameShape, show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, type Context, defineOp, type ResultType } from "./op.ts";
import { rowsKind } from "./rows.ts";
import { broadcastView, rowsView, transposed } from "./views.ts";

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
  context.device.matmul(batched(a, batch), batched(b, batch), out, { rows: rowsKind() });
}

/** Sums a product's gradient over the batch dimensions in which its operand was repeated. */
function reduceBatch(grad: Tensor, shape: readonly number[]): Tensor {
  const lead = grad.rank - shape.length;
  const dims = grad.shape.flatMap((n, d) => (d < lead || (shape[d - lead] === 1 && n !== 1) ? [d] : []));
  return dims.length > 0 ? grad.sum(dims, true).reshape(...shape) : grad;
}

/** All dimensions but the last joined. */
export function rows(x: Tensor): View {
  return rowsView(x) ?? x.reshape(sizeOf(x.shape.slice(0, -1)), x.shape.at(-1)!);
}

/** Which optional inputs of a linear op stand behind the others, in this order. */
export interface LinearArgs {
  readonly bias: boolean;
  readonly addend: boolean;
}

/** The optional inputs' tensors, `first` being the number of those that are always there. */
function optionalInputs(inputs: readonly Tensor[], { bias, addend }: LinearArgs, first: number) {
  return { bias: bias ? inputs[first] : undefined, addend: addend ? inputs[first + Number(bias)] : undefined };
}

/** Shape and type rule of x·weightᵀ + bias + addend. */
export function inferLinear(op: string, inputs: readonly Tensor[], args: LinearArgs, first = 2): ResultType {
  const [x, weight] = inputs;
  const { bias, addend } = optionalInputs(inputs, args, first);
  const fits = `a weight of ${show(weight.shape)} (out, in)`;
  if (weight.rank !== 2 || x.rank < 1 || x.shape.at(-1) !== weight.shape[1]) {
    throw new ShapeError(op, `input ${show(x.shape)} does not fit ${fits}`);
  }
  const shape = [...x.shape.slice(0, -1), weight.shape[0]];
  if (bias && (bias.rank !== 1 || bias.shape[0] !== weight.shape[0])) {
    throw new ShapeError(op, `bias ${show(bias.shape)} does not fit ${fits}`);
  }
  if (addend && !sameShape(addend.shape, shape)) {
    throw new ShapeError(op, `addend ${show(addend.shape)} does not fit a result of ${show(shape)}`);
  }
  checkTypes(op, x, weight);
  const wrong = [bias, addend].find((t) => t && t.dtype !== x.dtype);
  if (wrong) {
    const name = wrong === bias ? "bias" : "addend";
    throw new DTypeError(op, `the ${name} must be ${x.dtype} as the input, not ${wrong.dtype}; use to('${x.dtype}')`);
  }
  return { shape, dtype: x.dtype };
}

/** out = x·weightᵀ + bias + addend. */
export function linearInto(
  context: Context,
  inputs: readonly Tensor[],
  args: LinearArgs,
  out: Tensor,
  first = 2,
): void {
  const [x, weight] = inputs;
  const { bias, addend } = optionalInputs(inputs, args, first);
  const options = { rows: rowsKind(), ...(addend ? { addend: rows(addend) } : { bias }) };
  context.device.matmul(rows(x), transposed(weight), rows(out), options);
  if (bias && addend) context.device.elementwise(IDENTITY, [], [broadcastView(bias, out.shape)], out, true);
}

/** The gradient to x of x·weightᵀ. */
export function linearToInput(context: Context, grad: Tensor, weight: View): Tensor {
  const { out, accumulate } = context.gradientTo(0);
  context.device.matmul(rows(grad), weight, rows(out), { accumulate });
  return out;
}

/** The gradients to the optional inputs. */
export function linearRest(context: Context, grad: Tensor, { bias, addend }: LinearArgs, first = 2) {
  const grads: (Tensor | undefined)[] = [];
  if (bias) grads.push(context.needs[first] ? grad.reshape(-1, grad.shape.at(-1)!).sum(0) : undefined);
  if (addend) grads.push(context.needs[first + Number(bias)] ? grad : undefined);
  return grads;
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

  /** x·weightᵀ + bias + addend, weight [out, in] as PyTorch keeps it. */
  linear: defineOp<LinearArgs>({
    name: "linear",
    blocks: [1],
    infer: (inputs, args) => inferLinear("linear", inputs, args),
    forward(context, inputs, args) {
      const [x, weight] = inputs;
      const out = context.output();
      linearInto(context, inputs, args, out);
      context.save(...(context.needs[1] ? [x] : []), ...(context.needs[0] ? [weight] : []));
      return out;
    },
    backward(context, grad, args) {
      const [needX, needWeight] = context.needs;
      const grads: (Tensor | undefined)[] = [undefined, undefined, ...linearRest(context, grad, args)];
      if (needX) grads[0] = linearToInput(context, grad, context.saved[needWeight ? 1 : 0]);
      if (needWeight) {
        const { out, accumulate } = context.gradientTo(1);
        context.device.matmul(transposed(rows(grad)), rows(context.saved[0]), out, { accumulate });
        grads[1] = out;
      }
      return grads;
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

/**
 * PyTorch's `functional.linear`, and with `addend` a residual added to it at no cost. Shapes: x [..., in], weight
 * [out, in], bias [out], addend and result [..., out].
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor, addend?: Tensor): Tensor {
  const args = bias ? (addend ? BOTH : BIAS) : addend ? ADDEND : NEITHER;
  return apply(matmulOps.linear, present([x, weight], bias, addend), args);
}

const [NEITHER, BIAS, ADDEND, BOTH]: LinearArgs[] = [
  { bias: false, addend: false },
  { bias: true, addend: false },
  { bias: false, addend: true },
  { bias: true, addend: true },
];

/** The tensors that always are there, and those of the optional ones that are given. */
export function present(always: Tensor[], ...optional: (Tensor | undefined)[]): Tensor[] {
  for (const t of optional) if (t) always.push(t);
  return always;
}
