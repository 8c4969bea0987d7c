import { afterEach, describe, expect, test } from "bun:test";
import pino from "pino";
import { type AppOptions, createApp } from "./app.ts";
import { hashOfKey } from "./http/auth.ts";
import { type RunningServer, serve } from "./serve.ts";
import { EchoBackend } from "./testing.ts";

const running: RunningServer[] = [];
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop(0);
});

function start({ backend = new EchoBackend(), ...options }: Partial<AppOptions> & { backend?: EchoBackend } = {}) {
  const lines: string[] = [];
  const logger = pino({}, { write: (line: string) => lines.push(line) });
  const server = serve({ app: createApp({ logger, ...options, backend }), port: 0, host: "127.0.0.1" });
  running.push(server);
  const post = (path: string, body: unknown, init: RequestInit = {}) =>
    fetch(`${server.url}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: typeof body === "string" || body instanceof Uint8Array ? (body as string) : JSON.stringify(body),
      ...init,
    });
  const chat = (body: unknown, init?: RequestInit) => post("/chat", body, init);
  const get = async (path: string, headers: Record<string, string> = {}) => fetch(`${server.url}${path}`, { headers });
  return { backend, server, post, chat, get, lines };
}
async function errorOf(response: Response) {
  const { error } = (await response.json()) as { error: { message: string; type: string; param?: string } };
  return { status: response.status, ...error };
}

async function until(what: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !what(); i++) await Bun.sleep(10);
  expect(what()).toBe(true);
}

describe("POST /chat", () => {
  test("answers with reply, model, adapter, finish_reason and usage", async () => {
    const { chat, backend } = start();
    const response = await chat({ message: "免费空间 有多大?" });
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({
      reply: "免费空间 有多大?",
      model: "echo",
      adapter: "first",
      finish_reason: "stop",
      usage: { prompt_tokens: 9, completion_tokens: 2 },
    });
    expect(backend.requests[0]).toMatchObject({
      prompt: { messages: [{ role: "user", content: "免费空间 有多大?" }] },
      adapter: "first",
      maxTokens: 512,
      contextPolicy: "error",
      sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
    });
  });

  test("passes history, adapter and sampling on; null is the base model", async () => {
    const { chat, backend } = start();
    const history = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "1+1?" },
      { role: "assistant", content: "2" },
    ];
    const sampling = { max_tokens: 7, temperature: 0.5, top_p: 0.9, top_k: 20, seed: 3 };
    const { adapter } = (await (await chat({ message: "why?", history, adapter: null, ...sampling })).json()) as {
      adapter: unknown;
    };
    expect(adapter).toBeNull();
    expect(backend.requests[0]).toMatchObject({
      prompt: { messages: [...history, { role: "user", content: "why?" }] },
      adapter: null,
      maxTokens: 7,
      sampling: { temperature: 0.5, topP: 0.9, topK: 20, seed: 3 },
    });
    await chat({ message: "x", adapter: "second" });
    expect(backend.requests[1].adapter).toBe("second");
  });

  test("streams deltas, then how it ended, then [DONE]", async () => {
    const { chat } = start();
    const response = await chat({ message: "您好 world", stream: true });
    expect(response.headers.get("content-type")).toStartWith("text/event-stream");
    expect(await response.text()).toBe(
      [
        '{"delta":"您好 "}',
        '{"delta":"world"}',
        '{"finish_reason":"stop","usage":{"prompt_tokens":8,"completion_tokens":2}}',
        "[DONE]",
      ]
        .map((data) => `data: ${data}\n\n`)
        .join(""),
    );
  });

  test("streams a piece as soon as it is there", async () => {
    const backend = new EchoBackend();
    backend.pause = 100;
    const { chat } = start({ backend });
    const response = await chat({ message: "a b c", stream: true });
    const reader = response.body!.getReader();
    const { value } = await reader.read();
    expect(new TextDecoder().decode(value)).toBe('data: {"delta":"a "}\n\n');
    expect(backend.active).toBe(1);
    await reader.cancel();
  });

  const bad: [string, unknown, string | undefined, string][] = [
    ["malformed JSON", '{"message": ', undefined, "not valid JSON"],
    ["an empty body", "", undefined, "not valid JSON"],
    ["bytes that are no UTF-8", new Uint8Array([0x22, 0xff, 0xfe, 0x22]), undefined, "not UTF-8"],
    ["a list", [], undefined, "must be a JSON object with a message, but is a list"],
    ["null", null, undefined, "but is null"],
    ["no message", {}, "message", "message must be a text, but is missing"],
    ["a number for a message", { message: 1 }, "message", "must be a text, but is 1"],
    ["an empty message", { message: "" }, "message", "must not be empty"],
    ["half a surrogate pair", '{"message": "\\ud83d"}', "message", "surrogate"],
    ["a long message", { message: "x".repeat(40_000) }, "message", "longer than 32768"],
    ["a history that is a text", { message: "x", history: "y" }, "history", "a list of {role, content}"],
    [
      "an unknown role",
      { message: "x", history: [{ role: "tool", content: "y" }] },
      "history[0].role",
      'but is "tool"',
    ],
    ["a message without content", { message: "x", history: [{ role: "user" }] }, "history[0].content", "missing"],
    ["a long history", { message: "x", history: Array(201).fill({ role: "user", content: "y" }) }, "history", "200"],
    ["max_tokens 0", { message: "x", max_tokens: 0 }, "max_tokens", "a whole number from 1 to 4096, but is 0"],
    ["max_tokens 1.5", { message: "x", max_tokens: 1.5 }, "max_tokens", "but is 1.5"],
    ["max_tokens as text", { message: "x", max_tokens: "9" }, "max_tokens", "but is a text"],
    ["more tokens than allowed", { message: "x", max_tokens: 5000 }, "max_tokens", "4096"],
    ["a negative temperature", { message: "x", temperature: -1 }, "temperature", "from 0 to 2"],
    ["a temperature beyond numbers", '{"message": "x", "temperature": 1e999}', "temperature", "from 0 to 2"],
    ["top_p 0", { message: "x", top_p: 0 }, "top_p", "above 0"],
    ["top_k -1", { message: "x", top_k: -1 }, "top_k", "from 0"],
    ["a seed of -1", { message: "x", seed: -1 }, "seed", "from 0"],
    ["stream as text", { message: "x", stream: "yes" }, "stream", "true or false"],
    ["an adapter that is a number", { message: "x", adapter: 3 }, "adapter", "name of an adapter or null"],
    ["an unknown field", { message: "x", max_token: 3 }, "max_token", "not known"],
    ["__proto__", '{"message": "x", "__proto__": 3}', undefined, ""],
    ["a text of quotes that never ends", `{"message": "${'\\"'.repeat(400_000)}`, undefined, "not valid JSON"],
    ["deep nesting", `{"message": ${"[".repeat(100_000)}${"]".repeat(100_000)}}`, undefined, "more than 32 deep"],
  ];
  test.each(bad)("400 for %s", async (_, body, param, message) => {
    const { chat, backend } = start();
    const error = await errorOf(await chat(body));
    expect(error).toMatchObject({ status: 400, type: "invalid_request" });
    if (message !== "") expect(error.param).toBe(param as never);
    expect(error.message).toContain(message);
    expect(backend.requests).toHaveLength(0);
  });

  test("404 for an unknown adapter, naming those there are", async () => {
    const { chat } = start();
    expect(await errorOf(await chat({ message: "x", adapter: "third" }))).toEqual({
      status: 404,
      type: "not_found",
      param: "adapter",
      message: 'no adapter is called "third"; there are "first", "second", and null is the base model',
    });
  });

  test("413 for a huge body, told its length or not", async () => {
    const { chat, server } = start();
    const huge = new Uint8Array(3 << 20).fill(0x20);
    expect(await errorOf(await chat(huge))).toMatchObject({ status: 413, type: "too_large" });
    const chunks = new ReadableStream({
      start(controller) {
        for (let i = 0; i < 30; i++) controller.enqueue(huge.subarray(0, 100_000));
        controller.close();
      },
    });
    const response = await fetch(`${server.url}/chat`, { method: "POST", body: chunks });
    expect(await errorOf(response)).toMatchObject({ status: 413, type: "too_large" });
  });

  test("422 for what the model cannot take, also before a stream begins", async () => {
    const { chat } = start();
    const error = await errorOf(await chat({ message: "too long", stream: true }));
    expect(error).toMatchObject({ status: 422, type: "unprocessable", message: "the conversation is too long" });
  });

  test("401 without the key, when one is set", async () => {
    const { chat, server } = start({ config: { apiKeys: [{ name: "app", sha256: hashOfKey("s3cret") }] } });
    expect(await errorOf(await chat({ message: "x" }))).toMatchObject({ status: 401, type: "authentication" });
    const wrong = await chat({ message: "x" }, { headers: { Authorization: "Bearer s3cre" } });
    expect(wrong.status).toBe(401);
    expect(wrong.headers.get("www-authenticate")).toBe("Bearer");
    expect((await chat({ message: "x" }, { headers: { Authorization: "Bearer s3cret" } })).status).toBe(200);
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
  });

  test("500 tells nothing of the inside, and the server goes on", async () => {
    const { chat, lines } = start();
    const error = await errorOf(await chat({ message: "broken" }));
    expect(error).toMatchObject({ status: 500, type: "internal" });
    expect(error.message).not.toContain("secret");
    expect(lines.join("")).toContain("a secret of the inside");
    const stream = await (await chat({ message: "fine broken", stream: true })).text();
    expect(stream).toContain('data: {"error":{"message":"the server failed');
    expect(stream).not.toContain("[DONE]");
    expect((await chat({ message: "x" })).status).toBe(200);
  });

  test("the log holds no contents", async () => {
    const { chat, lines } = start();
    await chat({ message: "confidential-question" });
    await chat({ message: "confidential-question", stream: true }).then((response) => response.text());
    await until(() => lines.some((line) => line.includes("stream ended")));
    expect(lines.length).toBeGreaterThanOrEqual(3);
    expect(lines.join("")).not.toContain("confidential");
    expect(JSON.parse(lines[0])).toMatchObject({ method: "POST", path: "/chat", status: 200, completion_tokens: 1 });
  });
});

