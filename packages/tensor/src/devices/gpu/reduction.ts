// A reduction as kernels see it: which dimensions a result keeps, and which are joined into one value.
import { sizeOf } from "../../shape.ts";
import { coalesce } from "../cpu/iteration.ts";
import type { View } from "../device.ts";

/** Sizes, and each view's steps over them: at least one dimension. */
interface Dimensions {
  readonly sizes: number[];
  readonly steps: number[][];
}

/** Dimensions of a shape as few as possible, but at least one. */
export function dimensionsOf(shape: readonly number[], strides: readonly (readonly number[])[]): Dimensions {
  const plan = coalesce(shape, strides);
  return plan.sizes.length > 0 ? plan : { sizes: [1], steps: strides.map(() => [0]) };
}

/** How `Device.reduce` is cut: `out` has the inputs' shape, with step 0 along what is joined. */
export interface Reduction {
  /** The result without the joined dimensions' sizes. */
  readonly single: View;
  /** Steps of `out`, then of each input. */
  readonly kept: Dimensions;
  /** Steps of each input. */
  readonly joined: Dimensions;
  /** Results, and elements that make each. */
  readonly results: number;
  readonly elements: number;
}

export function reductionOf(inputs: readonly View[], out: View): Reduction {
  const part = (isJoined: boolean, views: readonly View[]): Dimensions => {
    const dims = [...out.shape.keys()].filter((d) => (out.strides[d] === 0) === isJoined);
    const pick = (list: readonly number[]): number[] => dims.map((d) => list[d]);
    return dimensionsOf(
      pick(out.shape),
      views.map(({ strides }) => pick(strides)),
    );
  };
  const [kept, joined] = [part(false, [out, ...inputs]), part(true, inputs)];
  const single = { ...out, shape: out.shape.map((n, d) => (out.strides[d] === 0 ? 1 : n)) };
  return { single, kept, joined, results: sizeOf(kept.sizes), elements: sizeOf(joined.sizes) };
}
