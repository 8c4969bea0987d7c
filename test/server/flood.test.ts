/** Connections and requests by the thousand that want nothing, against the server as a process: what is held is bounded, others are answered. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { createApp, createLogger, serve } from "../../apps/server/src/index.ts";
import { EchoBackend } from "../../apps/server/src/testing.ts";
import { type Flood, flood } from "../support/flood.ts";
import { type Served, serveProcess } from "../support/server.ts";

setDefaultTimeout(60_000);

const BODY_SECONDS = 2;
/** Where nothing else bounds them: megabytes of bodies that wait for their end. */
const RECEIVING = 16;
const LIMITS = {
  TSLM_LIMITS_BODY_SECONDS: String(BODY_SECONDS),
  TSLM_LIMITS_IDLE_SECONDS: "8",
  TSLM_LIMITS_RECEIVING_BYTES: String(RECEIVING << 20),
  TSLM_LIMITS_OPEN_REQUESTS: "300",
  // So that the floods have addresses of their own.
  TSLM_TRUST_PROXY: "true",
};

let served: Served;
let url = "";
let filesAtRest = 0;

beforeAll(async () => {
  served = await serveProcess(["--model", "demo", "--log-level", "error", "--cache-mb", "32"], LIMITS);
  ({ url } = served);
  expect((await chat()).status).toBe(200);
  filesAtRest = await openFiles();
});
afterAll(() => served[Symbol.asyncDispose]());

const openFiles = async (): Promise<number> => (await readdir(`/proc/${served.running.process.pid}/fd`)).length;
/** Anonymous memory, MB. */
async function memory(): Promise<number> {
  const status = await Bun.file(`/proc/${served.running.process.pid}/status`).text();
  return Number(/RssAnon:\s+(\d+)/.exec(status)?.[1]) / 1024;
}
const head = (method: string, path: string, from: string): string =>
  `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: ${from}\r\n`;

/** A request of somebody else. */
async function chat(): Promise<{ status: number; text: string }> {
  const response = await fetch(`${url}/chat`, {
    method: "POST",
    body: JSON.stringify({ message: "x", max_tokens: 2 }),
  });
  return { status: response.status, text: await response.text() };
}
async function expectHealthy(): Promise<void> {
  const response = await fetch(`${url}/health`, { keepalive: false, signal: AbortSignal.timeout(2000) });
  expect(await response.json()).toMatchObject({ status: "ok" });
}
async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 25_000;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`after 25 s not yet: ${isSo}`);
    await Bun.sleep(50);
  }
}
/** Waits for the end of all connections of floods: none may be held for ever. */
const allClosed = (...floods: Flood[]): Promise<void> =>
  until(() => floods.every(({ opened, closed }) => closed === opened));

test("who sends nothing, half a head, or nothing more, is let go; others are answered meanwhile", async () => {
  const before = await memory();
  const silent = await flood({ url, connections: 2500, send: "" });
  const half = await flood({ url, connections: 2500, send: `${head("POST", "/chat", "10.0.0.1")}X-` });
  const kept = await flood({ url, connections: 1500, send: `${head("GET", "/health", "10.0.0.1")}\r\n` });
  expect([silent.failed, half.failed, kept.failed]).toEqual([0, 0, 0]);
  expect(await openFiles()).toBeGreaterThan(6000);
  await expectHealthy();
  expect((await chat()).status).toBe(200);
  expect((await memory()) - before).toBeLessThan(60);
  await allClosed(silent, half, kept);
  expect(kept.statuses).toEqual({ 200: 1500 });
  await expectHealthy();
  expect(await openFiles()).toBeLessThan(filesAtRest + 20);
});

