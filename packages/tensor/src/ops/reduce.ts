import type { ReduceKind } from "../devices/device.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { axisOf, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { div, eq, mul, neg } from "./elementwise.ts";
import { apply, type Context, defineOp, type Op, type ResultType } from "./op.ts";
import { reshape, squeeze, transpose, unsqueeze } from "./shape.ts";
import { broadcastView } from "./views.ts";

/** The dimensions that a reduction joins, and whether they stay with size 1. */
export interface ReduceArgs {
  readonly dims: readonly number[];
  readonly keepdim: boolean;
}

function infer(name: string, [x]: readonly Tensor[], { dims, keepdim }: ReduceArgs): ResultType {
  if (x.dtype === "i32" && name !== "sum") throw new DTypeError(name, "i32 tensors are not reduced; use to('f32')");
  const shape = keepdim
    ? x.shape.map((n, d) => (dims.includes(d) ? 1 : n))
    : x.shape.filter((_, d) => !dims.includes(d));
  return { shape, dtype: x.dtype === "bf16" ? "f32" : x.dtype };
}

/** The result with its joined dimensions at size 1, as it broadcasts against the input. */
function kept(t: Tensor, shape: readonly number[], { dims }: ReduceArgs): Tensor {
  return t.reshape(...shape.map((n, d) => (dims.includes(d) ? 1 : n)));
}

function reduceForward(kind: ReduceKind) {
  return (context: Context, [x]: readonly Tensor[], args: ReduceArgs): Tensor => {
    const out = context.output();
    context.device.reduce(kind, IDENTITY, [], [x], broadcastView(kept(out, x.shape, args), x.shape));
    return out;
  };
}

/** The gradient goes to the largest (smallest) elements, shared evenly among equals, as in PyTorch's `amax`. */
function extremum(name: string, kind: "max" | "min"): Op<ReduceArgs> {
  const forward = reduceForward(kind);
  return defineOp<ReduceArgs>({
    name,
    infer(inputs, args) {
      const [x] = inputs;
      const empty = args.dims.find((d) => x.shape[d] === 0);
      if (empty !== undefined) throw new ShapeError(name, `dimension ${empty} of ${show(x.shape)} is empty`);
      return infer(name, inputs, args);
    },
    forward(context, inputs, args) {
      const out = forward(context, inputs, args);
      context.save(inputs[0], out);
      return out;
    },
    backward(context, grad, args) {
      const [x, out] = context.saved;
      const hit = eq(x, kept(out, x.shape, args));
      const ties = sum(hit, args.dims, true);
      return [mul(hit, div(kept(grad, x.shape, args), ties))];
    },
  });
}

export const reduceOps = {
  sum: defineOp<ReduceArgs>({
    name: "sum",
    infer: (inputs, args) => infer("sum", inputs, args),
    forward: reduceForward("sum"),
    backward(context, grad, args) {
      const [{ shape }] = context.inputs;
      return [kept(grad, shape, args).expand(...shape)];
    },
  }),
  amax: extremum("amax", "max"),
  amin: extremum("amin", "min"),
  argmax: defineOp<undefined>({
    name: "argmax",
    infer([x]) {
      if (x.rank === 0 || x.shape.at(-1) === 0)
        throw new ShapeError("argmax", `the last dimension of ${show(x.shape)} is empty`);
      return { shape: x.shape.slice(0, -1), dtype: "i32" };
    },
    forward(context, [x]) {
      const out = context.output();
      context.device.argmax(x, out);
      return out;
    },
    backward: "none",
  }),
} as const;

/** A reduction's dimensions, counted from the front and each once. */
export function reduceArgs(
  op: string,
  x: Tensor,
  dims: number | readonly number[] | undefined,
  keepdim: boolean,
): ReduceArgs {
  const list = dims === undefined ? x.shape.map((_, d) => d) : typeof dims === "number" ? [dims] : dims;
  return { dims: [...new Set(list.map((d) => axisOf(op, d, x.rank)))].filter((d) => d < x.rank), keepdim };
}

/** Sum over `dims`, all unless given; their sizes become 1 with `keepdim`, else they are dropped. */
export function sum(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  return apply(reduceOps.sum, [x], reduceArgs("sum", x, dims, keepdim));
}
/** Mean over `dims`; whole numbers give f32. NaN over nothing. */
export function mean(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  const args = reduceArgs("mean", x, dims, keepdim);
  const count = args.dims.reduce((n, d) => n * x.shape[d], 1);
  return div(apply(reduceOps.sum, [x.dtype === "i32" ? x.to("f32") : x], args), count);
}
/** Largest over `dims`, NaN where one is NaN. @throws ShapeError over an empty dimension */
export function amax(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  return apply(reduceOps.amax, [x], reduceArgs("amax", x, dims, keepdim));
}
/** Smallest over `dims`, NaN where one is NaN. @throws ShapeError over an empty dimension */
export function amin(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  return apply(reduceOps.amin, [x], reduceArgs("amin", x, dims, keepdim));
}
/**
 * Index of the largest along `dim` (the last unless given), i32; the first of equals, a NaN before all: PyTorch's `argmax`,
 * except that without `dim` PyTorch takes the flat tensor.
 * @throws ShapeError over an empty dimension
 */
export function argmax(x: Tensor, dim = -1, keepdim = false): Tensor {
  const at = axisOf("argmax", dim, x.rank);
  const last = at === x.rank - 1 || x.rank === 0;
  const found = apply(reduceOps.argmax, [last ? x : transpose(x, at, -1)], undefined);
  const kept = x.shape.map((n, d) => (d === at ? 1 : n));
  if (last) return keepdim ? reshape(found, kept) : found;
  const back = transpose(unsqueeze(found, -1), at, -1);
  return keepdim ? back : squeeze(back, at);
}
/** Index of the smallest along `dim`; see {@link argmax}. PyTorch's `argmin`. */
export function argmin(x: Tensor, dim = -1, keepdim = false): Tensor {
  return argmax(neg(x), dim, keepdim);
}
