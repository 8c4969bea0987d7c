import { describe, expect, test } from "bun:test";
import { tmpdir } from "node:os";
import { Validator } from "@seriousme/openapi-schema-validator";
import { type App, createApp, createLogger, type ServerConfigInput } from "../../apps/server/src/index.ts";
import { EchoBackend } from "../../apps/server/src/testing.ts";
import { type Document, DocumentCheck } from "../support/openapi.ts";

type Json = Record<string, unknown>;
const KEY = "s3cret";
const sha256 = new Bun.CryptoHasher("sha256").update(KEY).digest("hex");
const logger = createLogger("silent");

function start(config: ServerConfigInput = {}, backend = new EchoBackend()): App {
  const common: ServerConfigInput = {
    apiKeys: [{ name: "k", sha256, admin: true }],
    adapterRoot: tmpdir(),
    conversations: ":memory:",
  };
  return createApp({ backend, logger, config: { ...common, ...config } });
}

/** As a client gets it. */
const checked = new DocumentCheck(
  JSON.parse(await (await start().fetch(new Request("http://localhost/openapi.json"))).text()) as Document,
);
const { document } = checked;

const seen = new Set<string>();
interface Asked {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Where the path has parameters, or a query. */
  readonly url?: string;
}

/** Asks, checks the answer against the document, and gives its status and text. */
async function ask(
  app: App,
  method: string,
  path: string,
  asked: Asked = {},
): Promise<{ status: number; text: string }> {
  const { body, headers = { authorization: `Bearer ${KEY}` }, url = path } = asked;
  const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
  const init = { method: method.toUpperCase(), headers: { host: "localhost", ...headers }, body: text };
  const response = await app.fetch(new Request(`http://localhost${url}`, init));
  const said = await response.text();
  expect(checked.wrongs(path, method, response, said)).toEqual([]);
  seen.add(`${method} ${path} ${response.status}`);
  return { status: response.status, text: said };
}

const messages = [{ role: "user", content: "hello world" }];
const TOOL = { type: "function", function: { name: "f", parameters: { type: "object" } } };
const CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>';
const schema = { type: "json_schema", json_schema: { name: "n", schema: { type: "object" } } };

/** Good requests of every route; those with `say` to a model that says just that. */
const GOOD: readonly (readonly [method: string, path: string, asked?: Asked & { say?: string }])[] = [
  ["get", "/health"],
  ["get", "/ready"],
  ["get", "/metrics"],
  ["post", "/chat", { body: { message: "hello world" } }],
  [
    "post",
    "/chat",
    { body: { message: "dropped it", history: messages, adapter: null, context_policy: "trim-oldest" } },
  ],
  ["post", "/chat", { body: { message: "so long", stream: true } }],
  ["post", "/chat", { body: { message: "it is broken", stream: true } }],
  ["post", "/v1/chat/completions", { body: { model: "echo", messages, stream: true }, say: "it is broken" }],
  ["post", "/v1/completions", { body: { model: "echo", prompt: "it is broken", stream: true } }],
  ["post", "/api/chat", { body: { model: "echo", messages }, say: "it is broken" }],
  ["post", "/v1/chat/completions", { body: { model: "echo", messages, n: 2, logprobs: true, top_logprobs: 2 } }],
  ["post", "/v1/chat/completions", { body: { model: "first", messages, response_format: schema } }],
  [
    "post",
    "/v1/chat/completions",
    { body: { model: "echo", messages, stream: true, stream_options: { include_usage: true } } },
  ],
  ["post", "/v1/chat/completions", { body: { model: "echo", messages, tools: [TOOL] }, say: `Well. ${CALL}` }],
  ["post", "/v1/chat/completions", { body: { model: "echo", messages, tools: [TOOL], stream: true }, say: CALL }],
  ["post", "/v1/completions", { body: { model: "echo", prompt: ["a b", "c"], logprobs: 1, n: 2 } }],
  ["post", "/v1/completions", { body: { model: "echo", prompt: "a b", echo: true } }],
  ["post", "/v1/completions", { body: { model: "echo", prompt: "a b", stream: true } }],
  ["post", "/v1/embeddings", { body: { model: "echo", input: ["a", "b"] } }],
  ["post", "/v1/embeddings", { body: { model: "echo", input: [1, 2], encoding_format: "base64" } }],
  ["get", "/v1/models"],
  ["get", "/v1/models/{model}", { url: "/v1/models/first" }],
  ["post", "/api/chat", { body: { model: "echo", messages, stream: false } }],
  ["post", "/api/chat", { body: { model: "echo", messages } }],
  ["post", "/api/chat", { body: { model: "echo", messages: [] } }],
  ["post", "/api/chat", { body: { model: "echo", messages, tools: [TOOL], stream: false }, say: CALL }],
  ["post", "/api/generate", { body: { model: "echo:latest", prompt: "p", stream: false } }],
  ["post", "/api/generate", { body: { model: "echo", prompt: "p" } }],
  ["post", "/api/generate", { body: { model: "echo", prompt: "" } }],
  ["get", "/api/tags"],
  ["get", "/api/ps"],
  ["post", "/api/show", { body: { model: "echo" } }],
  ["post", "/api/show", { body: { model: "first" } }],
  ["post", "/api/embed", { body: { model: "echo", input: "a" } }],
  ["get", "/api/version"],
  ["get", "/adapters"],
  ["post", "/adapters", { body: { path: ".", name: "third", scale: 0.5 } }],
  ["delete", "/adapters/{name}", { url: "/adapters/third" }],
  ["post", "/conversations"],
  ["get", "/conversations"],
  ["get", "/conversations/export"],
  ["delete", "/conversations"],
  ["post", "/tokenize", { body: { content: "ab" } }],
  ["post", "/tokenize", { body: { content: "ab", with_pieces: true } }],
  ["post", "/detokenize", { body: { tokens: [97] } }],
  ["post", "/apply-template", { body: { messages } }],
];
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { responses }]) => ({ method, path, responses })),
);
/** A path with its parameters filled in. */
const filled = (path: string): string => path.replaceAll(/\{\w+\}/g, "nothing");
const bodyOf = (method: string, path: string): unknown =>
  GOOD.find(([m, p, asked]) => m === method && p === path && asked?.body !== undefined)?.[2]?.body;

