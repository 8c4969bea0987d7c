import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readExamples } from "@tslm/data";
import { applyLora, type Lora, promptFormat, type TrainingSequence, train, trainingSequences } from "@tslm/lora";
import { nextTokens, passOf, type Quantization, Qwen } from "@tslm/qwen";
import { createDevice, type Device, Generator, linear, noGrad, rand, scope } from "@tslm/tensor";
import { describeDevice, measureLimits, measurePeak, measureWasmLoops, type WasmLoops } from "@tslm/tensor/measure";
import { gpuProducts } from "./gpu.ts";
import { checkProduct, type Measured, seconds } from "./measured.ts";

export type { Measured };

/** What a figure needs. */
export interface Setting {
  /** Folder of the model. */
  readonly dir: string;
  readonly device: Device;
  readonly threads: number | undefined;
}

const SEED_DATA = fileURLToPath(new URL("../../data/input/lora_train_data.csv", import.meta.url));
const LONG_TEXT = "今天天气很好，我们去公园散步。".repeat(80);

export function longPrompt({ tokenizer }: Qwen, length: number): number[] {
  return tokenizer.encode(LONG_TEXT).slice(0, length);
}

/** Logits of a prompt's last position, which must be numbers. */
export async function prefill({ model }: Qwen, ids: readonly number[]): Promise<void> {
  const logits = noGrad(() => scope(() => model.logits(model.hidden(passOf([ids])).slice(0, -1))));
  const values = await logits.data();
  logits.dispose();
  if (!values.every(Number.isFinite)) throw new Error("the logits are not all numbers");
}

export async function withModel<T>(
  { dir, device }: Setting,
  body: (qwen: Qwen) => Promise<T>,
  quantize?: Quantization,
): Promise<T> {
  const qwen = await Qwen.load(dir, { device, quantize });
  try {
    // The first call compiles kernels; the first touch of mapped weights reads them from disk.
    await prefill(qwen, longPrompt(qwen, 32));
    return await body(qwen);
  } finally {
    qwen.dispose();
  }
}

/** The program's five rows. */
export async function seedSequences({ tokenizer, generationConfig }: Qwen): Promise<TrainingSequence[]> {
  const endTokenId = tokenizer.tokenToId("<|im_end|>") ?? generationConfig.eosTokenIds[0];
  const encode = (text: string): number[] => tokenizer.encode(text);
  const examples = await readExamples(SEED_DATA);
  return trainingSequences(examples, { prompt: promptFormat("bench"), encode, endTokenId }).sequences;
}

/** Four sequences of 512 tokens. */
export function longSequences(qwen: Qwen): TrainingSequence[] {
  const tokens = longPrompt(qwen, 512);
  return Array(4).fill({ tokens, targets: [...nextTokens(tokens)] });
}