describe("many at once", () => {
  test("are answered at the same time, and all of them", async () => {
    const backend = new EchoBackend();
    backend.pause = 20;
    const { chat } = start({ backend });
    const asked = Array.from({ length: 8 }, async (_, i) => {
      const response = await chat({ message: `number ${i}`, stream: i % 2 === 0 });
      return response.text();
    });
    await until(() => backend.active === 8);
    (await Promise.all(asked)).forEach((reply, i) => {
      expect(reply).toContain(`${i}`);
    });
  });

  test("429 with Retry-After when too many run and wait", async () => {
    const backend = new EchoBackend();
    backend.pause = 50;
    const { chat } = start({ backend, config: { limits: { concurrency: 1, queue: 1 } } });
    const first = chat({ message: "a b c d" });
    const second = chat({ message: "e" });
    await until(() => backend.active === 2);
    const third = await chat({ message: "f" });
    expect(Number(third.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(await errorOf(third)).toMatchObject({ status: 429, type: "too_many_requests" });
    expect((await first).status).toBe(200);
    expect((await second).status).toBe(200);
    expect((await chat({ message: "g" })).status).toBe(200);
  });

  test.each([true, false])("a client that goes (stream: %p) ends its answer and frees the place", async (stream) => {
    const backend = new EchoBackend();
    backend.pause = 20;
    const { chat } = start({ backend });
    const gone = new AbortController();
    const words = Array(200).fill("word").join(" ");
    const going = chat({ message: words, stream }, { signal: gone.signal }).then((response) => response.text());
    await until(() => backend.active === 1);
    gone.abort();
    await expect(going).rejects.toThrow();
    await until(() => backend.aborted.length === 1);
    expect((await chat({ message: "next" })).status).toBe(200);
  });
});

describe("the rest", () => {
  test("GET /health", async () => {
    const { server } = start();
    expect(await (await fetch(`${server.url}/health`)).json()).toEqual({
      status: "ok",
      model: "echo",
      adapters: ["first", "second"],
      device: { name: "none", isa: "none", threads: 1 },
      queue: { running: 0, waiting: 0, limit: 16 },
      uptime_s: 0,
    });
  });

  test("GET / is a page whose policy lets only its own script run", async () => {
    const { server } = start();
    const response = await fetch(server.url);
    const html = await response.text();
    expect(html).toStartWith("<!doctype html>");
    expect(html).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
    const policy = response.headers.get("content-security-policy")!;
    const script = new Bun.CryptoHasher("sha256").update(/<script>([\s\S]*)<\/script>/.exec(html)![1]).digest("base64");
    expect(policy).toContain(`script-src 'sha256-${script}'`);
    expect(policy).toContain("default-src 'none'");
  });

  test("404 elsewhere", async () => {
    const { server } = start();
    expect(await errorOf(await fetch(`${server.url}/nothing`))).toMatchObject({ status: 404, type: "not_found" });
    expect(await errorOf(await fetch(`${server.url}/chat`))).toMatchObject({ status: 404 });
  });

  test("stopping lets answers end, refuses new ones with 503, and aborts what takes too long", async () => {
    const backend = new EchoBackend();
    backend.pause = 30;
    const { chat, server } = start({ backend });
    const first = chat({ message: "a b c" });
    await until(() => backend.active === 1);
    const stopped = server.stop(5000);
    const late = await chat({ message: "late" });
    expect(late.headers.get("retry-after")).toBe("5");
    expect(await errorOf(late)).toMatchObject({ status: 503, type: "unavailable" });
    expect((await fetch(`${server.url}/health`)).status).toBe(503);
    expect((await first).status).toBe(200);
    await stopped;
    await expect(chat({ message: "x" })).rejects.toThrow();

    const other = start({ backend });
    const endless = other.chat({ message: Array(1000).fill("w").join(" ") });
    await until(() => backend.active === 1);
    await other.server.stop(10);
    expect(await errorOf(await endless)).toMatchObject({ status: 503, type: "unavailable" });
  });
});
