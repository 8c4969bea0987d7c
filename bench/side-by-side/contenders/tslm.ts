import {
  AdamW,
  createDevice,
  crossEntropy,
  type Device,
  Linear,
  layerNorm,
  noGrad,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
} from "@tslm/tensor";
import { inputs, SIZES, type TaskName } from "../tasks.ts";
import type { Contender, Job } from "./contender.ts";

/** This package. `isa`: `wasm`, or the best tier of machine code unless given. */
export async function tslm(options: { isa?: string; threads: number }): Promise<Contender> {
  const device = await createDevice("cpu", options);
  const { isa, threads } = device.info;
  return {
    name: `@tslm/tensor, ${isa === "wasm" ? "WebAssembly" : `compiled (${isa})`}`,
    threads,
    prepare(task) {
      setDefaultDevice(device);
      return task === "mlp" ? mlp(device) : operation(task, device);
    },
  };
}

function operation(task: Exclude<TaskName, "mlp">, device: Device): Job {
  const matrix = (values: Float32Array, rows: number): Tensor => tensor(values).reshape(rows, -1);
  let compute: () => Tensor;
  if (task === "matmul") {
    const [a, b] = [matrix(inputs.matmul.a, SIZES.matmul.n), matrix(inputs.matmul.b, SIZES.matmul.n)];
    compute = () => a.matmul(b);
  } else if (task === "softmax") {
    const x = matrix(inputs.softmax.x, SIZES.softmax.rows);
    compute = () => x.softmax();
  } else {
    const x = matrix(inputs.layerNorm.x, SIZES.layerNorm.rows);
    const [weight, bias] = [tensor(inputs.layerNorm.weight), tensor(inputs.layerNorm.bias)];
    compute = () => layerNorm(x, [SIZES.layerNorm.columns], weight, bias, SIZES.layerNorm.eps);
  }
  const once = (): Tensor => scope(() => noGrad(compute));
  return {
    async run() {
      once().dispose();
      await device.synchronize();
    },
    async result() {
      const t = once();
      return t.data().finally(() => t.dispose());
    },
  };
}

function mlp(device: Device): Job {
  const { batch, inputs: width, hidden, classes, lr, betas, eps, steps } = SIZES.mlp;
  const { labels, ...given } = inputs.mlp;
  const x = tensor(given.x).reshape(batch, width);
  const targets = tensor([...labels], { dtype: "i32" });
  const start = () => {
    const weight = (values: Float32Array, rows: number, columns: number): Tensor =>
      scope(() => tensor(values).reshape(rows, columns).T.contiguous()).keep();
    const layers = [
      new Linear(weight(given.w1, width, hidden), tensor(given.b1)),
      new Linear(weight(given.w2, hidden, classes), tensor(given.b2)),
    ];
    const parameters = layers.flatMap((layer) => layer.parameters());
    for (const parameter of parameters) parameter.requiresGrad = true;
    const optimizer = new AdamW(parameters, { lr, betas, eps, weightDecay: 0 });
    return (): Tensor => {
      const loss = scope(() => crossEntropy(layers[1].forward(layers[0].forward(x).relu()), targets));
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      return loss;
    };
  };
  const step = start();
  return {
    async run() {
      step().dispose();
      await device.synchronize();
    },
    async result() {
      const fresh = start();
      const losses: number[] = [];
      for (let i = 0; i < steps; i++) {
        const loss = fresh();
        losses.push(await loss.item());
        loss.dispose();
      }
      return losses;
    },
  };
}
