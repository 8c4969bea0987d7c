import { full, ones } from "../creation.ts";
import type { RandomKey } from "../devices/device.ts";
import { ShapeError } from "../errors.ts";
import { broadcastShapes, sameShape, show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { tril } from "./diagonal.ts";
import { add, mul, where } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { attention, dropout } from "./model.ts";
import { permute, reshape, transpose } from "./shape.ts";
import { softmax } from "./softmax.ts";

/** Settings of {@link scaledDotProductAttention}. */
export interface ScaledAttentionOptions {
  /**
   * i32 [..., queries, keys]: what a query may see where it is not 0; or f32, added to the scores (−Infinity hides).
   * Broadcasts over batch and heads.
   */
  readonly mask?: Tensor;
  /** A query sees the keys up to its own place. */
  readonly causal?: boolean;
  /** Factor on the scores; 1/√size unless given. */
  readonly scale?: number;
  /** Share of the attention weights that are dropped, and the key that tells which. */
  readonly dropout?: { readonly p: number; readonly key: RandomKey };
}

/**
 * softmax(q·kᵀ·scale + mask)·v: PyTorch's `functional.scaled_dot_product_attention`. Shapes: q [..., queries, size], k
 * [..., keys, size], v [..., keys, value size], result [..., queries, value size]. A query that sees nothing gives NaN.
 * Causal attention of [batch, heads, length, size] without a mask runs in one kernel that keeps no scores.
 * @throws ShapeError where they do not fit
 */
export function scaledDotProductAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, causal = false, scale = 1 / Math.sqrt(q.shape.at(-1) ?? 1), dropout: drop }: ScaledAttentionOptions = {},
): Tensor {
  const shapes = (): string => `q ${show(q.shape)}, k ${show(k.shape)}, v ${show(v.shape)}`;
  if (q.rank < 2 || k.rank < 2 || v.rank < 2 || q.shape.at(-1) !== k.shape.at(-1) || k.shape.at(-2) !== v.shape.at(-2))
    throw new ShapeError("scaledDotProductAttention", `needs [..., length, size] of one size: ${shapes()}`);
  broadcastShapes("scaledDotProductAttention", ...[q, k, v].map((t) => t.shape.slice(0, -2)));
  if (causal && mask) throw new ShapeError("scaledDotProductAttention", "takes a mask or causal, not both");
  const alike = sameShape(q.shape, k.shape) && sameShape(k.shape, v.shape);
  if (causal && !drop && q.rank === 4 && alike && q.size > 0) return fused(q, k, v, scale);

  let scores = mul(matmul(q, transpose(k, -2, -1)), scale);
  const seen = causal
    ? tril(ones([q.shape.at(-2)!, k.shape.at(-2)!], { dtype: "i32", device: q.device }))
    : mask?.dtype === "i32"
      ? mask
      : undefined;
  const { dtype, device } = q;
  if (seen) scores = where(seen, scores, full([], Number.NEGATIVE_INFINITY, { dtype, device }));
  else if (mask) scores = add(scores, mask);
  let weights = softmax(scores);
  if (drop && drop.p > 0) {
    const flat = reshape(weights, [sizeOf(weights.shape.slice(0, -1)), weights.shape.at(-1)!]);
    weights = reshape(dropout(flat, drop.p, drop.key), weights.shape);
  }
  return matmul(weights, v);
}

/** Sequences of equal length end to end, as the fused kernel takes them. */
function fused(q: Tensor, k: Tensor, v: Tensor, scale: number): Tensor {
  const [batch, heads, length, size] = q.shape;
  const rows = (t: Tensor): Tensor => reshape(permute(t, [0, 2, 1, 3]), [batch * length, heads, size]);
  const segments = Array.from({ length: batch }, (_, i) => ({
    ...{ query: i * length, queries: length, key: i * length, keys: length },
  }));
  const out = attention(rows(q), rows(k), rows(v), segments, { scale });
  return permute(reshape(out, [batch, length, heads, size]), [0, 2, 1, 3]);
}
