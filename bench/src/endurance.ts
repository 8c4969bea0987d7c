#!/usr/bin/env bun
import { heapStats } from "bun:jsc";
import { CommandError, type Context, checked, locateModel, memoryNow, modelCommand, openDevice, run } from "@tslm/cli";
import { train } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { memory } from "@tslm/tensor";
import { z } from "zod";
import { flatness, RULE, type Sample } from "./endurance-rule.ts";
import { benchAdapter, longPrompt, seedSequences, withModel } from "./figures.ts";

/** Tokens of an answer, and of the longest and shortest prompt. */
const ANSWER = 64;
const LONGEST = 512;
const SHORTEST = 16;

const positive = checked(z.coerce.number<string>().positive());

function endurance(context: Context) {
  return modelCommand(
    context,
    "bench:endurance",
    `Generate, or train, for long and look whether memory stays flat; exit status 1 where it does not. ${RULE}`,
    [
      ["bun run bench:endurance --minutes 30 --threads 1", "sampled answers of 64 tokens after prompts of 16 to 512"],
      ["bun run bench:endurance --steps 1000", "training instead, one of the program's five rows a step"],
    ],
  )
    .option("--minutes <minutes>", "how long to generate", positive, 30)
    .option("--steps <steps>", "train for so many steps instead", checked(z.coerce.number<string>().int().positive()))
    .option("--every <seconds>", "from one printed line to the next", positive, 60)
    .action(async ({ minutes, steps, every, model, device: kind, threads, json }) => {
      const { terminal, signal } = context;
      context.kept = "Memory until here was printed.";
      const { dir, name } = await locateModel(context, model);
      const device = await openDevice({ device: kind, threads });
      const work = steps ? `${steps} training steps` : `answers for ${minutes} minutes`;
      terminal.say(`${name}, ${device.info.isa}, ${device.info.threads} threads: ${work}.`);
      const watch = new Watch(every, (sample) => (json ? terminal.json(sample) : terminal.print(line(sample))));
      await withModel({ dir, device, threads }, (qwen) =>
        steps ? trainSteps(qwen, steps, watch, signal) : generate(qwen, minutes * 60, watch, signal),
      );
      await device.dispose();
      const { flat, says } = flatness(watch.samples);
      if (!flat) throw new CommandError(says);
      terminal.say(says);
    });
}

/** Answers one prompt after another, each with other lengths and another seed. */
async function generate(qwen: Qwen, seconds: number, watch: Watch, signal: AbortSignal): Promise<void> {
  const text = longPrompt(qwen, Math.min(LONGEST, qwen.model.config.maxPositionEmbeddings - ANSWER));
  for (let answer = 0; watch.elapsed < seconds; answer++) {
    const tokens = text.slice(0, SHORTEST + ((answer * 37) % (text.length - SHORTEST + 1)));
    let made = 0;
    const options = { maxNewTokens: ANSWER, endTokens: [], temperature: 1, seed: answer, signal };
    for await (const { token } of qwen.generate(tokens, options)) if (token !== undefined) made++;
    signal.throwIfAborted();
    watch.note(made);
  }
}

/** Trains as `sft_tokens_per_s` does, but a row a step. */
async function trainSteps(qwen: Qwen, steps: number, watch: Watch, signal: AbortSignal): Promise<void> {
  const sequences = await seedSequences(qwen);
  const epochs = Math.ceil(steps / sequences.length);
  const options = { epochs, lr: 2e-4, batch: 1, gradAccum: 1, shuffle: false };
  await train({
    ...{ model: qwen.model, lora: benchAdapter(qwen), sequences, options, signal },
    onStep: ({ step, tokens, loss }) => {
      if (!Number.isFinite(loss)) throw new Error(`the loss of step ${step} is not a number`);
      watch.note(tokens);
      return step === steps ? "stop" : undefined;
    },
  });
}

/** Takes a sample every so many seconds. */
class Watch {
  readonly samples: Sample[] = [];
  readonly #every: number;
  readonly #take: (sample: Sample) => void;
  readonly #started = performance.now();
  #tokens = 0;
  #anonymous = 0;

  constructor(every: number, take: (sample: Sample) => void) {
    this.#every = every;
    this.#take = take;
  }

  /** Seconds since the start. */
  get elapsed(): number {
    return (performance.now() - this.#started) / 1000;
  }

  /** Says that an answer or a step is done. */
  note(tokens: number): void {
    this.#tokens += tokens;
    const { rss_bytes, rss_file_bytes } = memoryNow();
    this.#anonymous = Math.max(this.#anonymous, rss_bytes - rss_file_bytes);
    const seconds = this.elapsed;
    const last = this.samples.at(-1) ?? { seconds: 0, tokens: 0 };
    if (seconds - last.seconds < this.#every) return;
    const { storages, bytes } = memory();
    const sample: Sample = {
      ...{ seconds, tokens: this.#tokens, tokens_per_s: (this.#tokens - last.tokens) / (seconds - last.seconds) },
      ...{ rss_anonymous_bytes: this.#anonymous, rss_file_bytes, heap_bytes: heapBytes() },
      ...{ tensors: storages, tensor_bytes: bytes },
    };
    this.#anonymous = 0;
    this.samples.push(sample);
    this.#take(sample);
  }
}

/** Bytes of JavaScript's own objects: without what they hold outside of the heap, among it the mapped weights. */
function heapBytes(): number {
  const { heapSize, extraMemorySize } = heapStats();
  return heapSize - extraMemorySize;
}

function line(sample: Sample): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  return [
    `${(sample.seconds / 60).toFixed(1)} min: ${sample.tokens} tokens, ${sample.tokens_per_s.toFixed(1)} a second`,
    `MB: ${megabytes(sample.rss_anonymous_bytes)} anonymous, ${megabytes(sample.rss_file_bytes)} mapped files, ${megabytes(sample.heap_bytes)} heap`,
    `${sample.tensors} tensors of ${megabytes(sample.tensor_bytes)} MB`,
  ].join("; ");
}

await run(endurance);
