import { full } from "../creation.ts";
import type { AttentionOptions, Device, RandomKey, Segment } from "../devices/device.ts";
import { isBlocks } from "../dtype.ts";
import { DTypeError, GradientError, ShapeError, TensorError } from "../errors.ts";
import { sameShape, show, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { mul } from "./elementwise.ts";
import { embedding } from "./embedding.ts";
import { matmul } from "./matmul.ts";
import { apply, defineOp } from "./op.ts";
import { rowsKind } from "./rows.ts";

export interface RopeArgs {
  readonly positions: Tensor;
  readonly frequencies: Tensor;
  readonly inverse: boolean;
}

export interface DropoutArgs {
  readonly p: number;
  readonly key: RandomKey;
  readonly rows: Tensor;
}

export interface AttentionArgs {
  readonly segments: readonly Segment[];
  readonly scale: number;
  readonly keyRows?: Tensor;
  readonly keyBias?: { readonly bias: Tensor; readonly rotations: Tensor };
}

export interface LossArgs {
  readonly targets: Tensor;
  readonly scale: Tensor;
  readonly correct?: Tensor;
}

function checkFloat(op: string, t: Tensor): void {
  if (t.dtype !== "f32" && t.dtype !== "f64") throw new DTypeError(op, `needs f32 or f64, not ${t.dtype}`);
}

export const modelOps = {
  rmsNorm: defineOp<number>({
    name: "rmsNorm",
    infer([x, weight]) {
      checkFloat("rmsNorm", x);
      if (weight.rank !== 1 || weight.shape[0] !== x.shape.at(-1)) {
        throw new ShapeError(
          "rmsNorm",
          `weight ${show(weight.shape)} does not fit the last dimension of ${show(x.shape)}`,
        );
      }
      if (weight.dtype !== x.dtype)
        throw new DTypeError("rmsNorm", `the weight must be ${x.dtype} as the input, not ${weight.dtype}`);
      return { shape: x.shape, dtype: x.dtype };
    },
    forward(context, [x, weight], eps) {
      const out = context.output();
      const rstd = context.empty(x.shape.slice(0, -1), x.dtype);
      context.device.rmsNorm(x, weight, eps, out, rstd);
      context.save(x, weight, rstd);
      return out;
    },
    backward(context, grad) {
      const [x, weight, rstd] = context.saved;
      const [needX, needWeight] = context.needs;
      const toX = needX ? context.gradientTo(0) : undefined;
      const gradWeight = needWeight ? context.empty(weight.shape, weight.dtype) : undefined;
      context.device.rmsNormBackward(grad, x, weight, rstd, toX?.out, gradWeight, toX?.accumulate);
      return [toX?.out, gradWeight];
    },
  }),

  rope: defineOp<RopeArgs>({
    name: "rope",
    infer([x], { positions, frequencies }) {
      checkFloat("rope", x);
      if (positions.dtype !== "i32") throw new DTypeError("rope", `positions must be i32, not ${positions.dtype}`);
      if (x.rank !== 3 || x.shape[2] % 2 !== 0)
        throw new ShapeError("rope", `needs [rows, heads, even size], not ${show(x.shape)}`);
      if (positions.shape[0] !== x.shape[0] || frequencies.shape[0] !== x.shape[2] / 2) {
        throw new ShapeError(
          "rope",
          `positions ${show(positions.shape)} or frequencies ${show(frequencies.shape)} do not fit ${show(x.shape)}`,
        );
      }
      return { shape: x.shape, dtype: x.dtype };
    },
    forward(context, [x], { positions, frequencies, inverse }) {
      const out = context.output();
      context.device.rope(x, positions, frequencies, inverse, out);
      context.save(positions, frequencies);
      return out;
    },
    backward(context, grad, { inverse }) {
      const [positions, frequencies] = context.saved;
      return [rotate(grad, positions, frequencies, !inverse)];
    },
  }),

  swiglu: defineOp<undefined>({
    name: "swiglu",
    infer([gate, up]) {
      checkFloat("swiglu", gate);
      if (!sameShape(gate.shape, up.shape)) {
        throw new ShapeError("swiglu", `gate ${show(gate.shape)} and up ${show(up.shape)} must have one shape`);
      }
      if (up.dtype !== gate.dtype)
        throw new DTypeError("swiglu", `gate and up must be of one type, not ${gate.dtype} and ${up.dtype}`);
      return { shape: gate.shape, dtype: gate.dtype };
    },
    forward(context, [gate, up]) {
      const out = context.output();
      context.device.swiglu(gate, up, out);
      context.save(gate, up);
      return out;
    },
    backward(context, grad) {
      const [gate, up] = context.saved;
      const [gradGate, gradUp] = [context.reuse(gate), context.reuse(up)];
      context.device.swigluBackward(grad, gate, up, gradGate, gradUp);
      return [gradGate, gradUp].map((g, i) => (context.needs[i] ? g : undefined));
    },
  }),

  attention: defineOp<AttentionArgs>({
    name: "attention",
    blocks: [1, 2],
    infer([q, k, v], { segments, keyRows, keyBias }) {
      checkFloat("attention", q);
      const asBlocks = k.dtype === "q8_0" && v.dtype === "q8_0" && q.device.readsBlockKeys;
      if (!asBlocks && (k.dtype !== q.dtype || v.dtype !== q.dtype))
        throw new DTypeError("attention", `q, k and v must be of one type, not ${q.dtype}, ${k.dtype} and ${v.dtype}`);
      const fits =
        q.rank === 3 &&
        k.rank === 3 &&
        sameShape(k.shape, v.shape) &&
        q.shape[2] === k.shape[2] &&
        q.shape[1] % k.shape[1] === 0;
      if (!fits) {
        throw new ShapeError(
          "attention",
          `needs q [queries, heads, size], k and v [keys, kvHeads, size]: ${[q, k, v].map((t) => show(t.shape)).join(", ")}`,
        );
      }
      if (keyRows && (keyRows.rank !== 1 || keyRows.dtype !== "i32")) {
        throw new ShapeError("attention", `keyRows must be i32 [keys], not ${keyRows.dtype} ${show(keyRows.shape)}`);
      }
      if (keyBias) checkKeyBias(k, keyBias, segments);
      checkSegments(segments, q.shape[0], (keyRows ?? k).shape[0]);
      return { shape: q.shape, dtype: q.dtype };
    },
    forward(context, [q, k, v], { segments, scale, keyRows, keyBias }) {
      const out = context.output();
      const options: AttentionOptions = { segments, scale, keyRows, keyBias, rows: rowsKind() };
      if (keyRows && context.recorded) {
        throw new GradientError("attention", "no gradient flows to keys by keyRows; use them inside noGrad()");
      }
      if (isBlocks(k.dtype) && context.recorded) {
        throw new GradientError("attention", `no gradient flows to ${k.dtype} keys; use them inside noGrad()`);
      }
      if (keyRows && !context.device.readsKeyRows) {
        const [keys, values] = [k, v].map((t) => embedding(t, keyRows));
        context.device.attention(q, keys, values, { ...options, keyRows: undefined }, out, undefined);
        return out;
      }
      const lse = context.recorded ? context.empty([q.shape[1], q.shape[0]], q.dtype) : undefined;
      context.device.attention(q, k, v, options, out, lse);
      if (lse) context.save(q, k, v, out, lse);
      return out;
    },
    backward(context, grad, options: AttentionOptions) {
      const [q, k, v, out, lse] = context.saved;
      const grads = context.inputs.map(({ shape, dtype }) => context.empty(shape, dtype));
      context.device.attentionBackward(grad, q, k, v, out, lse, options, grads[0], grads[1], grads[2]);
      return grads.map((g, i) => (context.needs[i] ? g : undefined));
    },
  }),

  dropout: defineOp<DropoutArgs>({
    name: "dropout",
    infer([x], { rows }) {
      checkFloat("dropout", x);
      if (x.rank !== 2 || rows.dtype !== "i32" || !sameShape(rows.shape, [x.shape[0], 2])) {
        throw new ShapeError(
          "dropout",
          `rows ${show(rows.shape)} must be i32 [${x.shape[0]},2] for an input of ${show(x.shape)}`,
        );
      }
      return { shape: x.shape, dtype: x.dtype };
    },
    forward(context, [x], { p, key, rows }) {
      const out = context.output();
      context.device.dropout(x, rows, p, key, out);
      context.save(rows);
      return out;
    },
    backward: (context, grad, { p, key }) => [dropout(grad, p, key, context.saved[0])],
  }),

  /** The gradients are made in the forward pass, while the logits of a block are at hand, and scaled in the backward. */
  linearCrossEntropy: defineOp<LossArgs>({
    name: "linearCrossEntropy",
    blocks: [1],
    infer([hidden, weight], { targets, scale, correct }) {
      checkFloat("linearCrossEntropy", hidden);
      const [rows, size] = hidden.shape;
      if (hidden.rank !== 2 || weight.rank !== 2 || weight.shape[1] !== size) {
        throw new ShapeError(
          "linearCrossEntropy",
          `hidden ${show(hidden.shape)} does not fit a head of ${show(weight.shape)}`,
        );
      }
      if (targets.shape[0] !== rows || scale.shape[0] !== rows || targets.dtype !== "i32") {
        throw new ShapeError(
          "linearCrossEntropy",
          `targets ${show(targets.shape)} and scale ${show(scale.shape)} need one entry for each of ${rows} rows`,
        );
      }
      if (correct && (correct.rank !== 1 || correct.shape[0] !== rows || correct.dtype !== "f32")) {
        throw new ShapeError("linearCrossEntropy", `correct must be f32 [${rows}], not ${show(correct.shape)}`);
      }
      return { shape: [], dtype: hidden.dtype };
    },
    forward(context, [hidden, weight], { targets, scale, correct }) {
      const loss = context.empty([hidden.shape[0]], hidden.dtype);
      const [gradHidden, gradWeight] = context.inputs.map(({ shape, dtype }, i) =>
        context.needs[i] ? context.empty(shape, dtype) : undefined,
      );
      context.device.linearCrossEntropy({ hidden, weight, targets, scale, loss, gradHidden, gradWeight, correct });
      context.save(...[gradHidden, gradWeight].filter((g) => g !== undefined));
      return loss.mul(scale).sum();
    },
    backward(context, grad) {
      const saved = [...context.saved];
      return context.needs.map((needed) => (needed ? mul(saved.shift()!, grad) : undefined));
    },
  }),
} as const;

function checkKeyBias(
  k: Tensor,
  { bias, rotations }: NonNullable<AttentionArgs["keyBias"]>,
  segments: readonly Segment[],
): void {
  const [, heads, size] = k.shape;
  if (!isBlocks(k.dtype)) throw new DTypeError("attention", `a bias is added to keys in blocks, not to ${k.dtype}`);
  const needed = segments.reduce((most, { keys }) => Math.max(most, keys), 0);
  const fits = sameShape(bias.shape, [heads, size]) && rotations.rank === 2 && rotations.shape[1] === size;
  if (!fits || rotations.shape[0] < needed || bias.dtype !== "f32" || rotations.dtype !== "f32") {
    throw new ShapeError(
      "attention",
      `keys ${show(k.shape)} need a bias f32 [${heads},${size}] and rotations f32 [at least ${needed},${size}], not ${show(bias.shape)} and ${show(rotations.shape)}`,
    );
  }
}

function checkSegments(segments: readonly Segment[], queries: number, keys: number): void {
  for (const s of segments) {
    const whole = [s.query, s.queries, s.key, s.keys].every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!whole || s.query + s.queries > queries || s.key + s.keys > keys || s.keys < s.queries) {
      throw new ShapeError(
        "attention",
        `segment ${JSON.stringify(s)} lies outside of ${queries} queries and ${keys} keys, or has fewer keys than queries`,
      );
    }
  }
  const covered = segments.reduce((n, s) => n + s.queries, 0);
  if (covered !== queries) throw new ShapeError("attention", `segments cover ${covered} of ${queries} queries`);
}

