#!/usr/bin/env bun
/**
 * Many answers at once, without HTTP: tokens a second in all (reading the prompts included), milliseconds until the first
 * token and between tokens, for the engine with each kind of weights and for llama.cpp, in turn, each in a process of its own.
 *
 *   bun bench/src/streams.ts --model DIR [--gguf FILE] [--streams 1,4,16,64] [--tokens 64]
 *                            [--contenders bf16,q8,q4,gguf,llama.cpp] [--llama DIR] [--json]
 *
 * --llama: the folder where `npm install node-llama-cpp` was run; else $QWEN_PEERS. llama.cpp and `gguf` take the same file.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { z } from "zod";
import { promptOf, sameBeginning, summary } from "./streams-work.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    gguf: { type: "string" },
    llama: { type: "string", default: process.env.QWEN_PEERS },
    streams: { type: "string", default: "1,4,16,64" },
    /** Tokens of each answer. */
    tokens: { type: "string", default: "64" },
    contenders: { type: "string", default: "bf16,q8,q4,gguf,llama.cpp" },
    json: { type: "boolean", default: false },
  },
});
if (!flags.model) throw new Error("--model wants a model's folder");
const tokens = Number(flags.tokens);

/** What a child prints. */
const outcome = z.object({
  /** Tokens of the prompts, and of each answer. */
  promptTokens: z.number(),
  answers: z.array(z.array(z.number())),
  seconds: z.number(),
  /** Milliseconds. */
  first: z.array(z.number()),
  between: z.array(z.number()),
  /** The first token of a prompt of 400 tokens, new and known, milliseconds. */
  repeated: z.object({ tokens: z.number(), reused: z.number(), fresh: z.number(), again: z.number() }).optional(),
});
type Outcome = z.output<typeof outcome>;

/** The command of a contender, or why there is none. */
function commandOf(contender: string, order: object): string[] | string {
  const script = (name: string): string => Bun.fileURLToPath(new URL(name, import.meta.url));
  const engine = (more: object): string[] => {
    return [process.execPath, script("./streams-engine.ts"), JSON.stringify({ ...order, ...more })];
  };
  if (contender === "bf16") return engine({ model: flags.model });
  if (contender === "q8" || contender === "q4") return engine({ model: flags.model, quantize: contender });
  if (!flags.gguf) return "it needs --gguf FILE";
  if (contender === "gguf") return engine({ model: flags.gguf });
  if (contender !== "llama.cpp") throw new Error(`--contenders: of bf16, q8, q4, gguf, llama.cpp, not "${contender}"`);
  const node = Bun.which("node");
  if (!node) return "it needs Node";
  if (!flags.llama || !existsSync(join(flags.llama, "node_modules", "node-llama-cpp")))
    return "node-llama-cpp is not here; run `npm install node-llama-cpp` in a folder and give that with --llama";
  return [node, script("./streams-llama.mjs"), JSON.stringify({ ...order, peers: flags.llama, model: flags.gguf })];
}

async function run(command: string[], name: string): Promise<Outcome> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
  const printed = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${name} could not be measured`);
  return outcome.parse(JSON.parse(printed.trim().split("\n").at(-1)!));
}

for (const streams of flags.streams.split(",").map(Number)) {
  const order = { prompts: Array.from({ length: streams }, (_, i) => promptOf(i)), tokens };
  const outcomes = new Map<string, Outcome>();
  for (const contender of flags.contenders.split(",")) {
    const command = commandOf(contender, order);
    if (typeof command === "string") {
      console.error(`${contender} skipped: ${command}`);
      continue;
    }
    const measured = await run(command, `${contender} with ${streams} streams`);
    outcomes.set(contender, measured);
    const rate = (streams * tokens) / measured.seconds;
    const peer = outcomes.get("gguf");
    const { repeated } = measured;
    const row = {
      ...{ contender, streams, prompt_tokens: measured.promptTokens, tokens_per_s: rounded(rate) },
      ...{ first_token_ms: summary(measured.first), between_tokens_ms: summary(measured.between) },
      ...(repeated && {
        repeated_prompt: {
          ...{ tokens: repeated.tokens, reused: repeated.reused },
          ...{ first_token_ms: rounded(repeated.fresh), again_ms: rounded(repeated.again) },
        },
      }),
      // The same weights: what both go on with is the same until rounding decides otherwise.
      ...(contender === "llama.cpp" && peer && { same_as_gguf: sameBeginning(peer.answers, measured.answers) }),
    };
    console.log(flags.json ? JSON.stringify(row) : row);
  }
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
