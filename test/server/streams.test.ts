/** Streams of a model that computes, held to the OpenAPI document that the same server gives: each event and each line. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { type Document, DocumentCheck, eventsOf } from "../support/openapi.ts";
import { temporaryFolder } from "../support/process.ts";
import { type Served, serveProcess, writeToolModel } from "../support/server.ts";

setDefaultTimeout(60_000);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let served: Served;
let checked: DocumentCheck;

beforeAll(async () => {
  home = await temporaryFolder();
  const model = join(home.path, "tools");
  await writeToolModel(model);
  served = await serveProcess(["--model", model, "--log-level", "error", "--cache-mb", "16"]);
  checked = new DocumentCheck((await (await fetch(`${served.url}/openapi.json`)).json()) as Document);
});
afterAll(async () => {
  await served[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
});

/** The body of a stream in which nothing is wrong by the document. */
async function streamOf(path: string, body: object): Promise<string> {
  const response = await fetch(`${served.url}${path}`, { method: "POST", body: JSON.stringify(body) });
  const text = await response.text();
  expect([response.status, response.status === 200 ? "" : text]).toEqual([200, ""]);
  expect(checked.wrongs(path, "post", response, text)).toEqual([]);
  return text;
}

interface Chunk {
  readonly choices: readonly {
    readonly index: number;
    readonly text?: string;
    readonly delta?: { readonly role?: string; readonly content?: string; readonly tool_calls?: readonly unknown[] };
    readonly logprobs: { readonly content?: readonly unknown[]; readonly tokens?: readonly unknown[] } | null;
    readonly finish_reason: string | null;
  }[];
  readonly usage?: { readonly completion_tokens: number } | null;
}
/** The chunks of a stream that ends with `[DONE]`, in which each choice ends once and says nothing after. */
function chunksOf(stream: string, n: number): Chunk[] {
  const events = eventsOf(stream);
  expect(events.at(-1)).toBe("[DONE]");
  const chunks = events.slice(0, -1).map((data) => JSON.parse(data) as Chunk);
  for (let index = 0; index < n; index++) {
    const own = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
    expect(own.filter(({ finish_reason }) => finish_reason !== null)).toEqual([own.at(-1)!]);
  }
  return chunks;
}

const messages = [{ role: "user", content: "免费空间有多大?" }];
const parameters = {
  type: "object",
  properties: { x: { enum: [1, 22] } },
  required: ["x"],
  additionalProperties: false,
};
const TOOL = { type: "function", function: { name: "f", parameters } };

describe("every event of a stream is as the document says", () => {
  test("/v1/chat/completions: several choices, log-probabilities, usage, sampling of all kinds", async () => {
    const body = { messages, stream: true, max_tokens: 24, stream_options: { include_usage: true } };
    const sampled = { temperature: 1.5, top_p: 0.95, min_p: 0.01, typical_p: 0.99, seed: 3, presence_penalty: 0.5 };
    const model = served.model;
    const two = await streamOf("/v1/chat/completions", {
      ...{ ...body, ...sampled, model, n: 2, logprobs: true, top_logprobs: 3, stop: ["\n\n"] },
    });
    const chunks = chunksOf(two, 2);
    const { usage } = chunks.at(-1)!;
    expect(chunks.at(-1)!.choices).toEqual([]);
    // Each token's log-probability is told once, also where its text is held back.
    const told = chunks.flatMap(({ choices }) => choices.flatMap(({ logprobs }) => logprobs?.content ?? []));
    expect(told.length).toBeGreaterThanOrEqual(usage!.completion_tokens);
    expect(chunks.filter(({ choices }) => choices[0]?.delta?.role === "assistant")).toHaveLength(2);
    for (const { usage: early } of chunks.slice(0, -1)) expect(early).toBeNull();

    const plain = chunksOf(await streamOf("/v1/chat/completions", { model, messages, stream: true }), 1);
    for (const chunk of plain) expect("usage" in chunk).toBe(false);
    const schema = { type: "object", properties: { gb: { enum: [15, 100] } }, required: ["gb"] };
    const format = {
      type: "json_schema",
      json_schema: { name: "s", schema: { ...schema, additionalProperties: false } },
    };
    const shaped = await streamOf("/v1/chat/completions", { ...body, model, response_format: format });
    const said = chunksOf(shaped, 1).flatMap(({ choices }) => choices.map(({ delta }) => delta?.content ?? ""));
    expect([15, 100]).toContain(JSON.parse(said.join("")).gb);
  });

  test("/v1/chat/completions: calls of tools", async () => {
    const body = { model: served.model, messages, stream: true, max_tokens: 60, tools: [TOOL] };
    const forced = await streamOf("/v1/chat/completions", { ...body, tool_choice: "required" });
    const chunks = chunksOf(forced, 1);
    expect(chunks.flatMap(({ choices }) => choices.flatMap(({ delta }) => delta?.tool_calls ?? []))).toHaveLength(1);
    expect(chunks.at(-1)!.choices[0].finish_reason).toBe("tool_calls");
    chunksOf(await streamOf("/v1/chat/completions", body), 1);
  });

  test("/v1/completions: several prompts and choices, log-probabilities, echo, usage", async () => {
    const stream = await streamOf("/v1/completions", {
      ...{ model: served.model, prompt: ["免费", "你好"], n: 2, max_tokens: 8, logprobs: 2, stream: true, seed: 1 },
      ...{ temperature: 1, stream_options: { include_usage: true } },
    });
    const chunks = chunksOf(stream, 4);
    const told = chunks.flatMap(({ choices }) => choices.flatMap(({ logprobs }) => logprobs?.tokens ?? []));
    expect(told).toHaveLength(chunks.at(-1)!.usage!.completion_tokens);
    const echoed = await streamOf("/v1/completions", {
      ...{ model: served.model, prompt: "免费", echo: true, max_tokens: 4, stream: true },
    });
    expect(chunksOf(echoed, 1)[0].choices[0].text).toBe("免费");
  });

  test("/chat, its dropped tokens with it", async () => {
    const history = Array.from({ length: 60 }, (_, i) => ({
      role: i % 2 === 0 ? "user" : "assistant",
      content: "免费空间有多大?".repeat(20),
    }));
    const long = { message: "你好", history, stream: true, max_tokens: 8, context_policy: "trim-oldest" };
    const events = eventsOf(await streamOf("/chat", long));
    expect(JSON.parse(events.at(-2)!).dropped_tokens).toBeGreaterThan(0);
    expect(events.at(-1)).toBe("[DONE]");
    await streamOf("/chat", { message: "你好", stream: true, max_tokens: 40, temperature: 2 });
  });

  test("/api/chat and /api/generate: each line", async () => {
    const model = served.model;
    const options = { temperature: 1.2, seed: 5, num_predict: 20 };
    for (const [path, body] of [
      ["/api/chat", { model, messages, options }],
      ["/api/chat", { model, messages, format: "json", tools: [TOOL], options }],
      ["/api/generate", { model, prompt: "免费", options }],
      ["/api/generate", { model, prompt: "免费", raw: true, options }],
    ] as const) {
      const lines = (await streamOf(path, body)).trim().split("\n");
      const isDone = lines.map((line) => (JSON.parse(line) as { done: boolean }).done);
      expect(isDone).toEqual([...Array(lines.length - 1).fill(false), true]);
    }
  });
});