/** x · rsqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich, 2019; PyTorch's `rms_norm`). */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  return apply(modelOps.rmsNorm, [x, weight], eps);
}

/**
 * Rotary position embedding in halves, as transformers' `apply_rotary_pos_emb`. Shapes: x [rows, heads, size],
 * positions i32 [rows], frequencies f32 [size/2] in radians per position.
 */
export function rope(x: Tensor, positions: Tensor, frequencies: Tensor): Tensor {
  return rotate(x, positions, frequencies, false);
}

function rotate(x: Tensor, positions: Tensor, frequencies: Tensor, inverse: boolean): Tensor {
  return apply(modelOps.rope, [x], { positions, frequencies, inverse });
}

/** silu(gate)·up, the activation of a Qwen2 block (Shazeer, 2020). Shapes: gate, up and result alike. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return apply(modelOps.swiglu, [gate, up], undefined);
}

/**
 * Causal attention inside each segment, queries grouped over fewer key/value heads. Shapes: q [queries, heads, size],
 * k and v [keys, kvHeads, size]; scale is 1/√size unless given. Segments must cover every query once.
 *
 * @param k f32 as q, or `q8_0` as v, for devices that take it and without a gradient
 * @param options `keyRows` i32 [n]: segments count their keys here, key j being row keyRows[j] of k and v; trusted as indices are.
 *   `keyBias`: what is added to keys in blocks, `bias` f32 [kvHeads, size] rotated to each key's place in its segment;
 *   `rotations` f32 [positions, size] hold a position's cosines, then its sines
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  segments: readonly Segment[],
  { scale = 1 / Math.sqrt(q.shape[2]), keyRows, keyBias }: Partial<Omit<AttentionArgs, "segments">> = {},
): Tensor {
  return apply(modelOps.attention, [q, k, v], { segments, scale, keyRows, keyBias });
}

/**
 * Inverted dropout with a mask that `key` and each row's (sequence, token) determine, so the same rows lose the same
 * features however they are batched. Shapes: x [rows, features]; rows i32 [rows, 2], by default (0, row number), and then x
 * may have any dimensions, all but the last being rows.
 */
