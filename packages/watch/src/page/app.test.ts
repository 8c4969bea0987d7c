import { afterEach, describe, expect, test } from "bun:test";
import type { RunEvent } from "../events.ts";
import { RunRecorder } from "../recorder.ts";
import { renderReport } from "../report.ts";
import { measures, START } from "../testing.ts";
import { createPageApp, type PageApp } from "./app.ts";
import { livePage } from "./html.ts";
import { LivePage } from "./live-page.ts";

const ORIGIN = "http://127.0.0.1:8010";

function makeApp() {
  const actions: string[] = [];
  const app = createPageApp((action) => actions.push(action));
  const ask = (path: string, headers: Record<string, string> = {}, method = "GET") =>
    app.fetch(new Request(`${ORIGIN}${path}`, { method, headers: { host: "127.0.0.1:8010", ...headers } }));
  return { app, actions, ask };
}

function eventsOf(steps: number): RunEvent[] {
  const recorder = new RunRecorder({});
  recorder.start(START);
  for (let step = 1; step <= steps; step++) recorder.step(measures(step));
  return recorder.events;
}

describe("the live page's routes", () => {
  test("send all that happened, then what happens, then the end", async () => {
    const { app, ask } = makeApp();
    const events = eventsOf(3);
    for (const event of events.slice(0, 2)) app.publish(event);
    const response = await ask("/events");
    expect(response.headers.get("content-type")).toStartWith("text/event-stream");
    const body = response.text();
    await Bun.sleep(5);
    for (const event of events.slice(2)) app.publish(event);
    await app.close();
    const sent = (await body).trim().split("\n\n");
    expect(sent[0]).toBe(`event: run\ndata: ${JSON.stringify(events.slice(0, 2))}`);
    expect(sent.slice(1, -1)).toEqual(events.slice(2).map((event) => `data: ${JSON.stringify(event)}`));
    expect(sent.at(-1)).toStartWith("event: close");
  });

  test("a reader that goes is forgotten", async () => {
    const { app, ask } = makeApp();
    const gone = new AbortController();
    const response = await (app as PageApp).fetch(
      new Request(`${ORIGIN}/events`, { headers: { host: "127.0.0.1:8010" }, signal: gone.signal }),
    );
    await response.body!.cancel();
    gone.abort();
    for (const event of eventsOf(1)) app.publish(event);
    await app.close();
    expect((await ask("/stop", {}, "POST")).status).toBe(409);
  });

  test("the buttons ask for what they say, until the run ends", async () => {
    const { app, ask, actions } = makeApp();
    expect((await ask("/stop", { origin: ORIGIN }, "POST")).status).toBe(202);
    expect((await ask("/save", { origin: ORIGIN }, "POST")).status).toBe(202);
    expect((await ask("/stop")).status).toBe(404);
    expect(actions).toEqual(["stop", "save"]);
    const recorder = new RunRecorder({});
    recorder.end({ status: "done", peak_rss_bytes: 1 });
    app.publish(recorder.events[0]);
    expect((await ask("/stop", { origin: ORIGIN }, "POST")).status).toBe(409);
  });

  const foreign: [string, Record<string, string>][] = [
    ["a name that someone made to point here", { host: "evil.example:8010" }],
    ["a name that only begins like this machine's", { host: "127.0.0.1.evil.example" }],
    ["no name", { host: "" }],
    ["another page", { origin: "http://evil.example" }],
    ["another server of this machine", { origin: "http://127.0.0.1:3000" }],
    ["a page without an origin of its own", { origin: "null" }],
  ];
  test.each(foreign)("refuse %s", async (_, headers) => {
    const { ask, actions } = makeApp();
    for (const [path, method] of [
      ["/", "GET"],
      ["/events", "GET"],
      ["/stop", "POST"],
    ]) {
      expect((await ask(path, headers, method)).status).toBe(403);
    }
    expect(actions).toEqual([]);
  });

  test("the page's policy lets its own styles and scripts run, and nothing else", async () => {
    const { ask } = makeApp();
    const response = await ask("/");
    const html = await response.text();
    const policy = response.headers.get("content-security-policy")!;
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("connect-src 'self'");
    expect(policy).not.toContain("unsafe");
    expect(policy.match(/sha256-/g)).toHaveLength(4);
    expect(html).toContain("uPlot");
    expect(html).not.toMatch(/(?:src|href)="(?!data:)/);
  });
});

describe("the report", () => {
  test("holds the run's events as data, whatever texts are in them", () => {
    const recorder = new RunRecorder({});
    recorder.start(START);
    const answer = `</script><script>alert(1)</script><!-- $& $' `;
    recorder.samples(0, [{ question: "q", answer }]);
    const html = renderReport(recorder.events);
    const data = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(html)![1];
    expect(JSON.parse(data)).toEqual(JSON.parse(JSON.stringify(recorder.events)));
    expect(html).not.toContain("<script>alert");
    expect(html).toContain("connect-src 'none'");
    expect(html.length).toBeLessThan(livePage().html.length + 3000);
  });
});

describe("the page's thread", () => {
  const open: LivePage[] = [];
  afterEach(async () => {
    for (const page of open.splice(0)) await page.close();
  });
  const start = async (port?: number, onAction: (action: string) => void = () => {}) => {
    const page = await LivePage.open({ port, onAction });
    open.push(page);
    return page;
  };

  test("answers while this thread computes, and hands the buttons over", async () => {
    const actions: string[] = [];
    const page = await start(0, (action) => actions.push(action));
    // Nothing of this thread runs until the other process has its answer.
    const program = `console.log(await (await fetch("${page.url}/save", { method: "POST" })).text())`;
    const other = Bun.spawnSync([process.execPath, "-e", program], { timeout: 20_000 });
    expect(other.stdout.toString().trim()).toBe('{"asked":"save"}');
    expect(actions).toEqual([]);
    for (let i = 0; i < 100 && actions.length === 0; i++) await Bun.sleep(5);
    expect(actions).toEqual(["save"]);
  });

  test("takes a free port where the usual one is in use, but not instead of one that was asked for", async () => {
    const first = await start(0);
    const port = Number(new URL(first.url).port);
    const error = await LivePage.open({ port, onAction() {} }).catch((thrown: unknown) => thrown);
    expect(String(error)).toBe(
      `PageError: port ${port} is in use; choose another with --ui-port, or leave it out and a free one is taken`,
    );
    const [one, other] = [await start(), await start()];
    expect(one.url).not.toBe(other.url);
  });
});
