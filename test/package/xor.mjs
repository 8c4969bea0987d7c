// Learns XOR in whatever runs it: Bun, Node or a page.
import { AdamW, createDevice, Generator, Linear, memory, mseLoss, scope, setDefaultDevice, tensor } from "@tslm/tensor";

/** @param {{ threads?: number, isa?: string }} options of the cpu device */
export async function learnXor(options = {}) {
  const device = await createDevice("cpu", options);
  setDefaultDevice(device);
  const random = new Generator(1);
  const [hidden, out] = [Linear.init(2, 64, random), Linear.init(64, 1, random)];
  const x = tensor([
    [0, 0],
    [0, 1],
    [1, 0],
    [1, 1],
  ]);
  const y = tensor([[0], [1], [1], [0]]);
  const optimizer = new AdamW([...hidden.parameters(), ...out.parameters()], { lr: 0.02 });
  const predict = () => out.forward(hidden.forward(x).tanh());
  const losses = [];
  let living = 0;
  for (let step = 0; step < 200; step++) {
    const loss = scope(() => mseLoss(predict(), y));
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    losses.push(await loss.item());
    loss.dispose();
    if (step === 10) living = memory().storages;
  }
  const leaked = memory().storages - living;
  // As large as makes several threads share a product.
  const [a, b] = [512, 512].map((n) =>
    tensor(Float32Array.from({ length: n * n }, (_, i) => (i % 7) - 3)).reshape(n, n),
  );
  const product = await scope(() => a.matmul(b).sum()).item();
  const answers = await scope(() => predict().round().abs().to("i32")).tolist();
  return { device: device.info, losses, answers, product, leaked };
}
