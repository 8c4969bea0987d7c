import { sizeOf } from "../../shape.ts";
import type {
  AdamWArgs,
  AttentionOptions,
  HostArray,
  LinearCrossEntropyArgs,
  LowRankArgs,
  LowRankGradients,
  View,
} from "../device.ts";
import { dropValues } from "./loops.ts";
import { load, store } from "./views.ts";

const rowsOf = (view: View): number => sizeOf(view.shape.slice(0, -1));

/** The definition of `Device.rmsNorm` (Zhang & Sennrich, 2019). */
export function rmsNorm(host: HostArray, x: View, weight: View, eps: number, out: View, rstd: View): void {
  const n = x.shape.at(-1)!;
  const values = load(host, x);
  const w = load(host, weight);
  const scales = new Float64Array(rowsOf(x));
  for (let r = 0; r < scales.length; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += values[r * n + i] ** 2;
    scales[r] = 1 / Math.sqrt(sum / n + eps);
    for (let i = 0; i < n; i++) values[r * n + i] *= scales[r] * w[i];
  }
  store(host, out, values);
  store(host, rstd, scales);
}

/** With x̂ = x·rstd: dx = rstd·(g·w − x̂·mean(g·w·x̂)), dw = Σ g·x̂. */
export function rmsNormBackward(
  host: HostArray,
  grad: View,
  x: View,
  weight: View,
  rstd: View,
  gradX: View | undefined,
  gradWeight: View | undefined,
  accumulate = false,
): void {
  const n = x.shape.at(-1)!;
  const g = load(host, grad);
  const values = load(host, x);
  const w = load(host, weight);
  const scales = load(host, rstd);
  const dw = new Float64Array(n);
  for (let r = 0; r < scales.length; r++) {
    let mean = 0;
    for (let i = r * n; i < (r + 1) * n; i++) {
      values[i] *= scales[r];
      dw[i - r * n] += g[i] * values[i];
      g[i] *= w[i - r * n];
      mean += (g[i] * values[i]) / n;
    }
    for (let i = r * n; i < (r + 1) * n; i++) g[i] = scales[r] * (g[i] - values[i] * mean);
  }
  if (gradX && accumulate) load(host, gradX).forEach((before, i) => void (g[i] += before));
  if (gradX) store(host, gradX, g);
  if (gradWeight) store(host, gradWeight, dw);
}