describe("the OpenAPI document", () => {
  test("is valid by OpenAPI 3.1's own schema", async () => {
    const validator = new Validator();
    expect(await validator.validate(structuredClone(document) as unknown as Json)).toEqual({ valid: true });
    expect(validator.version).toBe("3.1");
    const broken = structuredClone(document) as unknown as { paths: Record<string, Json> };
    broken.paths["/chat"].post = { responses: "none" };
    expect((await new Validator().validate(broken as unknown as Json)).valid).toBe(false);
  });

  test("describes the good answers of every route, without a field more", async () => {
    const backend = new EchoBackend();
    const app = start({}, backend);
    for (const [method, path, asked] of GOOD) {
      backend.answerText = asked?.say;
      const { status, text } = await ask(app, method, path, asked);
      expect({ method, path, status, text: status < 300 ? "" : text }).toMatchObject({ text: "" });
    }
    const { id } = JSON.parse((await ask(app, "post", "/conversations")).text);
    backend.answerText = undefined;
    await ask(app, "post", "/chat", { body: { message: "kept", conversation: id } });
    const url = `/conversations/${id}`;
    expect(JSON.parse((await ask(app, "get", "/conversations/{id}", { url })).text).messages).toHaveLength(2);
    expect((await ask(app, "delete", "/conversations/{id}", { url })).status).toBe(204);
  });

  test("describes the errors of every route: what is wrong, not allowed, not there, too large, too often, too early", async () => {
    const narrow = start({ limits: { bodyBytes: 1024 } });
    const often = start({ requestsPerMinute: 1 });
    const loading = new EchoBackend();
    loading.state = "loading";
    const early = start({}, loading);
    for (const { method, path, responses } of operations) {
      const [url, body] = [filled(path), bodyOf(method, path)];
      const has = (status: number): boolean => String(status) in responses;
      const status = async (app: App, asked: Asked): Promise<number> =>
        (await ask(app, method, path, { url, ...asked })).status;
      const authorization = `Bearer ${KEY}`;
      expect(await status(narrow, { body, headers: { authorization, origin: "https://evil.example" } })).toBe(403);
      if (has(401)) expect(await status(narrow, { body, headers: {} })).toBe(401);
      if (has(400)) expect(await status(narrow, { body: "{" })).toBe(400);
      if (has(413)) expect(await status(narrow, { body: `"${"x".repeat(2000)}"` })).toBe(413);
      if (has(429)) {
        await status(often, { body });
        expect(await status(often, { body })).toBe(429);
      }
      await status(early, { body });
    }
    for (const [method, path, asked] of [
      ["post", "/chat", { body: { message: "x", adapter: "nobody" } }],
      ["post", "/v1/chat/completions", { body: { model: "nobody", messages } }],
      ["post", "/v1/completions", { body: { model: "nobody", prompt: "x" } }],
      ["post", "/v1/embeddings", { body: { model: "nobody", input: "x" } }],
      ["get", "/v1/models/{model}", { url: "/v1/models/nobody" }],
      ["post", "/api/chat", { body: { model: "nobody", messages } }],
      ["post", "/api/generate", { body: { model: "nobody", prompt: "x" } }],
      ["post", "/api/show", { body: { model: "nobody" } }],
      ["post", "/api/embed", { body: { model: "nobody", input: "x" } }],
      ["post", "/adapters", { body: { path: "there/is/no/such" } }],
      ["delete", "/adapters/{name}", { url: "/adapters/nobody" }],
      ["get", "/conversations/{id}", { url: "/conversations/nothing" }],
      ["delete", "/conversations/{id}", { url: "/conversations/nothing" }],
      ["post", "/apply-template", { body: { messages, model: "nobody" } }],
    ] as const)
      expect((await ask(narrow, method, path, asked)).status).toBe(404);

    const app = start();
    const said = (content: string) => [{ role: "user", content }];
    for (const [content, ours, theirs] of [
      ["too long", 422, 400],
      ["broken", 500, 500],
      ["it is late", 408, 408],
    ] as const) {
      expect((await ask(app, "post", "/chat", { body: { message: content } })).status).toBe(ours);
      const asks = { model: "echo", messages: said(content), stream: false };
      expect((await ask(app, "post", "/v1/chat/completions", { body: asks })).status).toBe(theirs);
      expect((await ask(app, "post", "/api/chat", { body: asks })).status).toBe(theirs);
    }
    await app.drain(0);
    expect((await ask(app, "post", "/chat", { body: { message: "x" } })).status).toBe(503);
    expect((await ask(app, "get", "/health")).status).toBe(503);
  });

  test("every answer that it names was given here, but those that need a fault of the model", () => {
    const named = operations.flatMap(({ method, path, responses }) =>
      Object.keys(responses).map((status) => `${method} ${path} ${status}`),
    );
    const needsFault = /(?: 408| 422| 500| 503)$/;
    expect(named.filter((answer) => !seen.has(answer) && !needsFault.test(answer))).toEqual([]);
  });
});
