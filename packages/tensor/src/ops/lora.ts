import { ShapeError } from "../errors.ts";
import { show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { inferLinear, type LinearArgs, linearInto, linearRest, present, rows } from "./matmul.ts";
import { type DropoutArgs, placesOf } from "./model.ts";
import { apply, defineOp } from "./op.ts";
import { transposed } from "./views.ts";

export interface LoraLinearArgs extends LinearArgs {
  /** Factor on B·A. */
  readonly scaling: number;
  /** Of the adapter's input; none unless given. */
  readonly dropout: DropoutArgs | undefined;
}

/** Inputs that are always there: x, weight, A, B. */
const FIRST = 4;

export const loraOps = {
  /**
   * x·weightᵀ + s·dropout(x)·Aᵀ·Bᵀ + bias + addend in the memory of one result: the low-rank change adds to what the
   * large product wrote, and so do the gradients to x on the way back.
   */
  loraLinear: defineOp<LoraLinearArgs>({
    name: "loraLinear",
    blocks: [1],
    infer(inputs, args) {
      const [x, weight, a, b] = inputs;
      const fits = a.rank === 2 && b.rank === 2 && a.shape[0] === b.shape[1];
      if (!fits || a.shape[1] !== weight.shape[1] || b.shape[0] !== weight.shape[0]) {
        throw new ShapeError(
          "loraLinear",
          `A ${show(a.shape)} (r, in) and B ${show(b.shape)} (out, r) do not fit a weight of ${show(weight.shape)} (out, in)`,
        );
      }
      if (args.dropout && args.dropout.rows.shape[0] !== rows(x).shape[0]) {
        throw new ShapeError("loraLinear", `dropout names ${args.dropout.rows.shape[0]} rows of ${rows(x).shape[0]}`);
      }
      return inferLinear("loraLinear", inputs, args, FIRST);
    },
    forward(context, inputs, args) {
      const [x, weight, a, b] = inputs;
      const { dropout } = args;
      const out = context.output();
      linearInto(context, inputs, args, out, FIRST);
      const low = context.empty([rows(x).shape[0], a.shape[0]], x.dtype);
      context.device.lowRank({ ...args, x: rows(x), a, b, low }, rows(out));
      context.save(weight, a, b, x, low, ...(dropout ? [dropout.rows] : []));
      return out;
    },
    backward(context, grad, args) {
      const { device, needs } = context;
      const [weight, a, b, x, low, places] = context.saved;
      const [toX, toWeight, toA, toB] = needs
        .slice(0, FIRST)
        .map((needed, i) => (needed ? context.gradientTo(i) : undefined));
      const from = rows(grad);
      if (toX) device.matmul(from, weight, rows(toX.out), { accumulate: toX.accumulate });
      if (toWeight) {
        device.matmul(transposed(from), rows(x), toWeight.out, { accumulate: toWeight.accumulate });
      }
      const dropout = args.dropout && { ...args.dropout, rows: places };
      device.lowRankBackward(
        { x: rows(x), a, b, low, scaling: args.scaling, dropout },
        {
          grad: from,
          gradX: toX && rows(toX.out),
          ...{ gradA: toA?.out, accumulateA: toA?.accumulate },
          ...{ gradB: toB?.out, accumulateB: toB?.accumulate },
        },
      );
      return [toX?.out, toWeight?.out, toA?.out, toB?.out, ...linearRest(context, grad, args, FIRST)];
    },
  }),
} as const;

/** The parts of a {@link loraLinear}; shapes: weight [out, in], A [r, in], B [out, r], bias [out], addend [..., out]. */
export interface LoraParts {
  /** Frozen or not; bf16 and quantised blocks where frozen. */
  readonly weight: Tensor;
  readonly bias?: Tensor;
  readonly loraA: Tensor;
  readonly loraB: Tensor;
  readonly scaling: number;
  /** Of the adapter's input, by the rules of {@link dropout}. */
  readonly dropout?: Omit<DropoutArgs, "rows"> & { readonly rows?: Tensor };
  /** Added to the result: a residual. */
  readonly addend?: Tensor;
}

/**
 * A linear layer with a low-rank change beside it (Hu et al., 2021): x·weightᵀ + bias + s·dropout(x)·Aᵀ·Bᵀ + addend.
 * Shapes: x [..., in], result [..., out]. The same as its parts by {@link linear} and {@link dropout}, without their
 * temporaries.
 */
export function loraLinear(x: Tensor, parts: LoraParts): Tensor {
  const { weight, bias, loraA, loraB, scaling, dropout, addend } = parts;
  const places = dropout && (dropout.rows ?? placesOf(rows(x).shape[0], x.device));
  const args = {
    ...{ scaling, bias: bias !== undefined, addend: addend !== undefined },
    dropout: dropout && places && { ...dropout, rows: places },
  };
  return apply(loraOps.loraLinear, present([x, weight, loraA, loraB], bias, addend), args);
}
