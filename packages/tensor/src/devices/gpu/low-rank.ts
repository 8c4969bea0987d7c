// The low-rank change of a linear layer, of matrix products.

import { input } from "../../expr/expr.ts";
import type { LowRankArgs, LowRankGradients, View } from "../device.ts";
import type { GpuContext } from "./context.ts";
import { map } from "./elementwise.ts";
import { dropout } from "./random.ts";
import { matmul, type Tiling } from "./wgsl/matmul.ts";
import { type Temporary, temporary } from "./wgsl/views.ts";

const turned = (view: View): View => ({
  ...view,
  shape: view.shape.toReversed(),
  strides: view.strides.toReversed(),
});

/** x as it enters the product: dropped where there is dropout. */
function dropped(gpu: GpuContext, { x, dropout: drop }: LowRankArgs): { view: View; memory?: Temporary } {
  if (!drop) return { view: x };
  const memory = temporary(gpu, x.shape);
  dropout(gpu, x, drop.rows, drop.p, drop.key, memory.view);
  return { view: memory.view, memory };
}

/** The definition is `Device.lowRank`'s. */
export function lowRank(gpu: GpuContext, tiling: Tiling, args: LowRankArgs, out: View): void {
  const { a, b, low, scaling } = args;
  const { view, memory } = dropped(gpu, args);
  // By one means for any number of rows, so that a row's result is the same in any company.
  matmul(gpu, tiling, view, turned(a), low, { alpha: scaling, rows: "many" });
  matmul(gpu, tiling, low, turned(b), out, { accumulate: true, rows: "many" });
  memory?.free();
}

/** The definition is `Device.lowRankBackward`'s. */
export function lowRankBackward(gpu: GpuContext, tiling: Tiling, args: LowRankArgs, gradients: LowRankGradients): void {
  const { a, b, low, scaling, dropout: drop } = args;
  const { grad, gradX, gradA, gradB, accumulateA, accumulateB } = gradients;
  const [rows] = grad.shape;
  if (gradX || gradA) {
    const hidden = temporary(gpu, [rows, a.shape[0]]);
    matmul(gpu, tiling, grad, b, hidden.view, { alpha: scaling, rows: "many" });
    if (gradA) {
      const { view, memory } = dropped(gpu, args);
      matmul(gpu, tiling, turned(hidden.view), view, gradA, { accumulate: accumulateA, rows: "many" });
      memory?.free();
    }
    if (gradX && drop) {
      const change = temporary(gpu, gradX.shape);
      matmul(gpu, tiling, hidden.view, a, change.view, { rows: "many" });
      dropout(gpu, change.view, drop.rows, drop.p, drop.key, change.view);
      map(gpu, "lowRankBackward", [], [change.view], [{ root: input(0), view: gradX, accumulate: true }]);
      change.free();
    } else if (gradX) matmul(gpu, tiling, hidden.view, a, gradX, { accumulate: true, rows: "many" });
    hidden.free();
  }
  if (gradB) matmul(gpu, tiling, turned(grad), low, gradB, { accumulate: accumulateB, rows: "many" });
}
