import { GradientError } from "../errors.ts";
import { sameShape, show } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { applyUntyped, type Context } from "./op.ts";

/** What a custom operation's passes know: see {@link Context}. The result's type is not known before it is there. */
export type CustomContext = Omit<Context, "result" | "output" | "collected" | "gradientTo" | "reuse">;

/** The two passes of a {@link customOp}. */
export interface CustomRule<Args> {
  /**
   * Computes the result, with any operations: none is recorded. `context.save(...)` keeps tensors for the backward pass.
   * Throw a ShapeError or DTypeError for inputs that do not fit.
   */
  forward(context: CustomContext, inputs: readonly Tensor[], args: Args): Tensor;
  /**
   * The gradient to each input, from the result's; `undefined` where none flows (and where `context.needs` says that none
   * is wanted). One tensor alone stands for the gradient to a single input.
   */
  backward(context: CustomContext, grad: Tensor, args: Args): Tensor | readonly (Tensor | undefined)[];
}

/** Runs a {@link customOp} on one input or several, with its arguments where it has any. */
export type CustomFunction<Args> = [Args] extends [undefined]
  ? (inputs: Tensor | readonly Tensor[]) => Tensor
  : (inputs: Tensor | readonly Tensor[], args: Args) => Tensor;

/**
 * An operation with a gradient of its own: PyTorch's `torch.autograd.Function`. Check it with `gradCheck`. Operations for
 * the library itself, which also state their shape rule, are made with `defineOp`.
 *
 * @example
 * const cube = customOp("cube", {
 *   forward(context, [x]) {
 *     context.save(x);
 *     return x.pow(3);
 *   },
 *   backward: ({ saved: [x] }, grad) => x.square().mul(3).mul(grad),
 * });
 * cube(x);
 */
export function customOp<Args = undefined>(name: string, rule: CustomRule<Args>): CustomFunction<Args> {
  const run = (inputs: Tensor | readonly Tensor[], args: Args): Tensor => {
    const list = inputs instanceof Tensor ? [inputs] : inputs;
    return applyUntyped(name, list, {
      forward: (context) => {
        const out = rule.forward(context, list, args);
        // An input as it came must not be recorded as a result.
        return list.includes(out) ? out.alias({ tracked: true }) : out;
      },
      backward: (context, grad) => checked(name, context, rule.backward(context, grad, args)),
    });
  };
  return run as CustomFunction<Args>;
}

function checked(
  name: string,
  { inputs }: Context,
  given: Tensor | readonly (Tensor | undefined)[],
): readonly (Tensor | undefined)[] {
  const grads = given instanceof Tensor ? [given] : given;
  if (grads.length !== inputs.length)
    throw new GradientError(name, `backward gives ${grads.length} gradients for ${inputs.length} inputs`);
  for (const [i, grad] of grads.entries()) {
    const { shape, dtype } = inputs[i];
    if (grad && (!sameShape(grad.shape, shape) || grad.dtype !== dtype)) {
      throw new GradientError(
        name,
        `backward gives a gradient of ${show(grad.shape)} ${grad.dtype} to input ${i}, which is ${show(shape)} ${dtype}`,
      );
    }
  }
  return grads;
}
