import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { inputs, SIZES, type TaskName } from "../tasks.ts";
import type { Contender, Job } from "./contender.ts";

/** jax-js on WebAssembly, its functions compiled with `jit`. It chooses its threads itself: the processors the browser tells of. */
export async function jax(): Promise<Contender> {
  await init("wasm");
  defaultDevice("wasm");
  const shared = typeof SharedArrayBuffer !== "undefined" && typeof Worker !== "undefined";
  return {
    name: "@jax-js/jax 0.1.25, wasm",
    threads: shared ? "its own choice" : 1,
    prepare: (task) => (task === "mlp" ? mlp() : operation(task)),
  };
}

const matrix = (values: Float32Array, rows: number): np.Array =>
  np.array(values as Float32Array<ArrayBuffer>).reshape([rows, -1]);
const vector = (values: Float32Array): np.Array => np.array(values as Float32Array<ArrayBuffer>);

function operation(task: Exclude<TaskName, "mlp">): Job {
  let compute: () => np.Array;
  if (task === "matmul") {
    const [a, b] = [matrix(inputs.matmul.a, SIZES.matmul.n), matrix(inputs.matmul.b, SIZES.matmul.n)];
    const f = jit((left: np.Array, right: np.Array) => np.matmul(left, right));
    compute = () => f(a.ref, b.ref);
  } else if (task === "softmax") {
    const x = matrix(inputs.softmax.x, SIZES.softmax.rows);
    const f = jit((t: np.Array) => nn.softmax(t, -1));
    compute = () => f(x.ref);
  } else {
    const { rows, eps } = SIZES.layerNorm;
    const x = matrix(inputs.layerNorm.x, rows);
    const [weight, bias] = [vector(inputs.layerNorm.weight), vector(inputs.layerNorm.bias)];
    const f = jit((t: np.Array, w: np.Array, b: np.Array) => nn.standardize(t, -1, { epsilon: eps }).mul(w).add(b));
    compute = () => f(x.ref, weight.ref, bias.ref);
  }
  return {
    async run() {
      const t = compute();
      await blockUntilReady(t);
      t.dispose();
    },
    async result() {
      return compute().data();
    },
  };
}

type Params = np.Array[];

function mlp(): Job {
  const { batch, inputs: width, hidden, classes, lr, betas, eps, steps } = SIZES.mlp;
  const given = inputs.mlp;
  const x = matrix(given.x, batch);
  const targets = nn.oneHot(np.array(given.labels as Int32Array<ArrayBuffer>), classes).astype(np.float32);
  const lossOf = (params: Params, inputsOf: np.Array, wanted: np.Array): np.Array => {
    const [w1, b1, w2, b2] = params;
    const h = nn.relu(np.matmul(inputsOf, w1).add(b1));
    const logits = np.matmul(h, w2).add(b2);
    return nn
      .logSoftmax(logits, -1)
      .mul(wanted)
      .sum()
      .mul(-1 / batch);
  };
  // The whole step is one compiled function, as JAX's users write it.
  const update = jit(
    (params: Params, first: Params, second: Params, corrections: np.Array[], xs: np.Array, ys: np.Array) => {
      const [loss, grads] = valueAndGrad(lossOf)(
        params.map((p) => p.ref),
        xs,
        ys,
      ) as unknown as [np.Array, Params];
      const m = first.map((old, i) => old.mul(betas[0]).add(grads[i].ref.mul(1 - betas[0])));
      const v = second.map((old, i) => old.mul(betas[1]).add(np.square(grads[i]).mul(1 - betas[1])));
      const [c1, c2] = corrections;
      const next = params.map((p, i) =>
        p.sub(
          m[i].ref
            .mul(c1.ref)
            .mul(lr)
            .div(np.sqrt(v[i].ref.mul(c2.ref)).add(eps)),
        ),
      );
      c1.dispose();
      c2.dispose();
      return [loss, next, m, v] as const;
    },
  );
  const start = () => {
    let params: Params = [matrix(given.w1, width), vector(given.b1), matrix(given.w2, hidden), vector(given.b2)];
    let [first, second] = [0, 1].map(() => params.map((p) => np.zeros(p.shape)));
    let step = 0;
    return (): np.Array => {
      step++;
      const corrections = betas.map((beta) => np.array(1 / (1 - beta ** step)));
      const [loss, ...rest] = update(params, first, second, corrections, x.ref, targets.ref);
      [params, first, second] = rest as unknown as [Params, Params, Params];
      return loss;
    };
  };
  const step = start();
  return {
    async run() {
      const loss = step();
      await blockUntilReady(loss);
      loss.dispose();
    },
    async result() {
      const fresh = start();
      const losses: number[] = [];
      for (let i = 0; i < steps; i++) losses.push((await fresh().data())[0]);
      return losses;
    },
  };
}
