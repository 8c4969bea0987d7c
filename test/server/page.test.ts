import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import {
  type AnswerEvent,
  type AnswerRequest,
  createApp,
  createLogger,
  type RunningServer,
  serve,
} from "../../apps/server/src/index.ts";
import { EchoBackend } from "../../apps/server/src/testing.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];

/** Answers character by character, as slowly as a test wants it. */
class Typist extends EchoBackend {
  override model = "Typist-0.5B";
  override adapters = ["lora_adapter", "other"].map((name) => ({ name, version: 1, scale: 1, rank: 8, running: 0 }));
  override answerText = "您好!飞跃云为每一位注册用户提供 15GB 的基础免费存储空间。";
  override pause = 5;
  wasAborted = false;

  override async *answer(request: AnswerRequest, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
    this.requests.push(request);
    yield { kind: "start", promptTokens: 3, droppedTokens: 0 };
    try {
      for (const text of this.answerText) {
        await Bun.sleep(this.pause);
        signal.throwIfAborted();
        if (text === "☠") throw new Error("broken");
        yield { kind: "piece", index: 0, text, tokens: 1 };
      }
    } finally {
      if (signal.aborted) this.wasAborted = true;
    }
    const usage = { promptTokens: 3, cachedTokens: 0, completionTokens: this.answerText.length };
    const times = { queuedMs: 0, firstTokenMs: 1, totalMs: 1 };
    yield { kind: "end", index: 0, finishReason: "length", usage: { ...usage, ...times } };
  }
}

const isThere = existsSync(CHROMIUM);
if (!isThere) console.warn(`skipped: no browser at ${CHROMIUM}; install Debian's chromium or set CHROMIUM`);

describe.skipIf(!isThere)("the page in a browser", () => {
  let browser: Browser;
  let server: RunningServer;
  let typist: Typist;
  let page: Page;
  const problems: string[] = [];

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  });
  afterAll(() => browser?.close());
  afterEach(async () => {
    await page.close();
    await server.stop(0);
    expect(problems.splice(0)).toEqual([]);
  });

  async function open(options: Parameters<Browser["newPage"]>[0] = {}): Promise<void> {
    typist = new Typist();
    server = serve({ app: createApp({ backend: typist, logger: createLogger("silent") }), port: 0, host: "127.0.0.1" });
    page = await browser.newPage({ locale: "en-US", ...options });
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") problems.push(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) problems.push(request.url());
    });
    await page.goto(server.url);
    await page.getByText(typist.model).waitFor();
  }
  const answers = () => page.locator(".assistant").allInnerTexts();
  const idle = () => page.getByRole("button", { name: /Send|发送/ }).waitFor();

  test("asks with Enter, streams the answer, keeps the conversation, loads nothing from elsewhere", async () => {
    await open();
    const box = page.getByRole("textbox");
    await box.fill("免费空间有多大?");
    await box.press("Enter");
    await page.waitForFunction(() => (document.querySelector(".assistant")?.textContent ?? "").length > 3);
    expect((await answers())[0].length).toBeLessThan(typist.answerText.length);
    await idle();
    expect(await answers()).toEqual([typist.answerText]);
    expect(await page.getByText("cut at the length limit").count()).toBe(1);

    await box.pressSequentially("second");
    await box.press("Shift+Enter");
    await box.pressSequentially("line");
    await box.press("Enter");
    await idle();
    expect(typist.requests[1].prompt).toEqual({
      messages: [
        { role: "user", content: "免费空间有多大?" },
        { role: "assistant", content: typist.answerText },
        { role: "user", content: "second\nline" },
      ],
    });
    expect(typist.requests[0].adapter).toBe("lora_adapter");
    if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/page.png` });

    await page.getByRole("button", { name: "New chat" }).click();
    expect(await answers()).toEqual([]);
    await page.getByRole("combobox").selectOption({ label: "base model" });
    await box.fill("x");
    await box.press("Enter");
    await idle();
    expect(typist.requests[2].adapter).toBeNull();
    expect(typist.requests[2].prompt).toMatchObject({ messages: [{ content: "x" }] });
  });

  test.each(["button", "Escape"])("stops by %s, keeping what came", async (how) => {
    await open();
    typist.answerText = "word ".repeat(500);
    await page.getByRole("textbox").fill("go on");
    await page.getByRole("button", { name: "Send" }).click();
    await page.waitForFunction(() => (document.querySelector(".assistant")?.textContent ?? "").length > 20);
    if (how === "button") await page.getByRole("button", { name: "Stop" }).click();
    else await page.keyboard.press("Escape");
    await idle();
    await page.getByText("stopped").waitFor();
    for (let i = 0; i < 200 && !typist.wasAborted; i++) await Bun.sleep(10);
    expect(typist.wasAborted).toBe(true);
    expect((await answers())[0]).toContain("word word");
  });

  test("an input method's Enter chooses a word and sends nothing", async () => {
    await open();
    const box = page.getByRole("textbox");
    await box.fill("nihao");
    await box.dispatchEvent("keydown", { key: "Enter", isComposing: true });
    await Bun.sleep(50);
    expect(typist.requests).toHaveLength(0);
    expect(await box.inputValue()).toBe("nihao");
  });

  test("speaks Chinese where the browser does, and changes on a click", async () => {
    await open({ locale: "zh-CN" });
    await page.getByRole("button", { name: "发送" }).waitFor();
    expect(await page.locator("html").getAttribute("lang")).toBe("zh-CN");
    await page.getByRole("button", { name: "English" }).click();
    await page.getByRole("button", { name: "Send" }).waitFor();
  });

  test("fits a phone in the dark, also with long words", async () => {
    await open({ viewport: { width: 360, height: 640 }, colorScheme: "dark", locale: "zh-CN" });
    typist.answerText = `${"长".repeat(60)} ${"x".repeat(200)} https://example.com/${"path/".repeat(30)}`;
    typist.pause = 0;
    await page.getByRole("textbox").fill("y".repeat(300));
    await page.getByRole("textbox").press("Enter");
    await idle();
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(background).toBe("rgb(21, 23, 26)");
    if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/phone.png` });
  });

  test("text is shown as text, never as markup", async () => {
    await open();
    typist.answerText = '<img src=x onerror="document.title=1"><b>bold</b>';
    await page.getByRole("textbox").fill("<script>document.title=2</script>");
    await page.getByRole("textbox").press("Enter");
    await idle();
    expect(await answers()).toEqual([typist.answerText]);
    expect(await page.title()).toBe(typist.model);
  });

  test("a failure on the way is told, and one may go on", async () => {
    await open();
    typist.answerText = "half ☠";
    await page.getByRole("textbox").fill("x");
    await page.getByRole("textbox").press("Enter");
    await page.getByText("the server failed on this request").waitFor();
    await idle();
    await server.stop(0);
    await page.getByRole("textbox").fill("x");
    await page.getByRole("textbox").press("Enter");
    await page.getByText("cannot be reached").waitFor();
    problems.splice(0); // the browser itself reports the refused connection
  });
});