export function dropout(x: Tensor, p: number, key: RandomKey, rows?: Tensor): Tensor {
  if (!(p >= 0 && p < 1)) throw new TensorError("dropout", `the rate must be at least 0 and below 1, not ${p}`);
  if (p === 0) return x;
  if (!rows && x.rank !== 2) {
    const flat = x.reshape(x.rank === 0 ? 1 : sizeOf(x.shape.slice(0, -1)), x.shape.at(-1) ?? 1);
    return dropout(flat, p, key).reshape(...x.shape);
  }
  return apply(modelOps.dropout, [x], { p, key, rows: rows ?? placesOf(x.shape[0], x.device) });
}

/** (0, row number) of each row, i32 [count, 2]: the rows are one sequence. */
export function placesOf(count: number, device: Device): Tensor {
  const places = Int32Array.from({ length: 2 * count }, (_, i) => (i % 2) * (i >> 1));
  return Tensor.from(places, [count, 2], { dtype: "i32", device });
}

/** Settings of {@link linearCrossEntropy}. */
export interface CrossEntropyOptions {
  /** Share of the target spread evenly over all classes, 0 … 1: PyTorch's `label_smoothing` (Szegedy et al., 2016). */
  readonly labelSmoothing?: number;
  /** f32 [rows], overwritten: 1 where no token is likelier than the target, else 0. Costs nothing to know. */
  readonly correct?: Tensor;
}