/** The definition of `Device.softmax`. */
export function softmax(host: HostArray, x: View, out: View): void {
  const n = x.shape.at(-1)!;
  const values = load(host, x);
  for (let from = 0; from < values.length; from += n) {
    const row = values.subarray(from, from + n);
    const greatest = row.reduce((a, b) => Math.max(a, b));
    let sum = 0;
    for (let i = 0; i < n; i++) sum += row[i] = Math.exp(row[i] - greatest);
    for (let i = 0; i < n; i++) row[i] /= sum;
  }
  store(host, out, values);
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** The definition of `Device.swiglu` (Shazeer, 2020). */
export function swiglu(host: HostArray, gate: View, up: View, out: View): void {
  const [x, u] = [gate, up].map((view) => load(host, view));
  store(
    host,
    out,
    x.map((value, i) => value * sigmoid(value) * u[i]),
  );
}

/** dgate = g·up·σ·(1 + gate·(1 − σ)), dup = g·gate·σ. */
export function swigluBackward(host: HostArray, grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
  const [g, x, u] = [grad, gate, up].map((view) => load(host, view));
  for (let i = 0; i < g.length; i++) {
    const s = sigmoid(x[i]);
    const toUp = g[i] * x[i] * s;
    x[i] = g[i] * u[i] * s * (1 + x[i] * (1 - s));
    u[i] = toUp;
  }
  store(host, gradGate, x);
  store(host, gradUp, u);
}

/** The definition of `Device.lowRank` (Hu et al., 2021). */
export function lowRank(host: HostArray, args: LowRankArgs, out: View): void {
  const { x, a, b, scaling, dropout } = args;
  const [rows, n] = x.shape;
  const [m, rank] = b.shape;
  const [input, A, B, result] = [x, a, b, out].map((view) => load(host, view));
  if (dropout) dropValues(host, input, dropout.rows, dropout.p, dropout.key);
  const low = new Float64Array(rows * rank);
  for (let i = 0; i < low.length; i++) {
    low[i] = scaling * dot(input, Math.floor(i / rank) * n, A, (i % rank) * n, n);
  }
  store(host, args.low, low);
  for (let i = 0; i < result.length; i++) result[i] += dot(low, Math.floor(i / m) * rank, B, (i % m) * rank, rank);
  store(host, out, result);
}

/** With g the gradient and h = scaling·g·b: dx += dropout(h·a), da = hᵀ·dropout(x), db = gᵀ·low. */
export function lowRankBackward(host: HostArray, args: LowRankArgs, gradients: LowRankGradients): void {
  const { x, a, b, low, scaling, dropout } = args;
  const [rows, n] = x.shape;
  const [m, rank] = b.shape;
  const [g, input, A, B, L] = [gradients.grad, x, a, b, low].map((view) => load(host, view));
  const drop = (values: Float64Array): void => {
    if (dropout) dropValues(host, values, dropout.rows, dropout.p, dropout.key);
  };
  drop(input);
  const [dx, da, db] = [new Float64Array(rows * n), new Float64Array(rank * n), new Float64Array(m * rank)];
  for (let row = 0; row < rows; row++) {
    const h = new Float64Array(rank);
    for (let i = 0; i < m; i++) {
      addScaled(h, 0, scaling * g[row * m + i], B, i * rank, rank);
      addScaled(db, i * rank, g[row * m + i], L, row * rank, rank);
    }
    for (let j = 0; j < rank; j++) {
      addScaled(dx, row * n, h[j], A, j * n, n);
      addScaled(da, j * n, h[j], input, row * n, n);
    }
  }
  drop(dx);
  const put = (view: View | undefined, values: Float64Array, accumulate: boolean | undefined): void => {
    if (!view) return;
    if (accumulate) load(host, view).forEach((before, i) => void (values[i] += before));
    store(host, view, values);
  };
  put(gradients.gradX, dx, true);
  put(gradients.gradA, da, gradients.accumulateA);
  put(gradients.gradB, db, gradients.accumulateB);
}

/** The definition of `Device.rope` (Su et al., 2021), in halves as transformers applies it. */
export function rope(host: HostArray, x: View, positions: View, frequencies: View, inverse: boolean, out: View): void {
  const [rows, heads, size] = x.shape;
  const half = size / 2;
  const values = load(host, x);
  const position = load(host, positions);
  const frequency = load(host, frequencies);
  // Angles in f32 on every device, as transformers computes them; f64 tensors keep full precision.
  const round = x.dtype === "f64" ? (a: number) => a : Math.fround;
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < half; i++) {
      const angle = round(position[r] * frequency[i]);
      const cos = Math.cos(angle);
      const sin = inverse ? -Math.sin(angle) : Math.sin(angle);
      for (let h = 0; h < heads; h++) {
        const low = (r * heads + h) * size + i;
        const a = values[low];
        const b = values[low + half];
        values[low] = a * cos - b * sin;
        values[low + half] = b * cos + a * sin;
      }
    }
  }
  store(host, out, values);
}

