import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { type Flood, flood } from "../support/flood.ts";
import { hammer } from "../support/hammer.ts";
import { type Served, serveProcess } from "../support/server.ts";

setDefaultTimeout(120_000);

/** More by hand: HAMMER=10000 bun test test/server/hammer.test.ts */
const REQUESTS = Number(process.env.HAMMER ?? 600);
const CLIENTS = 24;
let served: Served;

beforeAll(async () => {
  const limits = {
    TSLM_LIMITS_CONCURRENCY: "6",
    TSLM_LIMITS_QUEUE: "14",
    TSLM_LIMITS_BODY_SECONDS: "2",
    // So that the floods have an address of their own.
    TSLM_TRUST_PROXY: "true",
  };
  served = await serveProcess(["--model", "demo", "--log-level", "error", "--cache-mb", "32"], limits);
});
afterAll(() => served[Symbol.asyncDispose]());

interface Health {
  readonly status: string;
  readonly queue: { readonly running: number };
}
const health = async () => (await (await fetch(`${served.url}/health`)).json()) as Health;
/** Anonymous memory, MB: without the mapped weights. */
async function memory(): Promise<number> {
  const status = await Bun.file(`/proc/${served.running.process.pid}/status`).text();
  return Number(/RssAnon:\s+(\d+)/.exec(status)?.[1]) / 1024;
}
/** What is left when nobody asks: garbage of the requests before is collected then. */
async function memoryAtRest(): Promise<number> {
  while ((await health()).queue.running > 0) await Bun.sleep(10);
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 6; i++) {
    await Bun.sleep(250);
    least = Math.min(least, await memory());
  }
  return least;
}
async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${served.url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1]);
}

/** Connections of somebody else that want nothing, beside all that is asked. */
async function floods(): Promise<Flood[]> {
  const { url } = served;
  const head = (line: string): string => `${line} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 10.0.0.1\r\n`;
  return [
    await flood({ url, connections: 300, send: "" }),
    await flood({ url, connections: 300, send: `${head("POST /chat")}X-` }),
    await flood({
      url,
      connections: 200,
      send: `${head("POST /chat")}Content-Length: 50000\r\n\r\n${" ".repeat(40_000)}`,
    }),
    await flood({ url, connections: 100, isDeaf: true, send: `${head("GET /openapi.json")}\r\n`.repeat(20) }),
  ];
}

test("requests of all kinds at once: each is answered whole or told why not, nothing is left over", async () => {
  // What is compiled and kept at the beginning is no leak.
  await hammer({ ...served, requests: Math.min(REQUESTS, 300), clients: CLIENTS, seed: 7 });
  const before = await memoryAtRest();
  let most = 0;
  const watch = setInterval(async () => {
    most = Math.max(most, await memory());
  }, 50);
  const [result, flooded] = await Promise.all([hammer({ ...served, requests: REQUESTS, clients: CLIENTS }), floods()]);
  clearInterval(watch);
  expect(flooded.map(({ failed }) => failed)).toEqual([0, 0, 0, 0]);
  expect(result.wrong).toEqual([]);
  expect(result.refused).toBe(result.malformed);
  expect(result.cancelled).toBeGreaterThan(REQUESTS / 50);
  expect(result.sentAway).toBeGreaterThan(0);
  expect(Object.keys(result.answered)).toHaveLength(8);
  const answered = Object.values(result.answered).reduce((sum, count) => sum + count, 0);
  expect(answered + result.cancelled + result.malformed + result.sentAway).toBe(REQUESTS);

  const after = await memoryAtRest();
  expect((await health()).status).toBe("ok");
  expect(await metric("tslm_requests_in_flight")).toBe(0);
  expect(await metric("tslm_cache_rows_used")).toBe(0);
  expect(served.running.stderr()).not.toContain('"level":50');
  // At rest it stays within some 30 MB, however many requests there were: a kilobyte kept of each shows in 100,000.
  expect(after - before).toBeLessThan(60);
  // While they are answered, garbage comes and goes.
  expect(most - before).toBeLessThan(250);
});

test("SIGTERM in the middle: what was taken is answered, the rest is told that the server ends", async () => {
  const going = hammer({ ...served, requests: 2000, clients: CLIENTS, seed: 3 });
  await Bun.sleep(300);
  served.running.process.kill("SIGTERM");
  const { wrong, answered } = await going;
  const { status } = await served.running.ended();
  expect(status).toBe(0);
  // After the end nobody listens any more: the connection is refused, or closed before anything was said.
  const unclear = wrong.filter((problem) => !/connect|closed|socket|ECONN|a cut stream: $/i.test(problem));
  expect(unclear).toEqual([]);
  expect(Object.keys(answered).length).toBeGreaterThan(0);
});
