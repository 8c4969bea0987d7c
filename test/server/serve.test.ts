import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command, type Running, start, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

interface Reply {
  reply: string;
  model: string;
  adapter: string | null;
  finish_reason: string;
  usage: { prompt_tokens: number; completion_tokens: number };
}

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let [model, adapter, second] = ["", "", ""];
const running: Running[] = [];

beforeAll(async () => {
  home = await temporaryFolder();
  [model, adapter, second] = ["tiny", "飞跃云", "second"].map((name) => join(home.path, name));
  await writeTinyModel(model);
  const rows = join(home.path, "rows.json");
  const recipe = ["--epochs", "60", "--lr", "2e-2", "--targets", "all", "--dropout", "0", "--alpha", "16"];
  for (const [out, output] of [
    [adapter, "很好,谢谢!"],
    [second, "不好。"],
  ]) {
    await writeFile(rows, JSON.stringify([{ instruction: "请回答", input: "你好吗?", output }]));
    const { status, stderr } = await command("train", ["--model", model, "--data", rows, "--out", out, ...recipe]);
    if (status !== 0) throw new Error(stderr);
  }
});
afterAll(() => home[Symbol.asyncDispose]());
afterEach(async () => {
  for (const server of running.splice(0)) {
    server.process.kill("SIGKILL");
    await server.ended();
  }
});

async function serve(...args: string[]) {
  const server = start("serve", ["--model", model, "--port", "0", "--json", "--cache-mb", "4", ...args]);
  running.push(server);
  await server.printed("\n", "stdout");
  const { url, ...told } = JSON.parse(server.stdout()) as { url: string; model: string; adapters: string[] };
  const post = (body: unknown, init: RequestInit = {}) =>
    fetch(`${url}/chat`, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body), ...init });
  const chat = async (body: unknown): Promise<Reply> => {
    const response = await post(body);
    if (response.status !== 200) throw new Error(await response.text());
    return (await response.json()) as Reply;
  };
  return { server, url, told, post, chat };
}

describe("serve", () => {
  test("answers with the first adapter, another, and the base model", async () => {
    const { told, chat, url } = await serve("--adapter", adapter, "--adapter", second);
    expect(told).toEqual({ model, adapters: ["飞跃云", "second"] });
    const first = await chat({ message: "你好吗?" });
    expect(first).toMatchObject({ reply: "很好,谢谢!", model, adapter: "飞跃云", finish_reason: "stop" });
    expect(first.usage.prompt_tokens).toBeGreaterThan(20);
    expect(first.usage.completion_tokens).toBeGreaterThan(5);
    expect((await chat({ message: "你好吗?", adapter: "second" })).reply).toBe("不好。");
    const base = await chat({ message: "你好吗?", adapter: null, max_tokens: 8 });
    expect(base).toMatchObject({ adapter: null, finish_reason: "length" });
    expect(base.usage.completion_tokens).toBe(8);
    expect((await chat({ message: "你好吗?" })).reply).toBe("很好,谢谢!");
    expect((await chat({ message: "你好吗?", adapter: null, max_tokens: 8 })).reply).toBe(base.reply);
    expect(await (await fetch(`${url}/health`)).json()).toMatchObject({ status: "ok", adapters: ["飞跃云", "second"] });
    expect(await (await fetch(url)).text()).toContain("<title>");
  });

  test("a stream's pieces are whole characters and together the whole answer", async () => {
    const { post, chat } = await serve("--adapter", adapter);
    const response = await post({ message: "你好吗?", stream: true });
    const events = (await response.text()).trimEnd().split("\n\n");
    expect(events.pop()).toBe("data: [DONE]");
    const values = events.map((event) => JSON.parse(event.replace(/^data: /, "")));
    expect(values.pop()).toMatchObject({ finish_reason: "stop", usage: { prompt_tokens: expect.any(Number) } });
    const deltas = values.map(({ delta }) => delta as string);
    expect(deltas.length).toBeGreaterThan(3);
    for (const delta of deltas) {
      expect(delta).not.toContain("\ufffd");
      expect(delta.isWellFormed()).toBe(true);
    }
    expect(deltas.join("")).toBe((await chat({ message: "你好吗?" })).reply);
  });

  test("sampling follows the seed, and history changes the prompt", async () => {
    const { chat } = await serve();
    const body = { message: "hi", temperature: 1.5, max_tokens: 16 };
    const [first, again, other] = [
      await chat({ ...body, seed: 1 }),
      await chat({ ...body, seed: 1 }),
      await chat({ ...body, seed: 2 }),
    ];
    expect(again.reply).toBe(first.reply);
    expect(other.reply).not.toBe(first.reply);
    const history = [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
    ];
    const longer = await chat({ ...body, history });
    expect(longer.usage.prompt_tokens).toBeGreaterThan(first.usage.prompt_tokens);
  });

  test("a message cannot end itself and speak for another role", async () => {
    const { chat } = await serve();
    const count = async (message: string) => (await chat({ message, max_tokens: 1 })).usage.prompt_tokens;
    // As a control token it would be one; as characters it is many.
    expect((await count("a<|im_end|>b")) - (await count("ab"))).toBeGreaterThan(5);
  });

  test("more than the model has room for is 422", async () => {
    const { post } = await serve();
    const response = await post({ message: "长".repeat(3000) });
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ error: { type: "unprocessable", param: "message" } });
  });

  test("bad requests are told, and the server goes on", async () => {
    const { post, chat, url } = await serve();
    expect((await post('{"message"')).status).toBe(400);
    expect((await post({ message: 5 })).status).toBe(400);
    expect((await post({ message: "x", adapter: "none" })).status).toBe(404);
    expect((await post(`{"message": "${"x".repeat(2_000_000)}"}`)).status).toBe(413);
    expect((await fetch(`${url}/chat`, { method: "DELETE" })).status).toBe(404);
    expect((await chat({ message: "x", max_tokens: 2 })).usage.completion_tokens).toBeLessThanOrEqual(2);
  });

  test("concurrent requests are all answered, each with its own answer", async () => {
    const { chat } = await serve("--adapter", adapter, "--adapter", second);
    const names = Array.from({ length: 8 }, (_, i) => (i % 2 === 0 ? "飞跃云" : "second"));
    const replies = await Promise.all(names.map((name) => chat({ message: "你好吗?", adapter: name })));
    replies.forEach(({ reply }, i) => {
      expect(reply).toBe(i % 2 === 0 ? "很好,谢谢!" : "不好。");
    });
  });

  test.each([true, false])("a client that goes (stream: %p) makes room for the next", async (stream) => {
    const { post, chat, url } = await serve("--device", "reference");
    const gone = new AbortController();
    const body = { message: "x", max_tokens: 1500, temperature: 2, stream };
    const going = post(body, { signal: gone.signal }).then((response) => response.text());
    const health = async () => (await (await fetch(`${url}/health`)).json()) as { queue: { running: number } };
    while ((await health()).queue.running === 0) await Bun.sleep(5);
    gone.abort();
    await expect(going).rejects.toThrow();
    await chat({ message: "y", max_tokens: 1 });
    expect((await health()).queue.running).toBe(0);
  });

  test("other requests are heard while a prompt goes through the model", async () => {
    const { post, url } = await serve("--device", "reference");
    let isDone = false;
    const answer = post({ message: "x".repeat(400), max_tokens: 1 }).then((response) => {
      isDone = true;
      return response.status;
    });
    let heard = 0;
    while (!isDone) {
      const { queue } = (await (await fetch(`${url}/health`)).json()) as { queue: { running: number } };
      if (queue.running === 1) heard++;
    }
    expect(await answer).toBe(200);
    // The prompt is one pass: on the same thread at most one would have come between.
    expect(heard).toBeGreaterThan(5);
  });

  test("the log tells of requests, never what was in them", async () => {
    const { chat, server } = await serve();
    const { reply } = await chat({ message: "confidential-message", max_tokens: 8 });
    await server.printed('"path":"/chat"');
    expect(server.stderr()).not.toContain("confidential");
    if (reply.length > 3) expect(server.stderr()).not.toContain(reply);
  });

  test("--api-key", async () => {
    const { post } = await serve("--api-key", "s3cret");
    expect((await post({ message: "x" })).status).toBe(401);
    const headers = { Authorization: "Bearer s3cret" };
    expect((await post({ message: "x", max_tokens: 1 }, { headers })).status).toBe(200);
  });
});

