/**
 * Trains a small GPT on the characters of a text, and lets it write: bun main.ts [FILE] [--steps N]. Each line of progress is the loss
 * on what it trains on.
 */
import { parseArgs } from "node:util";
import { AdamW, clipGradNorm, createDevice, Generator, memory, schedule, scope, setDefaultDevice } from "@tslm/tensor";
import { Gpt } from "./gpt.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { steps: { type: "string", default: "400" }, seed: { type: "string", default: "1" } },
});
const text = await Bun.file(positionals[0] ?? "input.txt").text();
const steps = Number(values.steps);

const CONTEXT = 64;
const BATCH = 16;
const PEAK = 3e-3;

const alphabet = [...new Set(text)].sort();
const idOf = new Map(alphabet.map((character, id) => [character, id]));
const ids = Int32Array.from([...text], (character) => idOf.get(character)!);
if (ids.length <= CONTEXT) throw new Error(`the text has ${ids.length} characters; it must have more than ${CONTEXT}`);

const device = await createDevice("auto");
setDefaultDevice(device);
const random = new Generator(Number(values.seed));
const gpt = new Gpt({ vocabulary: alphabet.length, width: 128, heads: 4, layers: 3 }, random);
const parameters = [...gpt.parameters()];
const size = parameters.reduce((sum, t) => sum + t.size, 0);
console.log(`${ids.length} characters, ${alphabet.length} different; ${size} parameters on ${device.info.name}`);

/** The same numbers in every run: a simple generator is enough to choose places by. */
let state = Number(values.seed);
function below(limit: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

const optimizer = new AdamW(parameters, { lr: PEAK, weightDecay: 0.01 });
const rate = schedule("cosine", { warmup: 0.05 });
const started = performance.now();
for (let step = 1; step <= steps; step++) {
  const batch = Array.from({ length: BATCH }, () => {
    const at = below(ids.length - CONTEXT);
    return ids.subarray(at, at + CONTEXT + 1);
  });
  const loss = scope(() => gpt.loss(batch));
  loss.backward();
  const { norm, gradScale } = clipGradNorm(parameters, 1);
  optimizer.lr = PEAK * rate(step, steps);
  optimizer.step(gradScale);
  optimizer.zeroGrad();
  if (step === 1 || step % 20 === 0 || step === steps) {
    const speed = (step * BATCH * CONTEXT * 1000) / (performance.now() - started);
    console.log(`step ${step}: loss ${(await loss.item()).toFixed(4)}, ${speed.toFixed(0)} characters a second`);
  }
  for (const t of [loss, norm, gradScale]) t.dispose();
}

const written = [...ids.subarray(0, 20)];
const begin = written.length;
for (let i = 0; i < 200; i++) {
  const logits = await gpt.next(written.slice(-CONTEXT));
  // Temperature 0.7.
  const weights = logits.map((logit) => Math.exp(logit / 0.7));
  let left = (below(2 ** 31) / 2 ** 31) * weights.reduce((a, b) => a + b);
  let id = 0;
  while (id < weights.length - 1 && (left -= weights[id]) > 0) id++;
  written.push(id);
}
const spell = (list: readonly number[]): string => list.map((id) => alphabet[id]).join("");
console.log(`\n${spell(written.slice(0, begin))}|${spell(written.slice(begin))}`);
console.log(`\nmemory: ${(memory().bytes / 1e6).toFixed(1)} MB in ${memory().storages} pieces`);
await device.dispose();