/** The definition of `Device.attention`. */
export function attention(
  host: HostArray,
  q: View,
  k: View,
  v: View,
  options: AttentionOptions,
  out: View,
  lse: View | undefined,
): void {
  const [queries, heads, size] = q.shape;
  const kvHeads = k.shape[1];
  const [Q, K, V] = [q, k, v].map((view) => load(host, view));
  const result = new Float64Array(Q.length);
  const logSumExp = new Float64Array(heads * queries);
  const keyRows = options.keyRows && load(host, options.keyRows);
  const keyAt = (j: number): number => (keyRows ? keyRows[j] : j);
  const rotated = rotatedBias(host, options);
  eachScore(options, heads, kvHeads, (row, h, first, count, kvHead) => {
    const scores = new Float64Array(count);
    let max = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < count; j++) {
      const key = (keyAt(first + j) * kvHeads + kvHead) * size;
      const query = (row * heads + h) * size;
      scores[j] = options.scale * (dot(Q, query, K, key, size) + dot(Q, query, rotated(j, kvHead), 0, rotated.size));
      max = Math.max(max, scores[j]);
    }
    let sum = 0;
    for (let j = 0; j < count; j++) sum += scores[j] = Math.exp(scores[j] - max);
    for (let j = 0; j < count; j++) {
      const value = (keyAt(first + j) * kvHeads + kvHead) * size;
      addScaled(result, (row * heads + h) * size, scores[j] / sum, V, value, size);
    }
    logSumExp[h * queries + row] = max + Math.log(sum);
  });
  store(host, out, result);
  if (lse) store(host, lse, logSumExp);
}

/** The bias of keys in blocks, rotated to a position. */
function rotatedBias(host: HostArray, { keyBias }: AttentionOptions) {
  if (!keyBias) return Object.assign(() => new Float64Array(), { size: 0 });
  const size = keyBias.bias.shape[1];
  const half = size / 2;
  const [bias, rotations] = [load(host, keyBias.bias), load(host, keyBias.rotations)];
  const at = (position: number, head: number): Float64Array => {
    const out = new Float64Array(size);
    for (let i = 0; i < half; i++) {
      const [a, b] = [bias[head * size + i], bias[head * size + half + i]];
      const [cos, sin] = [rotations[position * size + i], rotations[position * size + half + i]];
      out[i] = a * cos - b * sin;
      out[half + i] = b * cos + a * sin;
    }
    return out;
  };
  return Object.assign(at, { size });
}

/** The definition of `Device.attentionBackward`: P = exp(s − lse), dS = P·(dP − Σ grad·out). */
export function attentionBackward(
  host: HostArray,
  grad: View,
  q: View,
  k: View,
  v: View,
  out: View,
  lse: View,
  options: AttentionOptions,
  gradQ: View,
  gradK: View,
  gradV: View,
): void {
  const [queries, heads, size] = q.shape;
  const kvHeads = k.shape[1];
  const [G, Q, K, V, O, L] = [grad, q, k, v, out, lse].map((view) => load(host, view));
  const [dQ, dK, dV] = [Q, K, V].map((x) => new Float64Array(x.length));
  eachScore(options, heads, kvHeads, (row, h, first, count, kvHead) => {
    const query = (row * heads + h) * size;
    const delta = dot(G, query, O, query, size);
    for (let j = 0; j < count; j++) {
      const key = ((first + j) * kvHeads + kvHead) * size;
      const p = Math.exp(options.scale * dot(Q, query, K, key, size) - L[h * queries + row]);
      const ds = p * (dot(G, query, V, key, size) - delta) * options.scale;
      addScaled(dV, key, p, G, query, size);
      addScaled(dQ, query, ds, K, key, size);
      addScaled(dK, key, ds, Q, query, size);
    }
  });
  store(host, gradQ, dQ);
  store(host, gradK, dK);
  store(host, gradV, dV);
}

/** For every query row and head: the first key it sees, how many, and the head they are of. */
function eachScore(
  { segments }: AttentionOptions,
  heads: number,
  kvHeads: number,
  visit: (row: number, head: number, firstKey: number, keys: number, kvHead: number) => void,
): void {
  for (const s of segments) {
    for (let i = 0; i < s.queries; i++) {
      for (let h = 0; h < heads; h++) {
        visit(s.query + i, h, s.key, s.keys - s.queries + i + 1, Math.floor((h * kvHeads) / heads));
      }
    }
  }
}

function dot(a: Float64Array, atA: number, b: Float64Array, atB: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[atA + i] * b[atB + i];
  return sum;
}

function addScaled(to: Float64Array, atTo: number, factor: number, x: Float64Array, atX: number, n: number): void {
  for (let i = 0; i < n; i++) to[atTo + i] += factor * x[atX + i];
}

