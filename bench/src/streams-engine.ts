// The engine's part of streams.ts, in a process of its own. Some answers are computed alone beforehand; the batch must give the same.
import { Engine, Qwen } from "@tslm/qwen";
import { createDevice, setDefaultDevice } from "@tslm/tensor";
import { z } from "zod";

const order = z
  .object({
    model: z.string(),
    quantize: z.enum(["q8", "q4"]).optional(),
    prompts: z.array(z.string()),
    tokens: z.int(),
  })
  .parse(JSON.parse(process.argv[2]));

const device = await createDevice("cpu");
setDefaultDevice(device);
const { model, tokenizer } = await Qwen.load(order.model, { quantize: order.quantize });
const prompts = order.prompts.map((text) => tokenizer.encode(text));
/** Nothing is guessed ahead, so that every token is one step; nothing was read before. */
const newEngine = (): Engine => new Engine(model, tokenizer, { proposedTokens: 0 });

const checked = prompts.length === 1 ? [] : [0, prompts.length - 1];
const alone = new Map<number, readonly number[]>();
for (const stream of checked) {
  await using engine = newEngine();
  alone.set(stream, (await watch(engine, prompts[stream], order.tokens)).answer);
}

await using engine = newEngine();
// Kernels are made and weights touched for as many rows as will run.
await Promise.all(prompts.map((_, i) => watch(engine, tokenizer.encode(`${i} warms up`), 3)));
const started = performance.now();
const watched = await Promise.all(prompts.map((tokens) => watch(engine, tokens, order.tokens)));
const seconds = (performance.now() - started) / 1000;
const answers = watched.map(({ answer }) => answer);
for (const [stream, answer] of alone) {
  if (Bun.deepEquals(answers[stream], answer)) continue;
  throw new Error(`stream ${stream} of ${prompts.length} is answered otherwise alone`);
}

console.log(
  JSON.stringify({
    promptTokens: prompts.reduce((sum, { length }) => sum + length, 0),
    answers,
    seconds,
    first: watched.map(({ first }) => first),
    between: watched.flatMap(({ between }) => between),
    repeated: prompts.length === 1 ? await repeatedPrompt() : undefined,
  }),
);
process.exit(0);

async function watch(engine: Engine, tokens: readonly number[], maxNewTokens: number) {
  const started = performance.now();
  let last = started;
  let first = 0;
  const between: number[] = [];
  const answer: number[] = [];
  for await (const event of engine.generate({ tokens, maxNewTokens, ignoreEnd: true })) {
    if (event.usage) return { first, between, answer, usage: event.usage };
    const now = performance.now();
    if (answer.length === 0) first = now - started;
    else between.push(now - last);
    last = now;
    answer.push(...event.tokens);
  }
  throw new Error("an answer ended without an end");
}

/** What a prompt of 400 tokens costs until its first token: new, and when it was read before. */
async function repeatedPrompt() {
  const long = tokenizer.encode("The quick brown fox jumps over the lazy dog. ".repeat(60)).slice(0, 400);
  const fresh = await watch(engine, long, 1);
  const again = await watch(engine, long, 1);
  const reused = again.usage.cachedTokens;
  return { tokens: long.length, reused, fresh: fresh.first, again: again.first };
}
