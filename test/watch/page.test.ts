import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { readRun } from "../../packages/watch/src/index.ts";
import { OFFLINE, type Running, start, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const isThere = existsSync(CHROMIUM);
if (!isThere) console.warn(`skipped: no browser at ${CHROMIUM}; install Debian's chromium or set CHROMIUM`);

describe.skipIf(!isThere)("a training, watched in a browser", () => {
  let browser: Browser;
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  let page: Page;
  const problems: string[] = [];

  beforeAll(async () => {
    [browser, home] = await Promise.all([
      chromium.launch({ executablePath: CHROMIUM, args: FLAGS }),
      temporaryFolder(),
    ]);
    await writeTinyModel(join(home.path, "tiny"));
    const examples = ["免费空间有多大?", "two"].map((input) => ({
      instruction: "Say it.",
      input,
      output: `${input}!`,
    }));
    await Bun.write(join(home.path, "rows.jsonl"), examples.map((example) => JSON.stringify(example)).join("\n"));
  });
  afterAll(async () => {
    await browser?.close();
    await home?.[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await page.close();
    expect(problems.splice(0)).toEqual([]);
  });

  async function open(url: string, options: Parameters<Browser["newPage"]>[0] = {}): Promise<void> {
    page = await browser.newPage({ locale: "en-US", ...options });
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") problems.push(message.text());
    });
    page.on("request", (request) => {
      const asked = request.url();
      if (!asked.startsWith(url) && !asked.startsWith("data:")) problems.push(asked);
    });
    await page.goto(url);
  }
  function train(out: string, ...options: string[]): Running {
    const files = ["--model", "tiny", "--data", "rows.jsonl", "--out", `${out}/adapter`];
    return start("train", [...files, "--grad-accum", "1", ...options], { cwd: home.path, env: OFFLINE });
  }
  const runFolder = (out: string) => join(home.path, out, "runs", readdirSync(join(home.path, out, "runs"))[0]);
  const shot = async (name: string) => {
    if (process.env.SCREENSHOTS)
      await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png`, fullPage: true });
  };
  /** Pixels of each chart that are drawn on. */
  const ink = () =>
    page.locator("figure canvas").evaluateAll((all) =>
      (all as unknown as HTMLCanvasElement[]).map((canvas) => {
        const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
        return data.reduce((count, value, i) => count + (i % 4 === 3 && value > 0 ? 1 : 0), 0);
      }),
    );
  const number = (label: string) =>
    page.locator("#numbers > div", { has: page.locator("dt", { hasText: new RegExp(`^${label}$`) }) }).locator("dd");
  const width = () => page.evaluate(() => document.documentElement.scrollWidth);

  test("shows curves and samples as they come, saves and stops at a click", async () => {
    const running = train("live", "--epochs", "50000", "--ui", "--ui-port", "0", "--sample-every", "25");
    const url = /Watch it at (\S+)/.exec(await running.printed(/Watch it at \S+\n/))![1];
    await open(url);
    await page.waitForFunction(
      () => Number(document.querySelector("#subtitle")?.textContent?.match(/step (\d+)/)?.[1]) > 60,
    );
    await page.getByText(/^After step \d+$/).waitFor();
    expect(await page.locator("#status").textContent()).toBe("training");
    expect(Number(await number("Loss").textContent())).toBeGreaterThan(0);
    expect(await number("Token accuracy").textContent()).toMatch(/^[\d.]+ %$/);
    expect(await number("Time left").textContent()).toMatch(/\d/);
    const [before, , , rate] = await ink();
    expect(before).toBeGreaterThan(500);
    expect(rate).toBeGreaterThan(500);
    await shot("live");

    // A page from elsewhere may not stop it.
    const other = await browser.newPage();
    const attempt = fetch(`${url}/stop`, { method: "POST", headers: { Origin: "http://evil.example" } });
    expect((await attempt).status).toBe(403);
    await other.close();

    await page.getByRole("button", { name: "Save now" }).click();
    await page.getByText(/^Saved at step \d+: /).waitFor();
    const saved = /: (.+)$/.exec((await page.locator("#note").textContent())!)![1];
    expect(readdirSync(join(home.path, saved))).toContain("adapter_model.safetensors");

    await page.getByRole("button", { name: "Stop and save" }).click();
    await page.getByText("The run has ended; this page shows all of it.").waitFor();
    expect(await page.locator("#status").textContent()).toBe("stopped early");
    expect(await page.locator("#diagnosis").isVisible()).toBe(true);
    expect(await page.getByRole("button", { name: "Stop and save" }).isVisible()).toBe(false);
    await shot("stopped");

    const { status, stderr } = await running.ended();
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: expect.stringContaining("The adapter is in live/adapter."),
    });
    expect(readdirSync(join(home.path, "live/adapter"))).toContain("adapter_model.safetensors");
    const run = await readRun(runFolder("live"));
    expect(run.status).toBe("stopped");
    expect(run.steps.length).toBeLessThan(100_000);
    expect(run.checkpoints.length).toBeGreaterThan(0);
  });

  test("fits a phone in the dark, in Chinese, and says when the program is gone", async () => {
    const running = train("phone", "--epochs", "50000", "--ui", "--ui-port", "0");
    const url = /Watch it at (\S+)/.exec(await running.printed(/Watch it at \S+\n/))![1];
    await open(url, { viewport: { width: 360, height: 640 }, colorScheme: "dark", locale: "zh-CN" });
    await page.getByRole("button", { name: "停止并保存" }).waitFor();
    await page.waitForFunction(() => /步 \d\d/.test(document.querySelector("#subtitle")?.textContent ?? ""));
    expect(await width()).toBeLessThanOrEqual(360);
    expect(await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).toBe("rgb(21, 23, 26)");
    await shot("phone");
    running.process.kill("SIGKILL");
    await page.getByText("程序已结束或无法连接。").waitFor();
    await running.ended();
    expect((await readRun(runFolder("phone"))).status).toBe("killed");
    problems.splice(0); // the browser itself reports the broken connection
  });

  test("the report is one file with curves, answers, settings, machine and time, and loads nothing", async () => {
    const running = train("report", "--epochs", "4", "--sample", "免费空间有多大?", "--sample-every", "2");
    const { status, stderr } = await running.ended();
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringContaining("/report.html") });
    const folder = runFolder("report");
    const run = await readRun(folder);
    await open(pathToFileURL(join(folder, "report.html")).href);
    for (const pixels of await ink()) expect(pixels).toBeGreaterThan(500);
    expect(await page.title()).toContain("tiny → report/adapter");
    expect(await page.locator("#status").textContent()).toBe("done");
    expect(await page.getByRole("button", { name: "Stop and save" }).isVisible()).toBe(false);
    expect(await page.locator(".sample h3").allInnerTexts()).toEqual(["免费空间有多大?"]);
    const [first, ...later] = run.samples.map(({ answers }) => answers[0].answer);
    expect(await page.locator(".sample .before").allTextContents()).toEqual([first]);
    expect(await page.locator(".answers .after").allTextContents()).toEqual([later.at(-1)!]);
    await page.getByText("All answers (4)").click();
    const facts = (await page.locator("table.facts tr").allInnerTexts()).map((row) => row.split(/\t/));
    const value = (name: string) => facts.find(([label]) => label === name)?.[1];
    expect(value("epochs")).toBe("4");
    expect(value("targets")).toBe("q_proj, v_proj");
    expect(value("processor")).toBe(run.start.machine.cpu);
    expect(value("tokens trained")).toBe(String(run.steps.reduce((sum, { tokens }) => sum + tokens, 0)));
    expect(value("Time")).toMatch(/ s$/);
    const diagnosis = await page.locator("#diagnosis").textContent();
    for (const line of run.end!.diagnosis!.reasons) expect(diagnosis).toContain(line);
    // What a page shows it must also draw when the window changes.
    await page.setViewportSize({ width: 360, height: 640 });
    await page.waitForFunction(() => document.documentElement.scrollWidth <= 360);
    await shot("report");
  });
});
