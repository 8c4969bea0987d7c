#!/usr/bin/env bun
/**
 * How fast the engine answers many at once, without HTTP: tokens a second in all, milliseconds until the first token and
 * between tokens, and what a prompt costs that was read before.
 *
 *   bun bench/src/streams.ts --model path/to/model [--streams 1,4,16,64] [--tokens 48] [--quantize q8]
 */
import { parseArgs } from "node:util";
import { Engine, type EngineUsage, type Quantization, Qwen } from "@tslm/qwen";
import { createDevice, setDefaultDevice } from "@tslm/tensor";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    streams: { type: "string", default: "1,4,16,64" },
    /** Tokens of each answer. */
    tokens: { type: "string", default: "48" },
    quantize: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
if (!flags.model) throw new Error("--model wants a model's folder or a GGUF file");
const device = await createDevice("cpu");
setDefaultDevice(device);
const qwen = await Qwen.load(flags.model, { quantize: flags.quantize as Quantization | undefined });
const { tokenizer } = qwen;

/** Another question for each stream, about 40 tokens with the template. */
const promptOf = (stream: number): number[] =>
  tokenizer.encode(
    tokenizer.renderChat([
      { role: "user", content: `Question ${stream}: what is the number ${stream * 17 + 3} known for?` },
    ]),
  );

interface Watched {
  /** Milliseconds. */
  readonly first: number;
  readonly between: readonly number[];
  readonly usage: EngineUsage;
}

async function watch(engine: Engine, tokens: readonly number[], maxNewTokens: number): Promise<Watched> {
  const started = performance.now();
  let last = started;
  let first = 0;
  const between: number[] = [];
  for await (const event of engine.generate({ tokens, maxNewTokens, ignoreEnd: true })) {
    if (event.usage) return { first, between, usage: event.usage };
    const now = performance.now();
    if (first === 0) first = now - started;
    else between.push(now - last);
    last = now;
  }
  throw new Error("an answer ended without an end");
}

/** The value that the share `p` of all are at most. */
const percentile = (values: readonly number[], p: number): number =>
  values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(p * values.length) - 1)] ?? Number.NaN;
const rounded = (value: number): number => Number(value.toPrecision(4));

const figures: Record<string, unknown>[] = [];
for (const streams of flags.streams.split(",").map(Number)) {
  // Cold for every number of streams: no prompt was read before.
  await using engine = new Engine(qwen.model, tokenizer, { proposedTokens: 0 });
  await watch(engine, promptOf(1000), 2);
  const started = performance.now();
  const count = Number(flags.tokens);
  const watched = await Promise.all(Array.from({ length: streams }, (_, i) => watch(engine, promptOf(i), count)));
  const seconds = (performance.now() - started) / 1000;
  const between = watched.flatMap((each) => each.between);
  const first = watched.map((each) => each.first);
  figures.push({
    streams,
    tokens_per_s: rounded((streams * count) / seconds),
    first_token_ms: { p50: rounded(percentile(first, 0.5)), p99: rounded(percentile(first, 0.99)) },
    between_tokens_ms: { p50: rounded(percentile(between, 0.5)), p99: rounded(percentile(between, 0.99)) },
  });
}

await using engine = new Engine(qwen.model, tokenizer);
const long = tokenizer.encode("The quick brown fox jumps over the lazy dog. ".repeat(60)).slice(0, 400);
await watch(engine, promptOf(1000), 2);
const fresh = await watch(engine, long, 1);
const again = await watch(engine, long, 1);
figures.push({
  prompt_tokens: long.length,
  first_token_ms: rounded(fresh.first),
  repeated_first_token_ms: rounded(again.first),
  reused_tokens: again.usage.cachedTokens,
});
for (const figure of figures) console.log(flags.json ? JSON.stringify(figure) : figure);
qwen.dispose();
await engine.dispose();
await device.dispose();
process.exit(0);
