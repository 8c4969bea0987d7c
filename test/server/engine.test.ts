import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import {
  AdapterReloader,
  type AnswerEvent,
  type AnswerRequest,
  createApp,
  createLogger,
  Engine,
  type ServerLogger,
  serve,
} from "../../apps/server/src/index.ts";
import { command, ROOT, temporaryFolder } from "../support/process.ts";
import { copyFolder } from "../support/server.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

setDefaultTimeout(60_000);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let [model, yes, no] = ["", "", ""];
let engine: Engine;
let restarts = 0;
const never = new AbortController().signal;

/** Trains an adapter that answers one question so. */
async function train(out: string, output: string): Promise<void> {
  const rows = join(home.path, "rows.json");
  await Bun.write(rows, JSON.stringify([{ instruction: "请回答", input: "你好吗?", output }]));
  const recipe = ["--epochs", "60", "--lr", "2e-2", "--targets", "all", "--dropout", "0", "--alpha", "16"];
  const { status, stderr } = await command("train", ["--model", model, "--data", rows, "--out", out, ...recipe]);
  if (status !== 0) throw new Error(stderr);
}

beforeAll(async () => {
  home = await temporaryFolder();
  [model, yes, no] = ["tiny", "yes", "no"].map((name) => join(home.path, name));
  await writeTinyModel(model);
  await train(yes, "很好,谢谢!");
  await train(no, "不好。");
  engine = new Engine({
    ...{ dir: model, name: "tiny", adapters: [{ name: "mine", dir: yes }], device: "auto", threads: 1 },
    cacheBytes: 4 << 20,
    onRestart: () => restarts++,
  });
  await engine.ready;
});
afterAll(async () => {
  await engine.dispose();
  await home[Symbol.asyncDispose]();
});

const request = (rest: Partial<AnswerRequest> = {}): AnswerRequest => ({
  prompt: { messages: [{ role: "user", content: "你好吗?" }] },
  adapter: "mine",
  sampling: { temperature: 0 },
  contextPolicy: "error",
  maxTokens: 30,
  ...rest,
});
const endless = request({ adapter: null, maxTokens: 1500, sampling: { temperature: 2, seed: 1 } });

async function say(rest?: Partial<AnswerRequest>, signal = never): Promise<string> {
  let text = "";
  for await (const event of engine.answer(request(rest), signal)) if (event.kind === "piece") text += event.text;
  return text;
}

/** What a promise fails with. Bun's `rejects` waits in a way in which no thread's messages arrive. */
function failure(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => expect.unreachable(),
    (error: Error) => error.message,
  );
}

async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 1000 && !(await what()); i++) await Bun.sleep(10);
  expect(await what()).toBe(true);
}

