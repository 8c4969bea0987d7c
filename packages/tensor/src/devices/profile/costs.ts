import { BYTES } from "../../dtype.ts";
import { formula, operations } from "../../expr/formula.ts";
import type { Device, Segment, View } from "../device.ts";

/** What a call has to do at the least, whatever the device. */
export interface Cost {
  /** Arithmetic operations; a multiply-add is two. */
  readonly flops: number;
  /** Memory read and written, each element once. */
  readonly bytes: number;
  /** Sizes or formula: what tells apart the calls of one primitive. */
  readonly detail: string;
}

/** The methods of a device that compute or move data and return nothing. */
export type Primitive = Exclude<
  {
    [K in keyof Device]-?: Required<Device>[K] extends (...args: never[]) => infer Result
      ? unknown extends Result
        ? never
        : undefined extends Result
          ? K
          : never
      : never;
  }[keyof Device],
  "free"
>;

type Costs = { readonly [K in Primitive]: (...args: Parameters<Required<Device>[K]>) => Cost };

const product = (numbers: readonly number[]): number => numbers.reduce((a, b) => a * b, 1);
const size = ({ shape }: View): number => product(shape);
/** Bytes of a view's elements, repeated ones once. */
const bytes = (...views: (View | undefined)[]): number =>
  views.reduce(
    (sum, view) =>
      sum +
      (view ? BYTES[view.dtype] * product(view.shape.map((n, d) => (view.strides[d] === 0 && n > 0 ? 1 : n))) : 0),
    0,
  );
const dims = (...sizes: readonly number[]): string => sizes.join("×");
const shapeOf = ({ shape, dtype }: View): string => `${dims(...shape)}${dtype === "f32" ? "" : ` ${dtype}`}`;
/** Pairs of a query and a key that it sees. */
const pairs = (segments: readonly Segment[]): number =>
  segments.reduce((sum, { queries, keys }) => sum + queries * (keys - (queries - 1) / 2), 0);

