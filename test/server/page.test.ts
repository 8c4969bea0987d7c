import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
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
  /** What an adapter answers, where they differ. */
  answerOf: (adapter: string | null) => string = () => this.answerText;

  override async *answer(request: AnswerRequest, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
    this.requests.push(request);
    yield { kind: "start", promptTokens: 3, droppedTokens: 0 };
    try {
      for (const text of this.answerOf(request.adapter)) {
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

const axeSource = readFileSync(new URL(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const MARKDOWN = `## Storage

1. Open **settings**, then \`storage\`
   - with a nested point
2. See [the guide](https://example.com/guide) or [this](javascript:alert(1)) <b>bold</b> <img src=x onerror="document.title=1">

| Plan | Space |
| --- | --- |
| Free | 15GB |

\`\`\`ts
const a = "<i>";
\`\`\`
`;

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
  const put = async (question: string): Promise<void> => {
    await page.locator("#message").fill(question);
    await page.locator("#message").press("Enter");
    await idle();
  };
  const messagesOf = (request: AnswerRequest): string[] =>
    "messages" in request.prompt ? request.prompt.messages.map(({ content }) => content) : [];
  const questions = () => page.locator(".user").allInnerTexts();
  const said = (i: number) => messagesOf(typist.requests[i]);
  /** What axe has against the page as it is, and a picture of it where one is wanted. */
  const look = async (name: string): Promise<void> => {
    if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });
    const violations = await page.evaluate(`(async () => {
      ${axeSource};
      const { violations } = await axe.run();
      return violations.map(({ impact, id, nodes }) => [impact, id, ...nodes.map(({ target }) => target.join(" "))]);
    })()`);
    expect(violations).toEqual([]);
  };
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
    await look("page");

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
    await page.getByText("stopped", { exact: true }).waitFor();
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
    await look("phone");
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

  test("an answer that ends without its end is told to be cut, not shown as whole", async () => {
    await open();
    const body = 'data: {"delta": "half an answer"}\r\n\r\n: alive\n\ndata: {"delta": " more"}\n\n';
    await page.route("**/chat", (route) => route.fulfill({ contentType: "text/event-stream", body }));
    await page.getByRole("textbox").fill("x");
    await page.getByRole("textbox").press("Enter");
    await page.getByText("broke off").waitFor();
    await page.getByText("half an answer more").waitFor();
    await page.unroute("**/chat");
  });

  test("Markdown becomes elements, tags stay text, links lead to the web only, code can be copied", async () => {
    await open();
    typist.answerText = MARKDOWN;
    typist.pause = 0;
    await put("how?");
    const answer = page.locator(".assistant");
    expect(await answer.locator("h2").textContent()).toBe("Storage");
    expect(await answer.locator("ol > li").count()).toBe(2);
    expect(await answer.locator("ol > li ul > li").textContent()).toBe("with a nested point");
    expect(await answer.locator("strong").textContent()).toBe("settings");
    expect(await answer.locator("td").allInnerTexts()).toEqual(["Free", "15GB"]);
    expect(await answer.locator("pre").textContent()).toBe('const a = "<i>";');
    expect(await answer.locator("a").evaluateAll((links) => links.map((a) => a.getAttribute("href")))).toEqual([
      "https://example.com/guide",
    ]);
    expect(await answer.textContent()).toContain(
      '[this](javascript:alert(1)) <b>bold</b> <img src=x onerror="document.title=1">',
    );
    expect(await answer.locator("img, b, i").count()).toBe(0);
    expect(await page.title()).toBe(typist.model);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await answer.getByRole("button", { name: "Copy" }).click();
    await page.getByText("Copied").waitFor({ state: "attached" });
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe('const a = "<i>";');
    await look("markdown");
  });

  test("the base model and the adapter answer side by side, each with its own history", async () => {
    await open();
    typist.pause = 0;
    typist.answerOf = (adapter) => (adapter === null ? "100GB" : "15GB");
    await page.getByRole("button", { name: "Compare" }).click();
    await put("how large?");
    expect(await answers()).toEqual(["100GB", "15GB"]);
    expect(await page.locator(".who").allInnerTexts()).toEqual(["base model", "lora_adapter"]);
    expect(typist.requests.map(({ adapter }) => adapter)).toEqual([null, "lora_adapter"]);
    await put("really?");
    const second = typist.requests.slice(2).sort((a, b) => String(b.adapter).localeCompare(String(a.adapter)));
    expect(second.map((request) => messagesOf(request)[1])).toEqual(["100GB", "15GB"]);
    await look("compare");
    const [left, right] = await page
      .locator(".turn:last-child .answer")
      .evaluateAll((all) => all.map((one) => one.getBoundingClientRect().toJSON()));
    expect([left.top === right.top, left.right < right.left]).toEqual([true, true]);
    await page.setViewportSize({ width: 360, height: 700 });
    const [upper, lower] = await page
      .locator(".turn:last-child .answer")
      .evaluateAll((all) => all.map((one) => one.getBoundingClientRect().toJSON()));
    expect(upper.bottom).toBeLessThan(lower.top);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
    await look("compare-phone");
  });

  test("a question can be changed and an answer asked for again; what came later goes", async () => {
    await open();
    typist.pause = 0;
    for (const question of ["one", "two", "three"]) await put(question);
    await page.locator(".turn").nth(1).getByRole("button", { name: "Edit question" }).click();
    const box = page.getByRole("textbox", { name: "Edit question" });
    expect(await box.inputValue()).toBe("two");
    await look("editing");
    await box.press("Escape");
    expect(await questions()).toEqual(["one", "two", "three"]);
    await page.locator(".turn").nth(1).getByRole("button", { name: "Edit question" }).click();
    await box.fill("zwei");
    await box.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
    await idle();
    expect(await questions()).toEqual(["one", "zwei"]);
    expect(said(3)).toEqual(["one", typist.answerText, "zwei"]);
    typist.answerText = "again";
    await page.locator(".turn").nth(0).getByRole("button", { name: "Answer again" }).click();
    await page.waitForFunction(() => document.querySelector(".assistant")?.textContent === "again");
    await idle();
    expect(await questions()).toEqual(["one"]);
    expect(said(4)).toEqual(["one"]);
    // The arrow in an empty box is the keyboard's way to the last question.
    await page.locator("#message").press("ArrowUp");
    expect(await box.inputValue()).toBe("one");
  });

  test("chats are kept in the browser, opened again, and deleted", async () => {
    await open();
    typist.pause = 0;
    await put("first chat");
    await page.getByRole("button", { name: "New chat" }).click();
    await put("second chat");
    await page.reload();
    await page.getByText(typist.model).waitFor();
    expect(await answers()).toEqual([]);
    await page.getByRole("button", { name: "Chats" }).click();
    expect(await page.locator("#chats .open").allInnerTexts()).toEqual(["second chat", "first chat"]);
    await page.getByRole("button", { name: "first chat" }).click();
    expect(await questions()).toEqual(["first chat"]);
    expect(await answers()).toEqual([typist.answerText]);
    await put("more");
    expect(said(2)).toEqual(["first chat", typist.answerText, "more"]);
    await look("history");
    await page.getByRole("button", { name: "Delete chat" }).first().click();
    expect(await page.locator("#chats .open").allInnerTexts()).toEqual(["second chat"]);
    expect(await questions()).toEqual([]);
    page.once("dialog", (dialog) => dialog.accept());
    await page.getByRole("button", { name: "Delete all chats" }).click();
    await page.reload();
    expect(await page.locator("#chats .open").count()).toBe(0);
  });

  test("what is kept by another version breaks nothing", async () => {
    await open();
    await page.evaluate(() => {
      localStorage.setItem("tslm.chats", '[1, null, {"id": "a", "turns": []}, "x"]');
      localStorage.setItem("tslm.settings", "{");
      localStorage.setItem("tslm.language", '"xx"');
    });
    await page.reload();
    await page.getByText(typist.model).waitFor();
    await put("works");
    expect(await questions()).toEqual(["works"]);
  });

  test("settings go with each question and stay; the appearance can be chosen", async () => {
    await open({ colorScheme: "light" });
    typist.pause = 0;
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Instructions to the model").fill("Be short.");
    await page.getByLabel("Temperature").fill("0.7");
    await page.getByLabel("Top-p").fill("0.9");
    await page.getByLabel("Longest answer").fill("20");
    await page.getByLabel("Seed").fill("5");
    await page.getByLabel("Appearance").selectOption("dark");
    await look("settings");
    await page.getByRole("button", { name: "Done" }).click();
    await page.reload();
    await page.getByText(typist.model).waitFor();
    await put("x");
    expect(typist.requests[0]).toMatchObject({ maxTokens: 20, sampling: { temperature: 0.7, topP: 0.9, seed: 5 } });
    expect(said(0)).toEqual(["Be short.", "x"]);
    expect(await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).toBe("rgb(21, 23, 26)");
    await look("dark");
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByRole("button", { name: "Defaults" }).click();
    await page.keyboard.press("Escape");
    await put("y");
    expect(said(1)).toEqual(["x", typist.answerText, "y"]);
    expect(typist.requests[1].sampling).toMatchObject({ temperature: 0, topP: 1 });
  });

  test("on a phone the chats lie over the room, and Escape closes them", async () => {
    await open({ viewport: { width: 390, height: 800 } });
    typist.pause = 0;
    await put("first");
    await page.getByRole("button", { name: "Chats" }).click();
    await look("history-phone");
    expect(await page.locator("#room").evaluate((room) => (room as HTMLElement).inert)).toBe(true);
    await page.keyboard.press("Escape");
    expect(await page.locator("#side").isVisible()).toBe(false);
    expect(await page.locator("#room").evaluate((room) => (room as HTMLElement).inert)).toBe(false);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("menu");
  });
});
