// llama.cpp's part of streams.ts, through node-llama-cpp: one context with a sequence for each stream, batched by the library.
//   node streams-llama.mjs '{"peers": FOLDER, "model": FILE.gguf, "prompts": [TEXT], "tokens": NUMBER}'
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { pathToFileURL } from "node:url";

const { peers, model: modelPath, prompts: texts, tokens: wanted } = JSON.parse(process.argv[2]);
const { resolve } = createRequire(`${peers}/`);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(resolve("node-llama-cpp")).href);
const threads = availableParallelism();
const llama = await getLlama({
  ...{ gpu: false, build: "never", progressLogs: false, logLevel: LlamaLogLevel.error, maxThreads: threads },
});
const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
const prompts = texts.map((text) => model.tokenize(text, true));
const context = await model.createContext({ sequences: prompts.length, contextSize: 256, batchSize: 512, threads });
const sequences = prompts.map(() => context.getSequence());

async function watch(sequence, tokens, count) {
  const started = performance.now();
  let last = started;
  let first = 0;
  const between = [];
  const answer = [];
  for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
    const now = performance.now();
    if (answer.length === 0) first = now - started;
    else between.push(now - last);
    last = now;
    if (answer.push(token) === count) break;
  }
  return { first, between, answer };
}

await Promise.all(sequences.map((sequence, i) => watch(sequence, model.tokenize(`${i} warms up`, true), 3)));
await Promise.all(sequences.map((sequence) => sequence.clearHistory()));
const started = performance.now();
const watched = await Promise.all(sequences.map((sequence, i) => watch(sequence, prompts[i], wanted)));
const seconds = (performance.now() - started) / 1000;
console.log(
  JSON.stringify({
    promptTokens: prompts.reduce((sum, { length }) => sum + length, 0),
    answers: watched.map(({ answer }) => answer),
    seconds,
    first: watched.map(({ first }) => first),
    between: watched.flatMap(({ between }) => between),
  }),
);
process.exit(0);
