// llama.cpp, through node-llama-cpp: greedy continuations, as a JSON list of texts.
//   node llama_answers.mjs PEERS_FOLDER < jobs.json       jobs: [{model: file, lora?: file, prompt: text, tokens: number}]
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { resolve } = createRequire(`${process.argv[2]}/`);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(resolve("node-llama-cpp")).href);
let input = "";
for await (const chunk of process.stdin) input += chunk;

// One thread: its threads wait for each other by spinning, which takes minutes on a machine with other work to do.
const llama = await getLlama({
  gpu: false,
  build: "never",
  progressLogs: false,
  logLevel: LlamaLogLevel.error,
  maxThreads: 1,
});
const texts = [];
for (const { model: modelPath, lora, prompt, tokens: most } of JSON.parse(input)) {
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
  const adapters = lora ? { lora: { adapters: [{ filePath: lora }] } } : {};
  const context = await model.createContext({ contextSize: 512, batchSize: 512, threads: 1, ...adapters });
  const sequence = context.getSequence();
  const made = [];
  // Ends at the file's own end token: one that is wrong there shows as an answer that does not stop.
  for await (const token of sequence.evaluate(model.tokenize(prompt, true), { temperature: 0 })) {
    made.push(token);
    if (made.length === most) break;
  }
  texts.push({ text: model.detokenize(made), ended: made.length < most });
  await context.dispose();
  await model.dispose();
}
console.log(JSON.stringify(texts));
process.exit(0);
