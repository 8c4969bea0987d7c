import * as tf from "@tensorflow/tfjs";
import { getThreadsCount, setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";

import { inputs, SIZES, type TaskName } from "../tasks.ts";
import type { Contender, Job } from "./contender.ts";

/**
 * TensorFlow.js on one of its backends.
 * @param options `files` is where its .wasm files lie; `threads` counts only where it can start them: in browsers
 */
export async function tfjs(backend: "cpu" | "wasm", options: { files?: string; threads: number }): Promise<Contender> {
  if (options.files) setWasmPaths(options.files);
  if (backend === "wasm") setThreadsCount(options.threads);
  await tf.setBackend(backend);
  await tf.ready();
  const threads = backend === "wasm" ? getThreadsCount() : 1;
  return {
    name: `@tensorflow/tfjs 4.22, ${backend}`,
    threads,
    async prepare(task) {
      await tf.setBackend(backend);
      const job = task === "mlp" ? mlp() : operation(task);
      return {
        async run() {
          if (tf.getBackend() !== backend) await tf.setBackend(backend);
          await job.run();
        },
        async result() {
          await tf.setBackend(backend);
          return job.result();
        },
      };
    },
  };
}

function operation(task: Exclude<TaskName, "mlp">): Job {
  let compute: () => tf.Tensor;
  if (task === "matmul") {
    const { n } = SIZES.matmul;
    const [a, b] = [tf.tensor2d(inputs.matmul.a, [n, n]), tf.tensor2d(inputs.matmul.b, [n, n])];
    compute = () => tf.matMul(a, b);
  } else if (task === "softmax") {
    const x = tf.tensor2d(inputs.softmax.x, [SIZES.softmax.rows, SIZES.softmax.columns]);
    compute = () => tf.softmax(x);
  } else {
    const { rows, columns, eps } = SIZES.layerNorm;
    const x = tf.tensor2d(inputs.layerNorm.x, [rows, columns]);
    const [weight, bias] = [tf.tensor1d(inputs.layerNorm.weight), tf.tensor1d(inputs.layerNorm.bias)];
    // There is no such operation: as its layers package composes it.
    compute = () => {
      const { mean, variance } = tf.moments(x, -1, true);
      return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, eps))), weight), bias);
    };
  }
  return {
    run() {
      tf.tidy(compute).dispose();
    },
    async result() {
      const t = tf.tidy(compute);
      return t.data().finally(() => t.dispose());
    },
  };
}

function mlp(): Job {
  const { batch, inputs: width, hidden, classes, lr, betas, eps, steps } = SIZES.mlp;
  const given = inputs.mlp;
  const x = tf.tensor2d(given.x, [batch, width]);
  const targets = tf.cast(tf.oneHot(tf.tensor1d(given.labels, "int32"), classes), "float32");
  const start = () => {
    const w1 = tf.variable(tf.tensor2d(given.w1, [width, hidden]));
    const b1 = tf.variable(tf.tensor1d(given.b1));
    const w2 = tf.variable(tf.tensor2d(given.w2, [hidden, classes]));
    const b2 = tf.variable(tf.tensor1d(given.b2));
    const optimizer = tf.train.adam(lr, betas[0], betas[1], eps);
    return (): tf.Scalar =>
      optimizer.minimize(
        () => {
          const h = tf.relu(tf.add(tf.matMul(x, w1), b1));
          const logits = tf.add(tf.matMul(h, w2), b2);
          return tf.losses.softmaxCrossEntropy(targets, logits) as tf.Scalar;
        },
        true,
        [w1, b1, w2, b2],
      )!;
  };
  const step = start();
  return {
    run() {
      step().dispose();
    },
    async result() {
      const fresh = start();
      const losses: number[] = [];
      for (let i = 0; i < steps; i++) {
        const loss = fresh();
        losses.push((await loss.data())[0]);
        loss.dispose();
      }
      return losses;
    },
  };
}