describe("the engine's thread", () => {
  test("gives the same answers one by one and all at once", async () => {
    const asks = Array.from({ length: 12 }, (_, i) => ({
      adapter: i % 3 === 0 ? null : "mine",
      maxTokens: 12,
      sampling: i % 2 === 0 ? { temperature: 0 } : { temperature: 1.3, seed: i },
      prompt: { messages: [{ role: "user" as const, content: `你好吗?${"x".repeat(i)}` }] },
    }));
    const alone: string[] = [];
    for (const ask of asks) alone.push(await say(ask));
    expect(new Set(alone).size).toBeGreaterThan(6);
    expect(await Promise.all(asks.map((ask) => say(ask)))).toEqual(alone);
  });

  test("ends an answer whose reader leaves, or whose signal aborts, and counts nothing as running then", async () => {
    const abort = new AbortController();
    const going = say(endless, abort.signal);
    for await (const event of engine.answer(endless, never)) if (event.kind === "piece") break;
    await until(() => engine.stats.running === 1);
    abort.abort(new Error("enough"));
    expect(await failure(going)).toBe("enough");
    await until(() => engine.stats.running === 0 && engine.stats.cacheUsed === 0);
    expect(engine.stats.generatedTokens).toBeGreaterThan(1);
    expect(engine.stats.stalledMs).toBe(0);
  });

  test("an answer that takes longer than it may ends with the deadline", async () => {
    const events: AnswerEvent[] = [];
    for await (const event of engine.answer({ ...endless, timeoutMs: 30 }, never)) events.push(event);
    expect(events.at(-1)).toMatchObject({ kind: "end", finishReason: "deadline" });
  });

  test("an adapter that is loaded anew answers what comes; what runs keeps the one it began with", async () => {
    const events = engine.answer(request({ adapter: "mine" }), never)[Symbol.asyncIterator]();
    expect((await events.next()).value).toMatchObject({ kind: "start", adapterVersion: 1 });
    const loaded = await engine.loadAdapter("mine", no);
    expect(loaded).toMatchObject({ name: "mine", version: 2 });
    let text = "";
    for (let next = await events.next(); !next.done; next = await events.next()) {
      if (next.value.kind === "piece") text += next.value.text;
    }
    expect(text).toBe("很好,谢谢!");
    expect(await say()).toBe("不好。");
    // At scale 0 the adapter changes nothing; its prompt stays.
    await engine.loadAdapter("silent", no, { scale: 0 });
    expect(await say({ adapter: "silent", maxTokens: 5 })).not.toBe("不好。");
    await engine.unloadAdapter("silent");
    expect(await failure(say({ adapter: "silent" }))).toBe('no adapter is called "silent"');
    expect(await failure(engine.unloadAdapter("silent"))).toContain("no adapter");
    expect(engine.adapters.map(({ name, running }) => [name, running])).toEqual([["mine", 0]]);
  });

  test("an adapter that training replaced on disk is loaded again; a broken one leaves the one before", async () => {
    const dir = join(home.path, "watched");
    await copyFolder(no, dir);
    await engine.loadAdapter("watched", dir);
    const lines: string[] = [];
    const tell = (_: object, message: string): void => void lines.push(message);
    const logger = { info: tell, error: tell } as unknown as ServerLogger;
    const reloader = new AdapterReloader(engine, { seconds: 3600, logger });
    await reloader.look();
    await copyFolder(yes, dir);
    await reloader.look();
    await reloader.look();
    expect(await say({ adapter: "watched" })).toBe("很好,谢谢!");
    await Bun.write(join(dir, "adapter_model.safetensors"), "broken");
    await reloader.look();
    await reloader.look();
    expect(lines.at(-1)).toContain("cannot be loaded");
    expect(await say({ adapter: "watched" })).toBe("很好,谢谢!");
    reloader.stop();
    await engine.unloadAdapter("watched");
  });

  test("a death: what was in the middle fails clearly, what had not begun is answered, and health tells the truth", async () => {
    const app = createApp({ backend: engine, logger: createLogger("silent") });
    const server = serve({ app, port: 0, host: "127.0.0.1" });
    const health = async () => {
      const response = await fetch(`${server.url}/health`);
      return [response.status, ((await response.json()) as { status: string }).status];
    };
    const post = (body: object) => fetch(`${server.url}/chat`, { method: "POST", body: JSON.stringify(body) });
    const stream = await post({ message: "x", adapter: null, max_tokens: 1500, temperature: 2, stream: true });
    const reader = stream.body!.getReader();
    await reader.read();
    expect(await health()).toEqual([200, "ok"]);

    engine.die();
    const asked = Promise.all(Array.from({ length: 4 }, () => post({ message: "你好吗?", adapter: "mine" })));
    let rest = "";
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      rest += new TextDecoder().decode(next.value);
    }
    expect(rest).toContain('data: {"error":{"message":"the engine had a fault in the middle of the answer"');
    expect(rest).not.toContain("[DONE]");
    expect(await health()).toEqual([503, "restarting"]);
    const meanwhile = await post({ message: "x" });
    expect([meanwhile.status, meanwhile.headers.get("retry-after")]).toEqual([503, "2"]);

    for (const response of await asked) {
      expect(((await response.json()) as { reply: string }).reply).toBe("不好。");
    }
    expect(await health()).toEqual([200, "ok"]);
    expect(restarts).toBe(1);
    expect(engine.adapters.map(({ name }) => name)).toEqual(["mine"]);
    await server.stop(0);
  });
});

test("a thread that always dies is given up", async () => {
  const dying = new Engine({ dir: join(ROOT, "models/demo"), name: "demo", adapters: [], device: "auto", threads: 1 });
  await dying.ready;
  const crashed = dying.crashed.catch((error: Error) => error);
  for (let i = 0; i < 6; i++) {
    await until(() => dying.state === "ready");
    dying.die();
    await until(() => dying.state !== "ready");
  }
  expect(dying.state).toBe("failed");
  expect(((await crashed) as Error).message).toContain("the engine's thread ended");
  expect(await failure(dying.tokenize("x", { specialTokens: false }))).toBe("the engine has ended");
  await dying.dispose();
});
