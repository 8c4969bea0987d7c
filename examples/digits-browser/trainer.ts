// The worker: trains a small network on digits and tells the page how it goes. The page stays free to draw.
import {
  AdamW,
  createDevice,
  crossEntropy,
  type Device,
  type DeviceName,
  Generator,
  Linear,
  Module,
  noGrad,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
} from "@tslm/tensor";
import type { News, Order, Start } from "./messages.ts";

const PIXELS = 28 * 28;
const BATCH = 100;
/** Steps between two losses that are read: each reading waits for the device. */
const READ_EVERY = 5;
const SAMPLES = 40;

class Reader extends Module {
  hidden: Linear;
  out: Linear;
  constructor(random: Generator) {
    super();
    this.hidden = Linear.init(PIXELS, 128, random);
    this.out = Linear.init(128, 10, random);
  }
  forward(x: Tensor): Tensor {
    return this.out.forward(this.hidden.forward(x).silu());
  }
}

const tell = (news: News): void => postMessage(news);
let stopped = false;

interface Digits {
  pixels: Uint8Array;
  classes: Uint8Array;
  train: number;
}

async function load(): Promise<Digits> {
  const [info, bytes] = await Promise.all([
    fetch("digits.json").then((response) => response.json()),
    fetch("digits.bin").then((response) => response.arrayBuffer()),
  ]);
  const all = new Uint8Array(bytes);
  return {
    pixels: all.subarray(0, info.count * PIXELS),
    classes: all.subarray(info.count * PIXELS),
    train: info.train,
  };
}

async function train({ device: name, rate, epochs }: Start): Promise<void> {
  const digits = await load();
  const device = await createDevice(name as DeviceName);
  setDefaultDevice(device);
  tell({ kind: "device", name: device.info.name, isa: device.info.isa, threads: device.info.threads });
  try {
    await trainOn(device, digits, rate, epochs);
  } finally {
    await device.dispose();
  }
}

async function trainOn(device: Device, digits: Digits, rate: number, epochs: number): Promise<void> {
  const shades = Float32Array.from(digits.pixels, (byte) => byte / 255);
  const images = tensor(shades).reshape(-1, PIXELS);
  const classes = tensor([...digits.classes], { dtype: "i32" });
  const reader = new Reader(new Generator(1));
  const optimizer = new AdamW(reader.parameters(), { lr: rate });
  const steps = epochs * Math.ceil(digits.train / BATCH);
  let step = 0;
  let since = performance.now();
  for (let epoch = 1; epoch <= epochs && !stopped; epoch++) {
    for (let start = 0; start < digits.train && !stopped; start += BATCH) {
      const end = Math.min(start + BATCH, digits.train);
      const loss = scope(() => crossEntropy(reader.forward(images.slice(0, start, end)), classes.slice(0, start, end)));
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      step++;
      if (step === 1 || step % READ_EVERY === 0) {
        const value = await loss.item();
        const read = step === 1 ? 1 : READ_EVERY;
        tell({
          ...{ kind: "step", step, steps, loss: value },
          imagesPerSecond: (read * BATCH * 1000) / (performance.now() - since),
        });
        // A message to stop is heard here.
        await new Promise((resolve) => setTimeout(resolve));
        since = performance.now();
      }
      loss.dispose();
    }
    const unseen = await scope(() => noGrad(() => reader.forward(images.slice(0, digits.train)).argmax())).data();
    const right = unseen.filter((digit, i) => digit === digits.classes[digits.train + i]).length;
    const samples = Array.from({ length: SAMPLES }, (_, i) => ({
      pixels: digits.pixels.slice((digits.train + i) * PIXELS, (digits.train + i + 1) * PIXELS),
      digit: digits.classes[digits.train + i],
      read: unseen[i],
    }));
    tell({ kind: "epoch", step, accuracy: right / unseen.length, samples });
    since = performance.now();
  }
  await device.synchronize();
  for (const t of [images, classes, ...reader.parameters()]) t.dispose();
  optimizer.dispose();
}

self.onmessage = ({ data }: MessageEvent<Order>): void => {
  if (data.kind === "stop") {
    stopped = true;
    return;
  }
  stopped = false;
  train(data.run).then(
    () => tell({ kind: "end", stopped }),
    (error: Error) => tell({ kind: "failed", message: error.message }),
  );
};
