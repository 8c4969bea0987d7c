import type { View } from "../devices/device.ts";
import { ShapeError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { inferLinear, type LinearArgs, linearInto, linearRest, linearToInput, present, rows } from "./matmul.ts";
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
   * x·weightᵀ + s·dropout(x)·Aᵀ·Bᵀ + bias + addend in the memory of one result: the skinny products add to what the
   * large one wrote, and so do the gradients to x on the way back.
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
      const { scaling, dropout } = args;
      const { device } = context;
      const out = context.output();
      linearInto(context, inputs, args, out, FIRST);
      let input = x;
      if (dropout) {
        input = context.empty(rows(x).shape, x.dtype);
        device.dropout(rows(x), dropout.rows, dropout.p, dropout.key, input);
      }
      const low = context.empty([rows(x).shape[0], a.shape[0]], x.dtype);
      device.matmul(rows(input), transposed(a), low, { alpha: scaling });
      device.matmul(low, transposed(b), rows(out), { accumulate: true });
      context.save(weight, a, b, input, low, ...(context.needs[1] ? [x] : []), ...(dropout ? [dropout.rows] : []));
      return out;
    },
    backward(context, grad, args) {
      const { device, needs } = context;
      const { scaling, dropout } = args;
      const [weight, a, b, input, low, ...more] = context.saved;
      const from = rows(grad);
      const gradLow = context.empty(low.shape, low.dtype);
      device.matmul(from, b, gradLow, { alpha: scaling });
      // What is asked for first is written, what follows is added to it.
      const product = (wanted: number, left: View, right: View): Tensor | undefined => {
        if (!needs[wanted]) return undefined;
        const { out, accumulate } = context.gradientTo(wanted);
        device.matmul(left, right, rows(out), { accumulate });
        return out;
      };
      const toWeight = needs[1] ? product(1, transposed(from), rows(more[0])) : undefined;
      const toA = product(2, transposed(gradLow), rows(input));
      const toB = product(3, transposed(from), low);
      let toX: Tensor | undefined;
      if (needs[0]) {
        if (dropout) {
          const { p, key } = dropout;
          const { out, accumulate } = context.gradientTo(0);
          const own = rows(accumulate ? context.empty(out.shape, out.dtype) : out);
          device.matmul(gradLow, a, own);
          device.dropout(own, more[needs[1] ? 1 : 0], p, key, own);
          if (accumulate) device.elementwise(IDENTITY, [], [own], rows(out), true);
          device.matmul(from, weight, rows(out), { accumulate: true });
          toX = out;
        } else {
          toX = linearToInput(context, grad, weight);
          device.matmul(gradLow, a, rows(toX), { accumulate: true });
        }
      }
      return [toX, toWeight, toA, toB, ...linearRest(context, grad, args, FIRST)];
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
