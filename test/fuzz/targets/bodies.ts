import { tmpdir } from "node:os";
import { createApp, createLogger } from "../../../apps/server/src/index.ts";
import { EchoBackend } from "../../../apps/server/src/testing.ts";
import { check, type FuzzTarget, partsOf } from "../target.ts";

// What the server uses of Bun, and Node 20 has not. An answer takes no time there.
globalThis.Bun ??= { sleep: () => Promise.resolve() } as unknown as typeof Bun;
Promise.withResolvers ??= <T>() => {
  const made = {} as PromiseWithResolvers<T>;
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};
Uint8Array.prototype.toBase64 ??= function (this: Uint8Array) {
  return Buffer.from(this).toString("base64");
};

const MESSAGES = [{ role: "user", content: "hi" }];
const TOOL = { type: "function", function: { name: "f", description: "d", parameters: { type: "object" } } };
const SEEDS: readonly (readonly [path: string, body: unknown])[] = [
  [
    "/chat",
    { message: "hi", history: MESSAGES, adapter: null, max_tokens: 3, temperature: 0.5, stream: true, seed: 1 },
  ],
  [
    "/v1/chat/completions",
    { model: "echo", messages: MESSAGES, tools: [TOOL], tool_choice: "auto", logprobs: true, n: 2 },
  ],
  [
    "/v1/chat/completions",
    {
      model: "echo",
      messages: [...MESSAGES, { role: "assistant", content: [{ type: "text", text: "x" }] }, ...MESSAGES],
      response_format: { type: "json_schema", json_schema: { name: "n", schema: { type: "object" } } },
      stop: ["a"],
      logit_bias: { 1: 2 },
      stream: true,
      stream_options: { include_usage: true },
    },
  ],
  ["/v1/completions", { model: "first", prompt: ["a", "b"], logprobs: 2, echo: true, max_tokens: 3, suffix: null }],
  ["/v1/embeddings", { model: "echo", input: [[1, 2], [3]], encoding_format: "base64", dimensions: 2 }],
  ["/api/chat", { model: "echo", messages: MESSAGES, stream: false, format: "json", options: { num_predict: 3 } }],
  [
    "/api/generate",
    { model: "echo", prompt: "p", system: "s", raw: false, options: { stop: ["x"] }, keep_alive: "5m" },
  ],
  ["/api/show", { model: "echo", verbose: true }],
  ["/api/embed", { model: "echo", input: ["a"], truncate: true }],
  ["/tokenize", { content: "text", add_special: true }],
  ["/detokenize", { tokens: [104, 105] }],
  ["/apply-template", { messages: MESSAGES, adapter: "first" }],
  ["/adapters", { name: "a", path: ".", scale: 0.5 }],
];

const app = createApp({
  backend: new EchoBackend(),
  logger: createLogger("error"),
  config: { adapterRoot: tmpdir(), limits: { concurrency: 1000, queue: 1000, perClient: 2000 } },
});

/** Bodies of all routes: a path, NUL, and what is sent there. Each is answered, never with a fault of the server. */
export const target: FuzzTarget = {
  words: [
    ...new Set(SEEDS.flatMap(([path, body]) => [path, ...Object.keys(body as object).map((key) => `"${key}":`)])),
  ],
  maxLength: 1024,
  seeds: () => SEEDS.map(([path, body]) => `${path}\0${JSON.stringify(body)}`),
  async fuzz(data) {
    const [path] = partsOf(data, 1);
    if (!URL.canParse(path, "http://localhost") || !path.startsWith("/") || path.startsWith("//")) return;
    const body = data.slice(data.indexOf(0) + 1);
    const headers = { host: "localhost" };
    const url = new URL(path, "http://localhost");
    const response = await app.fetch(new Request(url, { method: "POST", headers, body }));
    const said = await response.text();
    // 503: what the echo has not, such as a limit that is full.
    check(response.status < 500 || response.status === 503, () => `${response.status} ${said}`);
    if (response.status < 400) return;
    const { error } = JSON.parse(said);
    const message: unknown = url.pathname.startsWith("/api/") ? error : error?.message;
    check(typeof message === "string" && message.length > 0, () => `${response.status} without a word: ${said}`);
  },
};
