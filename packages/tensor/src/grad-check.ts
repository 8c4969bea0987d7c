import { reference } from "./devices/registry.ts";
import { isFloating } from "./dtype.ts";
import { GradientError } from "./errors.ts";
import { scope } from "./memory.ts";
import { show } from "./shape.ts";
import { Tensor } from "./tensor.ts";

/** Settings of {@link gradCheck}, with PyTorch's defaults. */
export interface GradCheckOptions {
  /** Half the distance of the two points of a difference, 1e-6. */
  readonly eps?: number;
  /** A gradient may be off by absolute + relative·|difference|, 1e-5 and 1e-3. */
  readonly absolute?: number;
  readonly relative?: number;
}

/**
 * Compares the gradients of a function, by `backward`, with central differences in f64 on the reference device: PyTorch's
 * `gradcheck`. The function is called with f64 copies of the inputs, twice for each element; tensors that it takes from
 * outside must be f64 on that device too. Checked are the inputs that require a gradient, all of floating type if none
 * does. What is differentiated is Σ weight·result, with a weight of its own for each element.
 *
 * @example await gradCheck((x) => softplus(x), [tensor([-1, 0, 2])]);
 * @throws GradientError naming the first element whose gradient is another
 */
export async function gradCheck(
  fn: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  { eps = 1e-6, absolute = 1e-5, relative = 1e-3 }: GradCheckOptions = {},
): Promise<void> {
  const required = inputs.map((t) => t.requiresGrad);
  const checked = required.includes(true) ? required : inputs.map((t) => isFloating(t.dtype));
  if (!checked.includes(true)) throw new GradientError("gradCheck", "no input is of floating type");
  const values = await Promise.all(inputs.map(async (t) => Float64Array.from(await t.data())));
  const copies = (): Tensor[] =>
    inputs.map(({ dtype, shape }, i) => {
      return Tensor.from(values[i], shape, { dtype: isFloating(dtype) ? "f64" : "i32", device: reference });
    });

  const leaves = copies().map((t) => t.keep());
  for (const [i, t] of leaves.entries()) t.requiresGrad = checked[i];
  const weightsOf = (out: Tensor): Tensor =>
    Tensor.from(Float64Array.from({ length: out.size }, weight), out.shape, { dtype: "f64", device: reference });
  scope(() => {
    const out = fn(...leaves);
    if (out.dtype !== "f64" || out.device !== reference)
      throw new GradientError("gradCheck", `the function gives ${out}, not f64 on the reference device`);
    if (!out.requiresGrad) throw new GradientError("gradCheck", "no input's gradient flows through the function");
    out.backward(weightsOf(out));
  });
  const total = async (): Promise<number> => {
    const sum = scope(() => {
      const out = fn(...copies());
      return out.detach().mul(weightsOf(out)).sum();
    });
    const result = await sum.item();
    sum.dispose();
    return result;
  };
  try {
    for (const [i, leaf] of leaves.entries()) {
      if (!checked[i]) continue;
      const given = leaf.grad ? await leaf.grad.data() : new Float64Array(leaf.size);
      for (let at = 0; at < leaf.size; at++) {
        const middle = values[i][at];
        values[i][at] = middle + eps;
        const above = await total();
        values[i][at] = middle - eps;
        const below = await total();
        values[i][at] = middle;
        const difference = (above - below) / (2 * eps);
        if (!(Math.abs(given[at] - difference) <= absolute + relative * Math.abs(difference))) {
          throw new GradientError(
            "gradCheck",
            `input ${i} of shape ${show(leaf.shape)}, element ${at}: backward gives ${given[at]}, differences ${difference}`,
          );
        }
      }
    }
  } finally {
    for (const t of leaves) t.dispose();
  }
}

/** Between 0.5 and 1.5, different for neighbours (the golden ratio's multiples, fractional part). */
const weight = (_: unknown, i: number): number => 0.5 + ((i * 0.6180339887498949) % 1);