test("bodies that never end: few of each client, few megabytes of all, each told why, and each for a bounded time", async () => {
  const before = await memory();
  const send = (from: string): string =>
    `${head("POST", "/chat", from)}Content-Length: 900000\r\n\r\n${" ".repeat(400_000)}`;
  const one = await flood({ url, connections: 300, send: send("10.0.0.2") });
  // Sixteen megabytes hold 18 of them; what is small finds room.
  await expectHealthy();
  expect((await chat()).status).toBe(200);
  const many = await Promise.all(
    Array.from({ length: 20 }, (_, i) => flood({ url, connections: 40, send: send(`10.0.1.${i}`) })),
  );
  await expectHealthy();
  expect((await chat()).status).toBe(200);
  // 440 MB were sent.
  expect((await memory()) - before).toBeLessThan(100);
  await until(() => one.statuses[408] === 18);
  expect(one.statuses).toEqual({ 408: 18, 503: 282 });
  expect(one.last[408]).toContain(`the body did not come within ${BODY_SECONDS} seconds`);
  expect(one.last[503]).toContain("Retry-After: 1");
  expect(one.last[503]).toContain("too many large bodies are being sent at once");
  for (const { statuses } of many) expect(Object.keys(statuses).filter((status) => status !== "503")).toEqual([]);
  expect((await chat()).status).toBe(200);

  // Small ones: nobody's place but their own client's is taken.
  const small = await flood({
    url,
    connections: 200,
    send: `${head("POST", "/chat", "10.0.0.2")}Content-Length: 90\r\n\r\n{`,
  });
  expect((await chat()).status).toBe(200);
  await until(() => small.statuses[408] === 64);
  expect(small.statuses).toEqual({ 408: 64, 429: 136 });
  expect(small.last[429]).toContain("64 bodies of 10.0.0.2 are being sent already");
});

test("more requests than may be open at once: the rest is sent away, health is told all the same", async () => {
  const floods = await Promise.all(
    Array.from({ length: 10 }, (_, i) =>
      flood({ url, connections: 50, send: `${head("POST", "/chat", `10.0.2.${i}`)}Content-Length: 90\r\n\r\n{` }),
    ),
  );
  const away = await chat();
  expect([away.status, away.text]).toEqual([
    503,
    expect.stringContaining("requests are open already; try again later"),
  ]);
  await expectHealthy();
  const count = (status: string): number => floods.reduce((sum, { statuses }) => sum + (statuses[status] ?? 0), 0);
  await until(() => count("408") === 300);
  expect(count("503")).toBe(200);
  expect((await chat()).status).toBe(200);
});

test("who asks and never reads is let go when the answer is complete, and keeps no place", async () => {
  const before = await memory();
  const body = JSON.stringify({ message: "x", max_tokens: 300, temperature: 2, stream: true });
  const from = Array.from({ length: 8 }, (_, i) => `10.0.3.${i}`);
  const floods = [
    ...(await Promise.all(
      from.map((address) =>
        flood({
          url,
          connections: 40,
          isDeaf: true,
          send: `${head("POST", "/chat", address)}Content-Length: ${body.length}\r\n\r\n${body}`,
        }),
      ),
    )),
    // One after another on one connection, as if each had been answered.
    await flood({ url, connections: 20, isDeaf: true, send: `${head("GET", "/", "10.0.3.9")}\r\n`.repeat(500) }),
  ];
  await expectHealthy();
  await until(async () => (await chat()).status === 200);
  expect((await memory()) - before).toBeLessThan(60);
  // A deaf socket does not hear its end: the server's side tells.
  await until(async () => (await openFiles()) < filesAtRest + 20);
  const metrics = await (await fetch(`${url}/metrics`)).text();
  expect(metrics).toMatch(/^tslm_requests_in_flight 0$/m);
  expect(floods.map(({ failed }) => failed)).toEqual(floods.map(() => 0));
});

test("an answer that takes longer than a connection may be idle is given whole, as a stream or not", async () => {
  const backend = new EchoBackend();
  backend.pause = 1500;
  const app = createApp({ backend, logger: createLogger("silent"), config: { limits: { idleSeconds: 8 } } });
  const server = serve({ app, port: 0, host: "127.0.0.1" });
  const message = "it is worth waiting for";
  const ask = async (stream: boolean): Promise<string> => {
    const response = await fetch(`${server.url}/chat`, { method: "POST", body: JSON.stringify({ message, stream }) });
    return await response.text();
  };
  const [stream, whole] = await Promise.all([ask(true), ask(false)]);
  expect(stream).toEndWith("data: [DONE]\n\n");
  expect(whole).toContain(message);
  await server.stop();
});

test("SIGTERM among open connections: they hold nothing up", async () => {
  const silent = await flood({ url, connections: 500, send: "" });
  const bodies = await flood({
    url,
    connections: 50,
    send: `${head("POST", "/chat", "10.0.4.1")}Content-Length: 90\r\n\r\n{`,
  });
  const begin = performance.now();
  served.running.process.kill("SIGTERM");
  expect((await served.running.ended()).status).toBe(0);
  expect(performance.now() - begin).toBeLessThan(10_000);
  await allClosed(silent, bodies);
  expect(served.running.stderr()).not.toContain('"level":50');
});