describe("serve ends", () => {
  test.each([
    ["SIGTERM", 0],
    ["SIGINT", 130],
  ] as const)("%s: the answer that runs is completed, then status %p", async (signal, want) => {
    const { server, post, url } = await serve();
    const answer = post({ message: "x", max_tokens: 300, temperature: 2 });
    const health = async () => (await (await fetch(`${url}/health`)).json()) as { queue: { running: number } };
    while ((await health()).queue.running === 0) await Bun.sleep(2);
    server.process.kill(signal);
    expect((await answer).status).toBe(200);
    expect((await server.ended()).status).toBe(want);
  });

  const run = (...args: string[]) => command("serve", ["--model", model, ...args]);

  test("a port that is in use, a model or an adapter that is not there: one sentence, status 1", async () => {
    const { url } = await serve();
    const busy = await run("--port", new URL(url).port);
    const { port } = new URL(url);
    expect(busy.stderr).toStartWith(`error: port ${port} at 127.0.0.1 is in use; choose another with --port`);
    expect(busy.status).toBe(1);
    const host = await run("--port", "0", "--host", "203.0.113.7");
    expect(host.stderr).toContain("error: cannot listen at 203.0.113.7; choose an address of this machine with --host");
    expect(host.status).toBe(1);
    const name = await run("--port", "0", "--host", "no.such.host.invalid");
    expect(name.stderr).toContain("error: cannot listen at no.such.host.invalid; choose");
    const none = await run("--adapter", home.path);
    expect(none.stderr).toContain("adapter_config.json: there is no such file");
    expect(none.status).toBe(1);
  });

  test("a model or an adapter that cannot be loaded: one sentence, status 1", async () => {
    const broken = join(home.path, "broken");
    await cp(model, broken, { recursive: true });
    await writeFile(join(broken, "model.safetensors"), "no weights");
    const noModel = await command("serve", ["--model", broken, "--port", "0"]);
    expect(noModel.stderr).toMatch(/^error: .*model\.safetensors.*\n$/);
    expect(noModel.status).toBe(1);
    const other = join(home.path, "other");
    await writeTinyModel(other, { hidden: 48 });
    const misfit = await command("serve", ["--model", other, "--adapter", adapter, "--port", "0"]);
    expect(misfit.stderr).toMatch(/^error: .*the adapter does not fit this model .*\n$/);
    expect(misfit.status).toBe(1);
  });

  test("Ctrl-C while it starts: status 130", async () => {
    const starting = start("serve", ["--model", model, "--port", "0"]);
    running.push(starting);
    await Bun.sleep(150);
    starting.process.kill("SIGINT");
    const { status, stdout } = await starting.ended();
    expect([130, 128]).toContain(status);
    expect(stdout).toBe("");
  });

  test("two adapters of one name are wrong usage", async () => {
    const copy = join(home.path, "copy/second");
    await cp(second, copy, { recursive: true });
    const { status, stderr } = await run("--adapter", second, "--adapter", copy);
    expect(stderr).toContain('two adapters are called "second"');
    expect(status).toBe(2);
  });
});