/** Rows of the vocabulary widened at a time, and rows of hidden states that share them. */
const VOCABULARY_BLOCK = 1024;
const ROW_GROUP = 32;

/** The definition of `Device.linearCrossEntropy`. */
export function linearCrossEntropy(host: HostArray, args: LinearCrossEntropyArgs): void {
  const [rows, n] = args.hidden.shape;
  const [vocabulary] = args.weight.shape;
  const hidden = load(host, args.hidden);
  const targets = load(host, args.targets);
  const scale = load(host, args.scale);
  const loss = new Float64Array(rows);
  const correct = new Float64Array(rows);
  const gradHidden = new Float64Array(args.gradHidden ? rows * n : 0);
  const gradWeight = new Float64Array(args.gradWeight ? vocabulary * n : 0);
  const eachBlock = (visit: (first: number, count: number, weight: Float64Array) => void): void => {
    for (let first = 0; first < vocabulary; first += VOCABULARY_BLOCK) {
      const count = Math.min(VOCABULARY_BLOCK, vocabulary - first);
      const block = { ...args.weight, offset: args.weight.offset + first * args.weight.strides[0], shape: [count, n] };
      visit(first, count, load(host, block));
    }
  };
  const active = Array.from({ length: rows }, (_, r) => r).filter((r) => targets[r] >= 0);
  for (let start = 0; start < active.length; start += ROW_GROUP) {
    const group = active.slice(start, start + ROW_GROUP);
    const logits = group.map(() => new Float64Array(vocabulary));
    eachBlock((first, count, weight) => {
      group.forEach((r, g) => {
        for (let i = 0; i < count; i++) logits[g][first + i] = dot(hidden, r * n, weight, i * n, n);
      });
    });
    group.forEach((r, g) => {
      const max = logits[g].reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
      const sum = logits[g].reduce((a, b) => a + Math.exp(b - max), 0);
      loss[r] = max + Math.log(sum) - logits[g][targets[r]];
      correct[r] = logits[g][targets[r]] === max ? 1 : 0;
      for (let i = 0; i < vocabulary; i++) logits[g][i] = Math.exp(logits[g][i] - max) / sum;
      logits[g][targets[r]] -= 1;
    });
    if (!args.gradHidden && !args.gradWeight) continue;
    eachBlock((first, count, weight) => {
      group.forEach((r, g) => {
        for (let i = 0; i < count; i++) {
          const factor = scale[r] * logits[g][first + i];
          if (args.gradHidden) addScaled(gradHidden, r * n, factor, weight, i * n, n);
          if (args.gradWeight) addScaled(gradWeight, (first + i) * n, factor, hidden, r * n, n);
        }
      });
    });
  }
  store(host, args.loss, loss);
  if (args.correct) store(host, args.correct, correct);
  if (args.gradHidden) store(host, args.gradHidden, gradHidden);
  if (args.gradWeight) store(host, args.gradWeight, gradWeight);
}

/** The definition of `Device.adamW`. */
export function adamW(host: HostArray, args: AdamWArgs): void {
  const { lr, beta1, beta2, eps, weightDecay, step } = args;
  const [param, grad, m, v] = [args.param, args.grad, args.m, args.v].map((view) => load(host, view));
  const gradScale = args.gradScale ? load(host, args.gradScale)[0] : 1;
  const correction1 = 1 - beta1 ** step;
  const correction2 = Math.sqrt(1 - beta2 ** step);
  for (let i = 0; i < param.length; i++) {
    const g = grad[i] * gradScale;
    m[i] = beta1 * m[i] + (1 - beta1) * g;
    v[i] = beta2 * v[i] + (1 - beta2) * g * g;
    param[i] = param[i] * (1 - lr * weightDecay) - ((lr / correction1) * m[i]) / (Math.sqrt(v[i]) / correction2 + eps);
  }
  store(host, args.param, param);
  store(host, args.m, m);
  store(host, args.v, v);
}
