/**
 * Makes the demo model, byte for byte the same on every machine: corpus, tokenizer, training.
 *
 *     bun models/demo/make.ts [FOLDER]
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { loadTokenizer, type ModelConfig, saveModel } from "../../packages/qwen/src/index.ts";
import { createDevice, type Device } from "../../packages/tensor/src/index.ts";
import { trainBpe } from "./bpe.ts";
import { makeCorpus } from "./corpus.ts";
import { demoConfig, demoGenerationConfig, tokenizerConfigJson, tokenizerJson, vocabularySize } from "./files.ts";
import { RECIPE, type Sequence, type TrainOptions, trainModel } from "./train.ts";

/** Tokens learned from the corpus, the 256 bytes included; three control tokens make it 1,536. */
const TOKENS = 1533;
/** Four Chinese characters. */
const TOKEN_BYTES = 12;

/** WebAssembly rounds alike on every processor (it has no fused multiply-add), and no sum depends on the threads. */
export const makeDevice = (): Promise<Device> => createDevice("cpu", { isa: "wasm" });

/** Writes the tokenizer's files and returns what training needs. */
export async function makeTokenizer(dir: string): Promise<{ config: ModelConfig; sequences: Sequence[] }> {
  const corpus = makeCorpus(RECIPE.seed);
  const bpe = trainBpe(
    corpus.map(({ text }) => text),
    { size: TOKENS, maxBytes: TOKEN_BYTES },
  );
  const config = demoConfig(vocabularySize(bpe));
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, "tokenizer.json"), tokenizerJson(bpe));
  await writeFile(join(dir, "tokenizer_config.json"), tokenizerConfigJson(config.maxPositionEmbeddings));
  const tokenizer = await loadTokenizer(dir, { vocabSize: config.vocabSize });
  return { config, sequences: corpus.map(({ text, group }) => ({ ids: tokenizer.encode(text), group })) };
}

/** Makes all files of the model in a folder. */
export async function makeDemo(dir: string, device: Device, onStep?: TrainOptions["onStep"]): Promise<void> {
  const { config, sequences } = await makeTokenizer(dir);
  const { model, losses } = await trainModel(config, sequences, device, { onStep });
  await saveModel(dir, model, demoGenerationConfig(config));
  await writeFile(join(dir, "losses.json"), `${JSON.stringify(losses, null, 1)}\n`);
  model.dispose();
}

if (import.meta.main) {
  const dir = process.argv[2] ?? import.meta.dir;
  const start = performance.now();
  const device = await makeDevice();
  await makeDemo(dir, device, (step, steps, loss) => {
    const seconds = ((performance.now() - start) / 1000).toFixed(0);
    if (step % 20 === 0 || step === steps)
      console.error(`step ${step}/${steps}  loss ${loss.toFixed(3)}  ${seconds} s`);
  });
  await device.dispose();
  console.log(dir);
}
