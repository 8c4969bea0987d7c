// What is computed: the same numbers go in everywhere, and what comes out is held against plain loops in f64.

export const SIZES = {
  /** C = A·B of n × n. */
  matmul: { n: 512 },
  softmax: { rows: 512, columns: 2048 },
  layerNorm: { rows: 1024, columns: 1024, eps: 1e-5 },
  /** inputs → hidden → classes with ReLU, cross-entropy and Adam. */
  mlp: { batch: 128, inputs: 784, hidden: 256, classes: 10, lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, steps: 4 },
} as const;

export type TaskName = keyof typeof SIZES;
export const TASKS = Object.keys(SIZES) as TaskName[];

/** Numbers in (−scale, scale), the same ones everywhere. */
export function numbers(count: number, seed: number, scale = 1): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * scale;
  });
}

const { matmul, softmax, layerNorm, mlp } = SIZES;
export const inputs = {
  matmul: { a: numbers(matmul.n ** 2, 1), b: numbers(matmul.n ** 2, 2) },
  softmax: { x: numbers(softmax.rows * softmax.columns, 3, 8) },
  layerNorm: {
    x: numbers(layerNorm.rows * layerNorm.columns, 4, 3),
    weight: numbers(layerNorm.columns, 5),
    bias: numbers(layerNorm.columns, 6),
  },
  mlp: {
    x: numbers(mlp.batch * mlp.inputs, 7),
    labels: Int32Array.from({ length: mlp.batch }, (_, i) => (i * 7) % mlp.classes),
    /** [inputs, hidden], [hidden], [hidden, classes], [classes]. */
    w1: numbers(mlp.inputs * mlp.hidden, 8, 1 / Math.sqrt(mlp.inputs)),
    b1: numbers(mlp.hidden, 9, 0.01),
    w2: numbers(mlp.hidden * mlp.classes, 10, 1 / Math.sqrt(mlp.hidden)),
    b2: numbers(mlp.classes, 11, 0.01),
  },
};

type Numbers = Float32Array | Float64Array;

/** a [m, k] · b [k, n]; either may be read transposed. */
function product(
  a: Numbers,
  b: Numbers,
  m: number,
  k: number,
  n: number,
  form: "nn" | "tn" | "nt" = "nn",
): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let p = 0; p < k; p++) {
      const left = form === "tn" ? a[p * m + i] : a[i * k + p];
      for (let j = 0; j < n; j++) out[i * n + j] += left * (form === "nt" ? b[j * k + p] : b[p * n + j]);
    }
  }
  return out;
}

function softmaxRows(x: Numbers, columns: number): Float64Array {
  const out = Float64Array.from(x);
  for (let at = 0; at < out.length; at += columns) {
    const row = out.subarray(at, at + columns);
    const most = row.reduce((a, b) => Math.max(a, b));
    let sum = 0;
    for (let j = 0; j < columns; j++) sum += row[j] = Math.exp(row[j] - most);
    for (let j = 0; j < columns; j++) row[j] /= sum;
  }
  return out;
}

/** Losses of the first steps. */
function mlpLosses(): Float64Array {
  const { batch, inputs: n, hidden, classes, lr, betas, eps, steps } = mlp;
  const { x, labels } = inputs.mlp;
  const params = [inputs.mlp.w1, inputs.mlp.b1, inputs.mlp.w2, inputs.mlp.b2].map((p) => Float64Array.from(p));
  const first = params.map((p) => new Float64Array(p.length));
  const second = params.map((p) => new Float64Array(p.length));
  const losses = new Float64Array(steps);
  for (let step = 1; step <= steps; step++) {
    const [w1, b1, w2, b2] = params;
    const h = product(x, w1, batch, n, hidden).map((v, i) => Math.max(0, v + b1[i % hidden]));
    const p = softmaxRows(
      product(h, w2, batch, hidden, classes).map((v, i) => v + b2[i % classes]),
      classes,
    );
    labels.forEach((label, i) => {
      losses[step - 1] -= Math.log(p[i * classes + label]) / batch;
    });
    const dz = p.map((v, i) => (v - (labels[Math.floor(i / classes)] === i % classes ? 1 : 0)) / batch);
    const dh = product(dz, w2, batch, classes, hidden, "nt").map((v, i) => (h[i] > 0 ? v : 0));
    const columns = (d: Float64Array, width: number): Float64Array => {
      const sum = new Float64Array(width);
      d.forEach((v, i) => {
        sum[i % width] += v;
      });
      return sum;
    };
    const grads = [
      product(x, dh, n, batch, hidden, "tn"),
      columns(dh, hidden),
      product(h, dz, hidden, batch, classes, "tn"),
      columns(dz, classes),
    ];
    params.forEach((param, k) => {
      for (let i = 0; i < param.length; i++) {
        const g = grads[k][i];
        first[k][i] = betas[0] * first[k][i] + (1 - betas[0]) * g;
        second[k][i] = betas[1] * second[k][i] + (1 - betas[1]) * g * g;
        const m = first[k][i] / (1 - betas[0] ** step);
        const v = second[k][i] / (1 - betas[1] ** step);
        param[i] -= (lr * m) / (Math.sqrt(v) + eps);
      }
    });
  }
  return losses;
}

const EXPECTED: { [T in TaskName]: () => Float64Array } = {
  matmul: () => product(inputs.matmul.a, inputs.matmul.b, matmul.n, matmul.n, matmul.n),
  softmax: () => softmaxRows(inputs.softmax.x, softmax.columns),
  layerNorm() {
    const { columns, eps } = layerNorm;
    const { x, weight, bias } = inputs.layerNorm;
    const out = Float64Array.from(x);
    for (let at = 0; at < out.length; at += columns) {
      const row = out.subarray(at, at + columns);
      const mean = row.reduce((a, b) => a + b) / columns;
      const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / columns;
      for (let j = 0; j < columns; j++) row[j] = ((row[j] - mean) / Math.sqrt(variance + eps)) * weight[j] + bias[j];
    }
    return out;
  },
  mlp: mlpLosses,
};

/** Largest difference that is allowed: sums of f32 numbers, in whatever order. */
const TOLERANCE: { [T in TaskName]: number } = { matmul: 1e-3, softmax: 1e-6, layerNorm: 1e-4, mlp: 1e-4 };

const known = new Map<TaskName, Float64Array>();

/** @throws Error unless the result is right */
export function verify(task: TaskName, who: string, result: ArrayLike<number>): void {
  const expected = known.get(task) ?? EXPECTED[task]();
  known.set(task, expected);
  if (result.length !== expected.length)
    throw new Error(`${who}, ${task}: ${result.length} numbers, not ${expected.length}`);
  for (let i = 0; i < expected.length; i++) {
    if (!(Math.abs(result[i] - expected[i]) <= TOLERANCE[task]))
      throw new Error(`${who}, ${task}: element ${i} is ${result[i]}, not ${expected[i]}`);
  }
}