/** What each primitive costs, and how its calls are told apart. */
export const COSTS: Costs = {
  write: (_storage, _offset, { byteLength }) => ({ flops: 0, bytes: byteLength, detail: "" }),
  elementwise: (program, _params, inputs, out, accumulate = false) => ({
    flops: size(out) * (operations(program) + (accumulate ? 1 : 0)),
    bytes: bytes(...inputs, out) + (accumulate ? bytes(out) : 0),
    detail: `${accumulate ? "+= " : ""}${formula(program)} [${shapeOf(out)}]`,
  }),
  reduce: (kind, program, _params, inputs, out) => ({
    flops: size(out) * (operations(program) + 1),
    bytes: bytes(...inputs, out),
    detail: `${kind} of ${formula(program)} [${shapeOf(out)}]`,
  }),
  argmax: (x, out) => ({ flops: size(x), bytes: bytes(x, out), detail: `[${shapeOf(x)}]` }),
  random: (kind, _key, out) => ({ flops: 0, bytes: bytes(out), detail: `${kind} [${shapeOf(out)}]` }),
  dropout: (x, _rows, _p, _key, out) => ({ flops: size(x), bytes: bytes(x, out), detail: `[${shapeOf(x)}]` }),
  matmul(a, b, out, { accumulate = false, bias, addend } = {}) {
    const [m, n, k] = [out.shape.at(-2)!, out.shape.at(-1)!, a.shape.at(-1)!];
    const batch = out.shape.slice(0, -2);
    const sizes = `${batch.length > 0 ? `${dims(...batch)} of ` : ""}${dims(m, k)} · ${dims(k, n)}`;
    return {
      flops: 2 * size(out) * k,
      bytes: bytes(a, b, out, bias, addend) + (accumulate ? bytes(out) : 0),
      detail: `${accumulate ? "+= " : ""}${sizes}${b.strides.at(-1) === 1 ? "" : "ᵀ"} ${b.dtype}`,
    };
  },
  lowRank: ({ x, a, b, low }, out) => ({
    flops: 2 * size(low) * (x.shape[1]! + out.shape[1]!),
    bytes: bytes(x, a, b, low, out, out),
    detail: `${dims(...x.shape)} · ${dims(...[...a.shape].reverse())} · ${dims(...[...b.shape].reverse())}`,
  }),
  lowRankBackward: ({ x, a, b, low }, { grad, gradX, gradA, gradB }) => ({
    flops: 2 * size(low) * ((gradX ? 2 : 1) * x.shape[1]! + 2 * grad.shape[1]!),
    bytes: bytes(x, a, b, low, grad, gradX, gradX, gradA, gradB),
    detail: `${dims(...x.shape)} · ${dims(...[...a.shape].reverse())} · ${dims(...[...b.shape].reverse())}`,
  }),
  softmax: (x, out) => ({ flops: 5 * size(out), bytes: bytes(x, out), detail: `[${shapeOf(out)}]` }),
  swiglu: (gate, up, out) => ({ flops: 5 * size(out), bytes: bytes(gate, up, out), detail: `[${shapeOf(out)}]` }),
  swigluBackward: (grad, gate, up, gradGate, gradUp) => ({
    flops: 9 * size(grad),
    bytes: bytes(grad, gate, up, gradGate, gradUp),
    detail: `[${shapeOf(grad)}]`,
  }),
  quantize: (x, out) => ({ flops: 0, bytes: bytes(x, out), detail: `[${shapeOf(out)}]` }),
  gatherRows: (_table, index, out) => ({ flops: 0, bytes: bytes(index) + 2 * bytes(out), detail: `[${shapeOf(out)}]` }),
  scatterRows: (src, index, _out, mode) => ({
    flops: mode === "add" ? size(src) : 0,
    bytes: bytes(index) + (mode === "add" ? 3 : 2) * bytes(src),
    detail: `${mode} [${shapeOf(src)}]`,
  }),
  rmsNorm: (x, weight, _eps, out, rstd) => ({
    flops: 4 * size(x),
    bytes: bytes(x, weight, out, rstd),
    detail: `[${shapeOf(x)}]`,
  }),
  rmsNormBackward: (grad, x, weight, rstd, gradX, gradWeight, accumulate) => ({
    flops: 8 * size(x),
    bytes: bytes(grad, x, weight, rstd, gradX, gradWeight) + (accumulate ? bytes(gradX) : 0),
    detail: `${accumulate ? "+= " : ""}[${shapeOf(x)}]${gradWeight ? " and weight" : ""}`,
  }),
  rope: (x, positions, _frequencies, _inverse, out) => ({
    flops: 3 * size(x),
    bytes: bytes(x, positions, out),
    detail: `[${shapeOf(x)}]`,
  }),
  attention: (q, k, v, { segments }, out, lse) => ({
    flops: 4 * pairs(segments) * q.shape[1]! * q.shape[2]!,
    bytes: bytes(q, out, lse) + keyBytes(k, v, segments),
    detail: `[${shapeOf(q)}], ${segments.length} sequences`,
  }),
  attentionBackward: (grad, q, k, v, out, lse, { segments }, gradQ, gradK, gradV) => ({
    flops: 10 * pairs(segments) * q.shape[1]! * q.shape[2]!,
    bytes: bytes(grad, q, out, lse, gradQ, gradK, gradV) + keyBytes(k, v, segments),
    detail: `[${shapeOf(q)}], ${segments.length} sequences`,
  }),
  linearCrossEntropy({ hidden, weight, targets, scale, loss, gradHidden, gradWeight, correct }) {
    const products = 1 + (gradHidden ? 1 : 0) + (gradWeight ? 2 : 0);
    return {
      flops: 2 * products * size(hidden) * weight.shape[0]!,
      bytes: bytes(hidden, weight, targets, scale, loss, gradHidden, gradWeight, correct),
      detail: `${dims(...hidden.shape)} · ${dims(...[...weight.shape].reverse())}ᵀ ${weight.dtype}${gradHidden ? " and gradient" : ""}`,
    };
  },
  adamW: ({ param, grad, m, v }) => ({
    flops: 14 * size(param),
    bytes: 2 * bytes(param, m, v) + bytes(grad),
    detail: `[${shapeOf(param)}]`,
  }),
};

/** Keys and values that the segments read; the rest of a cache is not touched. */
function keyBytes(k: View, v: View, segments: readonly Segment[]): number {
  const rows = segments.reduce((sum, { keys }) => sum + keys, 0);
  return (rows / Math.max(1, k.shape[0]!)) * bytes(k, v);
}
