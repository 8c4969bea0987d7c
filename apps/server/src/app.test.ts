import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
    const script = new Bun.CryptoHasher("sha256")
      .update(/<script type="module">([\s\S]*)<\/script>/.exec(html)![1])
      .digest("base64");
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

const KEYS = [
  { name: "app", sha256: hashOfKey("app-key"), requestsPerMinute: 3, models: ["first"] },
  { name: "boss", sha256: hashOfKey("boss-key"), admin: true, concurrency: 1 },
];
const as = (key: string): RequestInit => ({ headers: { Authorization: `Bearer ${key}` } });

describe("keys", () => {
  test("open what they may open, and no more than they may", async () => {
    const { chat, get, post } = start({ config: { apiKeys: KEYS, adapterRoot: "/nonexistent" } });
    expect((await chat({ message: "x" }, as("app-key"))).status).toBe(200);
    expect(await errorOf(await chat({ message: "x", adapter: null }, as("app-key")))).toMatchObject({
      status: 403,
      message: 'the key app may not use "echo"',
    });
    const models = (await (await get("/v1/models", { "x-api-key": "boss-key" })).json()) as { data: { id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["first", "second", "echo"]);
    expect(await errorOf(await post("/adapters", { path: "x" }, as("app-key")))).toMatchObject({ status: 403 });
    expect((await get("/metrics")).status).toBe(401);
    expect((await get("/openapi.json")).status).toBe(200);
  });

  test("a minute's requests are counted, each key's own", async () => {
    const { chat } = start({ config: { apiKeys: KEYS } });
    for (let i = 0; i < 3; i++) expect((await chat({ message: "x" }, as("app-key"))).status).toBe(200);
    const refused = await chat({ message: "x" }, as("app-key"));
    expect(Number(refused.headers.get("retry-after"))).toBeWithin(1, 61);
    expect(await errorOf(refused)).toMatchObject({
      status: 429,
      message: expect.stringContaining("3 requests a minute"),
    });
    expect((await chat({ message: "x" }, as("boss-key"))).status).toBe(200);
  });

  test("a minute's tokens are counted after they were made", async () => {
    const apiKeys = [{ name: "app", sha256: hashOfKey("k"), tokensPerMinute: 10 }];
    const { chat } = start({ config: { apiKeys } });
    expect((await chat({ message: "a long message" }, as("k"))).status).toBe(200);
    expect(await errorOf(await chat({ message: "x" }, as("k")))).toMatchObject({
      status: 429,
      message: expect.stringContaining("10 tokens a minute"),
    });
  });

  test("one client cannot take all places", async () => {
    const backend = new EchoBackend();
    backend.pause = 40;
    const { chat } = start({ backend, config: { apiKeys: KEYS } });
    const first = chat({ message: "a b" }, as("boss-key"));
    await until(() => backend.active === 1);
    expect(await errorOf(await chat({ message: "c" }, as("boss-key")))).toMatchObject({ status: 429 });
    expect((await chat({ message: "c" }, as("app-key"))).status).toBe(200);
    await first;
  });
});

describe("pages of other people", () => {
  const from = (origin: string): RequestInit => ({ headers: { Origin: origin } });

  test("may not call, unless they are named", async () => {
    const { chat, server } = start({ config: { corsOrigins: ["https://app.example"] } });
    expect(await errorOf(await chat({ message: "x" }, from("https://evil.example")))).toMatchObject({ status: 403 });
    expect(await errorOf(await chat({ message: "x" }, from("null")))).toMatchObject({ status: 403 });
    expect((await chat({ message: "x" }, from(server.url))).status).toBe(200);
    const named = await chat({ message: "x" }, from("https://app.example"));
    expect(named.headers.get("access-control-allow-origin")).toBe("https://app.example");
    const asked = await fetch(`${server.url}/v1/chat/completions`, {
      method: "OPTIONS",
      headers: { Origin: "https://app.example", "Access-Control-Request-Method": "POST" },
    });
    expect(asked.status).toBe(204);
    expect(asked.headers.get("access-control-allow-methods")).toContain("POST");
  });

  test("a name that was pointed at this machine is not this server's", async () => {
    const { chat } = start({ isLocal: true, config: { hosts: ["llm.example"] } });
    const called = (host: string) => chat({ message: "x" }, { headers: { Host: host } });
    expect(await errorOf(await called("evil.example:8000"))).toMatchObject({ status: 403, type: "forbidden" });
    expect((await called("llm.example")).status).toBe(200);
    expect((await called("localhost:8000")).status).toBe(200);
  });
});

describe("operation", () => {
  test("health and readiness fail while it loads, restarts or stands still", async () => {
    const { backend, get } = start();
    const told = async () => {
      const response = await get("/health");
      return [response.status, ((await response.json()) as { status: string }).status, (await get("/ready")).status];
    };
    expect(await told()).toEqual([200, "ok", 200]);
    backend.stalledMs = 61_000;
    expect(await told()).toEqual([503, "stalled", 503]);
    backend.state = "loading";
    expect(await told()).toEqual([503, "loading", 503]);
    backend.state = "restarting";
    expect(await told()).toEqual([503, "restarting", 503]);
  });

  test("metrics count requests, tokens and answers, and name no path that a stranger made up", async () => {
    const { chat, get } = start();
    await chat({ message: "a b c" });
    await get("/made-up-by-a-stranger");
    const text = await (await get("/metrics")).text();
    expect(text).toContain('tslm_requests_total{route="/chat",status="200"} 1');
    expect(text).toContain("tslm_generated_tokens_total 3");
    expect(text).toContain("tslm_prompt_tokens_total 5");
    expect(text).toContain('tslm_answers_total{reason="stop"} 1');
    expect(text).toContain("tslm_time_to_first_token_seconds_count 1");
    expect(text).toContain("tslm_time_between_tokens_seconds_count 2");
    expect(text).toContain("tslm_cache_rows_capacity 100");
    expect(text).not.toContain("stranger");
  });

  test("each request has an id, the client's own where it is one", async () => {
    const { chat, lines } = start();
    const given = await chat({ message: "x" }, { headers: { "X-Request-Id": "abc-1" } });
    expect(given.headers.get("x-request-id")).toBe("abc-1");
    const made = await chat({ message: "x" }, { headers: { "X-Request-Id": "a b\u00e9".repeat(9) } });
    expect(made.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(lines.some((line) => JSON.parse(line).request_id === "abc-1")).toBe(true);
  });

  test("an answer that takes too long is 408, one whose policy dropped something tells how much", async () => {
    const { chat } = start();
    expect(await errorOf(await chat({ message: "too late" }))).toMatchObject({ status: 408, type: "timeout" });
    const { dropped_tokens: dropped } = (await (await chat({ message: "dropped x" })).json()) as {
      dropped_tokens: number;
    };
    expect(dropped).toBe(7);
  });

  test("a reader that reads too slowly is cut off, and its answer ended", async () => {
    const backend = new EchoBackend();
    backend.answerText = "x"
      .repeat(1 << 16)
      .concat(" ")
      .repeat(200);
    backend.pause = 1;
    const { server } = start({ backend, config: { limits: { unreadBytes: 1 << 16 } } });
    const { port } = new URL(server.url);
    const body = JSON.stringify({ message: "x", stream: true });
    const socket = await Bun.connect({
      ...{ hostname: "127.0.0.1", port: Number(port) },
      socket: { data: (connection) => void connection.pause() },
    });
    socket.write(`POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    await until(() => backend.aborted.length === 1);
    socket.terminate();
  });
});

describe("adapters at run time", () => {
  test("are loaded from below the folder only, listed and unloaded", async () => {
    const root = mkdtempSync(join(tmpdir(), "adapters-"));
    mkdirSync(join(root, "mine"));
    symlinkSync("/", join(root, "out"));
    const { post, get, server } = start({ config: { adapterRoot: root } });
    expect(await (await post("/adapters", { path: "mine", scale: 0.5 })).json()).toMatchObject({
      name: "mine",
      scale: 0.5,
      version: 1,
    });
    for (const path of ["../etc", "out/etc", "/../../etc"]) {
      expect(await errorOf(await post("/adapters", { path }))).toMatchObject({ status: 403, param: "path" });
    }
    expect(await errorOf(await post("/adapters", { path: "none" }))).toMatchObject({ status: 404 });
    expect(await errorOf(await post("/adapters", { path: "mine", name: "echo" }))).toMatchObject({ status: 400 });
    const names = ((await (await get("/adapters")).json()) as { name: string }[]).map(({ name }) => name);
    expect(names).toEqual(["first", "second", "mine"]);
    const remove = () => fetch(`${server.url}/adapters/mine`, { method: "DELETE" });
    expect((await remove()).status).toBe(204);
    expect((await remove()).status).toBe(404);
    rmSync(root, { recursive: true });
  });

  test("stay as they are where no folder is named", async () => {
    const { post } = start();
    expect(await errorOf(await post("/adapters", { path: "x" }))).toMatchObject({ status: 403 });
  });
});

describe("conversations", () => {
  test("are kept when asked, one's own, exported, and erased from the file", async () => {
    const folder = mkdtempSync(join(tmpdir(), "conversations-"));
    const file = join(folder, "kept.db");
    const { chat, post, get, server, backend } = start({
      config: { conversations: file, apiKeys: KEYS.map(({ name, sha256 }) => ({ name, sha256 })) },
    });
    const mine = as("boss-key");
    const { id } = (await (await post("/conversations", "", mine)).json()) as { id: string };
    await chat({ message: "remember-me", conversation: id, adapter: null }, mine);
    const second = await chat({ message: "and then?", conversation: id, stream: true }, mine);
    await second.text();
    expect(backend.requests[1].prompt).toMatchObject({
      messages: [{ content: "remember-me" }, { role: "assistant", content: "remember-me" }, { content: "and then?" }],
    });
    const headers = { Authorization: "Bearer boss-key" };
    const exported = await (await get("/conversations/export", headers)).text();
    expect(JSON.parse(exported).messages).toHaveLength(4);
    // Another key's are not there for this one.
    expect((await get(`/conversations/${id}`, { Authorization: "Bearer app-key" })).status).toBe(404);
    expect(await (await get("/conversations", { Authorization: "Bearer app-key" })).json()).toEqual([]);
    const foreign = await chat({ message: "x", conversation: id }, as("app-key"));
    expect(await errorOf(foreign)).toMatchObject({ status: 404, param: "conversation" });

    const erased = await fetch(`${server.url}/conversations`, { method: "DELETE", headers });
    expect(await erased.json()).toEqual({ erased: 1 });
    expect((await get(`/conversations/${id}`, headers)).status).toBe(404);
    for (const name of readdirSync(folder)) {
      expect(readFileSync(join(folder, name)).includes("remember-me")).toBe(false);
    }
    rmSync(folder, { recursive: true });
  });

  test("are not kept by a server that was not told to", async () => {
    const { chat, get } = start();
    expect(await errorOf(await chat({ message: "x", conversation: "y" }))).toMatchObject({ status: 400 });
    expect((await get("/conversations")).status).toBe(404);
  });
});
