// Whole networks of many kinds of layers: they learn, on both devices alike, and a step leaves the memory as it was.
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import {
  Adam,
  BatchNorm,
  bceWithLogitsLoss,
  Conv2d,
  createDevice,
  crossEntropy,
  Dropout,
  Embedding,
  Flatten,
  GELU,
  Generator,
  LayerNorm,
  Linear,
  Lion,
  MaxPool2d,
  Module,
  MultiheadAttention,
  memory,
  type Optimizer,
  ReLU,
  reference,
  Sequential,
  SGD,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
} from "../index.ts";

const cpu = await createDevice("cpu", { threads: 2 });
afterEach(() => setDefaultDevice(reference));
afterAll(() => cpu.dispose());

/** Losses of `steps` steps; after the second, each leaves as many storages as it found. */
async function train(optimizer: Optimizer, loss: () => Tensor, steps: number): Promise<number[]> {
  const losses: number[] = [];
  let living = 0;
  for (let step = 0; step < steps; step++) {
    const value = scope(loss);
    value.backward();
    optimizer.step();
    optimizer.zeroGrad();
    losses.push(await value.item());
    value.dispose();
    if (step >= 2) expect(memory().storages).toBeLessThanOrEqual(living);
    living = memory().storages;
  }
  return losses;
}

/** Pictures with a bright row (class 0) or a bright column (1). */
function stripes(count: number): { pictures: Tensor; classes: Tensor } {
  const classes = Array.from({ length: count }, (_, i) => i % 2);
  const pictures = classes.map((kind, i) => [
    Array.from({ length: 6 }, (_, y) => Array.from({ length: 6 }, (_, x) => Number((kind === 0 ? y : x) === i % 6))),
  ]);
  return { pictures: tensor(pictures), classes: tensor(classes, { dtype: "i32" }) };
}

/** Are all signs of a sequence the same as its first? Only attention can tell. */
class Transformer extends Module {
  embed: Embedding;
  norm: LayerNorm;
  attention: MultiheadAttention;
  mlp: Sequential;
  drop: Dropout;
  head: Linear;
  constructor(random: Generator) {
    super();
    this.embed = Embedding.init(4, 8, random);
    this.norm = LayerNorm.init(8);
    this.attention = MultiheadAttention.init(8, 2, random);
    this.mlp = new Sequential(Linear.init(8, 16, random), new GELU(), Linear.init(16, 8, random));
    this.drop = new Dropout(0.05, random);
    this.head = Linear.init(8, 1, random);
  }
  forward(ids: Tensor): Tensor {
    let x = this.embed.forward(ids);
    x = x.add(this.attention.forward(this.norm.forward(x)));
    x = x.add(this.drop.forward(this.mlp.forward(x)));
    return this.head.forward(x.mean(1)).squeeze(1);
  }
}

for (const device of [reference, cpu]) {
  describe(`on ${device.info.name}`, () => {
    test("a convolutional network tells rows from columns", async () => {
      setDefaultDevice(device);
      const random = new Generator(1);
      const net = new Sequential(
        Conv2d.init(1, 4, 3, random, { padding: 1 }),
        BatchNorm.init(4),
        new ReLU(),
        new MaxPool2d(2),
        new Flatten(),
        Linear.init(36, 2, random),
      );
      const { pictures, classes } = stripes(12);
      const optimizer = new SGD(net.parameters(), { lr: 0.1, momentum: 0.9 });
      const losses = await train(optimizer, () => crossEntropy(net.forward(pictures), classes), 12);
      expect(losses[0]).toBeGreaterThan(0.4);
      expect(losses.at(-1)).toBeLessThan(0.05);
      net.eval();
      expect(await net.forward(pictures).argmax(1).tolist()).toEqual(await classes.tolist());
      net.dispose();
      optimizer.dispose();
    });

    test.each([
      ["Adam", (p: Tensor[]): Optimizer => new Adam(p, { lr: 0.02 })],
      ["Lion", (p: Tensor[]): Optimizer => new Lion(p, { lr: 0.01 })],
    ])("a transformer finds sequences of one sign, by %s", async (_, make) => {
      setDefaultDevice(device);
      const rows = Array.from({ length: 32 }, (_, i) =>
        i % 2 === 0 ? [0, 0, 0, 0].map(() => (i >> 1) % 4) : [0, 1, 2, 3].map((j) => (i * 7 + j * (1 + (i % 3))) % 4),
      );
      const ids = tensor(rows, { dtype: "i32" });
      const same = tensor(rows.map((row) => Number(row.every((id) => id === row[0]))));
      const net = new Transformer(new Generator(2));
      const optimizer = make(net.parameters());
      const losses = await train(optimizer, () => bceWithLogitsLoss(net.forward(ids), same), 60);
      expect(losses[0]).toBeGreaterThan(0.5);
      expect(losses.at(-1)).toBeLessThan(0.1);
      net.dispose();
      optimizer.dispose();
    });
  });
}