/**
 * Σ scaleᵢ · −log softmax(hiddenᵢ·weightᵀ)[targetᵢ], a scalar; the logits are never written out whole. Shapes: hidden
 * [rows, size], weight [vocabulary, size] (bf16 when frozen), targets i32 [rows] (negative: no loss), scale f32 [rows]
 * (1/rows for a mean; no gradient flows to it).
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  scale: Tensor,
  { labelSmoothing = 0, correct }: CrossEntropyOptions = {},
): Tensor {
  const loss = apply(modelOps.linearCrossEntropy, [hidden, weight], { targets, scale, correct });
  return labelSmoothing === 0 ? loss : smoothing(hidden, weight, targets, scale).mul(labelSmoothing).add(loss);
}

/**
 * What smoothed labels add to the loss, for each unit of smoothing: Σ scaleᵢ · (logit of the target − mean of all logits).
 * The mean of a row's logits is its hidden state times the weights' mean row, so no logits are needed.
 */
function smoothing(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor): Tensor {
  const [vocabulary] = weight.shape;
  const { dtype, device } = hidden;
  const meanRow = matmul(full([1, vocabulary], 1 / vocabulary, { dtype, device }), weight);
  const counted = targets.ge(0).to(dtype).mul(scale);
  const difference = embedding(weight, targets.maximum(0)).sub(meanRow);
  return mul(hidden, difference).sum(1).mul(counted).sum();
}
