import { DTypeError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { axisOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { mul } from "./elementwise.ts";
import { apply, defineOp } from "./op.ts";
import { cat, contiguousCopy, slice } from "./shape.ts";

/** Along which dimension, and from which end, a running sum goes. */
export interface ScanArgs {
  readonly dim: number;
  readonly reverse: boolean;
}

export const scanOps = {
  /** Each element the sum of those up to it: log n passes, in each of which the sums reach twice as far (Hillis & Steele, 1986). */
  cumsum: defineOp<ScanArgs>({
    name: "cumsum",
    infer([x]) {
      if (x.dtype === "bf16") throw new DTypeError("cumsum", "bf16 is not summed; use to('f32')");
      return { shape: x.shape, dtype: x.dtype };
    },
    forward(context, [x], { dim, reverse }) {
      const n = x.rank === 0 ? 1 : x.shape[dim];
      let sums = contiguousCopy(x);
      for (let reach = 1; reach < n && x.size > 0; reach *= 2) {
        const next = contiguousCopy(sums);
        const [early, late] = [0, reach].map((start) => ({ dim, start, end: start + n - reach }));
        const [from, to] = reverse ? [late, early] : [early, late];
        const source = slice(sums, dim, from.start, from.end);
        context.device.elementwise(IDENTITY, [], [source], slice(next, dim, to.start, to.end), true);
        sums.dispose();
        sums = next;
      }
      return sums;
    },
    backward: (_context, grad, { dim, reverse }) => [runningSum(grad, { dim, reverse: !reverse })],
  }),
} as const;

function runningSum(x: Tensor, args: ScanArgs): Tensor {
  return apply(scanOps.cumsum, [x], args);
}

/** Running sums along `dim`: PyTorch's `cumsum`. Result of x's shape. */
export function cumsum(x: Tensor, dim: number): Tensor {
  return runningSum(x, { dim: axisOf("cumsum", dim, x.rank), reverse: false });
}
/** Running products along `dim`: PyTorch's `cumprod`. Its gradient holds at zeros too. */
export function cumprod(x: Tensor, dim: number): Tensor {
  const at = axisOf("cumprod", dim, x.rank);
  const n = x.rank === 0 ? 1 : x.shape[at];
  let out = x;
  for (let reach = 1; reach < n; reach *= 2)
    out = cat([slice(out, at, 0, reach), mul(slice(out, at, reach), slice(out, at, 0, n - reach))], at);
  return out;
}
