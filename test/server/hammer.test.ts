import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { hammer } from "../support/hammer.ts";
import { type Served, serveProcess } from "../support/server.ts";

setDefaultTimeout(120_000);

/** More by hand: HAMMER=10000 bun test test/server/hammer.test.ts */
const REQUESTS = Number(process.env.HAMMER ?? 600);
const CLIENTS = 24;
let served: Served;

beforeAll(async () => {
  const limits = { TSLM_LIMITS_CONCURRENCY: "4", TSLM_LIMITS_QUEUE: "4" };
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

test("requests of all kinds at once: each is answered whole or told why not, nothing is left over", async () => {
  // What is compiled and kept at the beginning is no leak.
  await hammer({ ...served, requests: Math.min(REQUESTS, 300), clients: CLIENTS, seed: 7 });
  const before = await memoryAtRest();
  const result = await hammer({ ...served, requests: REQUESTS, clients: CLIENTS });
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