/** The adapter that all peers train. */
export function benchAdapter({ model }: Qwen): Lora {
  const config = { r: 8, lora_alpha: 32, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"] };
  return applyLora(model, config, new Generator(0));
}

/** Trains an adapter as all peers do, four sequences a step. */
export async function fineTune({ model }: Qwen, lora: Lora, sequences: readonly TrainingSequence[], epochs: number) {
  const options = { epochs, lr: 2e-4, batch: 1, gradAccum: 4, shuffle: false };
  const result = await train({ model, lora, sequences, options });
  if (!result.steps.every(({ loss }) => Number.isFinite(loss))) throw new Error("the loss is not a number");
  return result;
}

async function sft(qwen: Qwen, sequences: readonly TrainingSequence[], epochs: number): Promise<Measured> {
  const { tokens, tokens_per_second } = await fineTune(qwen, benchAdapter(qwen), sequences, epochs);
  return { value: tokens_per_second, tokens };
}

/** A product as large as the model's largest layer has it with 512 rows: rows, inner elements, columns. */
const LARGEST = [512, 896, 4864] as const;
const SQUARE = [2048, 2048, 2048] as const;
/** Rounds of a product's measurement, and runs in a round, of which the fastest counts. */
const ROUNDS = 5;
const RUNS = 3;
/** A device on which the largest layer takes longer, in seconds, is not asked for the square. */
const SLOW = 1;

/** The product of the largest layer, weights bf16, and a square one of f32, each beside the processor's peak of its moment. */
async function gemm({ device, threads }: Setting): Promise<Measured> {
  const peak = () => measurePeak({ threads });
  const { counted } = await peak();
  const { best, peak_best, share } = await productRate(device, LARGEST, "bf16", async () => (await peak()).gflops);
  const measured = { value: best, peak_gflops: peak_best, of_peak: share, peak_of: counted };
  const [rows, inner, columns] = LARGEST;
  if (2 * rows * inner * columns > SLOW * best * 1e9) return measured;
  const square = await productRate(device, SQUARE, "f32", async () => (await peak()).gflopsF32);
  return { ...measured, square_gflops: square.best, square_of_peak: square.share };
}

/**
 * 10⁹ operations a second of [rows, inner] × [columns, inner]ᵀ: the best, the best of what it is held against, and the median
 * share that it reaches of what that gives just before and after.
 */
async function productRate(
  device: Device,
  [rows, inner, columns]: readonly [number, number, number],
  weights: "bf16" | "f32",
  peak: () => Promise<number>,
): Promise<{ best: number; peak_best: number; share: number }> {
  const random = new Generator(1);
  const x = rand([rows, inner], random.next(), { device });
  const weight = noGrad(() => rand([columns, inner], random.next(), { device }).sub(0.5).to(weights));
  await checkProduct(x, weight);
  const shares: number[] = [];
  let best = 0;
  let before = await peak();
  let peak_best = before;
  for (let round = 0; round < ROUNDS; round++) {
    let rate = 0;
    for (let run = 0; run < RUNS; run++) {
      const time = await seconds(device, () => scope(() => void linear(x, weight)));
      rate = Math.max(rate, (2 * rows * inner * columns) / time / 1e9);
    }
    const after = await peak();
    shares.push(rate / ((before + after) / 2));
    best = Math.max(best, rate);
    peak_best = Math.max(peak_best, after);
    before = after;
  }
  x.dispose();
  weight.dispose();
  return { best, peak_best, share: shares.toSorted((a, b) => a - b)[shares.length >> 1]! };
}

/** The product of the largest layer in the WebAssembly tier, one thread, beside loops written by hand. */
async function wasm(): Promise<Measured> {
  const device = await createDevice("cpu", { isa: "wasm", threads: 1 });
  try {
    const loops: WasmLoops[] = [];
    const { best, share } = await productRate(device, LARGEST, "bf16", async () => {
      const { product, registers } = await measureWasmLoops();
      loops.push({ product, registers });
      return Math.max(product, registers);
    });
    const most = (name: keyof WasmLoops) => Math.max(...loops.map((measured) => measured[name]));
    const { isa, threads } = device.info;
    return {
      ...{ value: best, loop_gflops: most("product"), register_gflops: most("registers"), of_loop: share },
      ...{ isa, threads },
    };
  } finally {
    await device.dispose();
  }
}

async function decode(qwen: Qwen): Promise<Measured> {
  const times: number[] = [];
  for await (const { token } of qwen.generate(longPrompt(qwen, 32), { maxNewTokens: 33, endTokens: [] })) {
    if (token !== undefined) times.push(performance.now());
  }
  return { value: (times.length - 1) / ((times[times.length - 1] - times[0]) / 1000) };
}

/** The GGUF file that stands for a model's folder: the model itself, or `model.gguf` in the folder or beside it. */
function ggufOf(dir: string): string | undefined {
  if (dir.endsWith(".gguf")) return dir;
  return [join(dir, "model.gguf"), join(dir, "..", "model.gguf")].find((path) => existsSync(path));
}

/** Every figure of `bench`, by name, in the order they are measured. */
export const FIGURES = {
  /** From nothing to a model that can answer. */
  async load_s({ dir, device }) {
    const started = performance.now();
    const qwen = await Qwen.load(dir, { device });
    const value = (performance.now() - started) / 1000;
    qwen.dispose();
    return { value };
  },
  /** 512 prompt tokens in one forward pass, the last position's logits. */
  prefill512_tokens_per_s(setting) {
    return withModel(setting, async (qwen) => {
      const ids = longPrompt(qwen, 512);
      await prefill(qwen, ids);
      return { value: ids.length / (await seconds(setting.device, () => prefill(qwen, ids))) };
    });
  },
  /** One sequence, a token at a time, after a prompt of 32: 32 tokens after the first. */
  decode_tokens_per_s: (setting) => withModel(setting, decode),
  /** The same with weights rounded to 8 bits, to 4, and as a GGUF file beside the model's folder has them. */
  decode_q8_tokens_per_s: (setting) => withModel(setting, decode, "q8"),
  decode_q4_tokens_per_s: (setting) => withModel(setting, decode, "q4"),
  decode_gguf_tokens_per_s(setting) {
    const dir = ggufOf(setting.dir);
    if (dir === undefined)
      throw new Error(`there is no GGUF file beside ${setting.dir}; give one with --model FILE.gguf`);
    return withModel({ ...setting, dir }, decode);
  },
  /** The program's five rows, three epochs. */
  sft_tokens_per_s(setting) {
    return withModel(setting, async (qwen) => sft(qwen, await seedSequences(qwen), 3));
  },
  /** The same adapter, 4 sequences of 512 tokens, one step. */
  sft512_tokens_per_s(setting) {
    return withModel(setting, (qwen) => sft(qwen, longSequences(qwen), 1));
  },
  /** The engine's matrix product beside what the processor gives at most. */
  gemm_gflops: gemm,
  /** The same in the WebAssembly tier, beside what loops written by hand give there. */
  wasm_gflops: wasm,
  /** Products on the GPU, beside what it gives at most; asked for by name alone. */
  gpu_gflops: gpuProducts,
  /** What computes: its name, and of a GPU adapter, backend, features and limits; asked for by name alone. */
  async device({ device }) {
    return { value: device.info.threads, ...(await describeDevice(device)) };
  },
  /** Memory read in order by all cores. */
  async read_gbytes_per_s({ threads }) {
    return { value: (await measureLimits({ threads })).gbytes };
  },
} satisfies Record<string, (setting: Setting) => Promise<Measured>>;

export type FigureName = keyof typeof FIGURES;
export const FIGURE_NAMES = Object.keys(FIGURES) as FigureName[];

/** The figures that this model has: a GGUF file is not quantised again, and one must be there to be measured. */
export function figuresOf(dir: string): FigureName[] {
  const gguf = ggufOf(dir);
  // A GPU that there is not, or one that is a program, takes minutes to say so.
  const absent: FigureName[] = ["gpu_gflops", "device"];
  if (gguf === undefined) absent.push("decode_gguf_tokens_per_s");
  if (gguf === dir) absent.push("decode_q8_tokens_per_s", "decode_q4_tokens_per_s");
  return FIGURE_NAMES.filter((name) => !absent.includes(name));
}
