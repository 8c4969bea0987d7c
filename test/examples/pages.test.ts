import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { HAS_CHROMIUM, launch, openPage, serveFolder } from "../support/browser.ts";
import { execute, type Project, project } from "../support/packed.ts";
import { command, OFFLINE, ROOT, temporaryFolder } from "../support/process.ts";

setDefaultTimeout(120_000);

/** Where screenshots go, for people to look at; none are made unless set. */
const { SCREENSHOTS } = process.env;

const DESKTOP = { viewport: { width: 1200, height: 900 } } as const;
const PHONE = { viewport: { width: 390, height: 844 }, colorScheme: "dark" } as const;

async function shoot(page: Page, name: string): Promise<void> {
  if (SCREENSHOTS) await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

/** An example's project, installed and built. */
async function built(name: string, ...args: string[]): Promise<Project> {
  const home = await project({ copy: join(ROOT, "examples", name) }, { optional: true });
  const compiler = join(ROOT, "node_modules", "typescript", "bin", "tsc");
  expect(await execute(home.path, process.execPath, compiler, "-p", ".")).toMatchObject({ status: 0, stdout: "" });
  expect(await execute(home.path, process.execPath, "build.ts", ...args)).toMatchObject({ status: 0, stderr: "" });
  return home;
}

/** The page's line that tells how it goes, when it says so. */
const status = async (page: Page, what: RegExp): Promise<string> => {
  await page.waitForFunction(
    ([source]) => {
      const line = document.querySelector("#status")!;
      return line.classList.contains("failed") || new RegExp(source).test(line.textContent ?? "");
    },
    [what.source],
  );
  return (await page.locator("#status").textContent())!;
};

/** Runs in the page. */
const hasAdapter = async (): Promise<boolean> => {
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<object | null> } };
  return ((await gpu?.requestAdapter()) ?? null) !== null;
};

/** How wide the page is beyond its window. */
const overflow = (page: Page): Promise<number> =>
  page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

/** Height of each column's plotted point, from the top, by the pixels of the line's colour; columns without one are left out. */
const plotted = (page: Page): Promise<number[]> =>
  page.evaluate(() => {
    const canvas = document.querySelector<HTMLCanvasElement>("#plot canvas")!;
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d")!.getImageData(0, 0, width, height);
    const rows: number[] = [];
    for (let x = 0; x < width; x++) {
      const found: number[] = [];
      for (let y = 0; y < height; y++) {
        const [red, , blue, alpha] = data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4);
        // The line is blue in both colour schemes; axes and text are grey.
        if (alpha > 128 && blue - red > 60) found.push(y);
      }
      if (found.length > 0) rows.push(found.reduce((a, b) => a + b) / found.length);
    }
    return rows;
  });

/** What the page's adapter, downloaded, gives in the command line, and what the page itself says of it. */
async function inCommandLine(page: Page, home: Project) {
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("link", { name: "Download the adapter" }).click(),
  ]);
  await using folder = await temporaryFolder();
  const zip = join(folder.path, "adapter.zip");
  await download.saveAs(zip);
  expect(download.suggestedFilename()).toBe("adapter.zip");
  const { unzipSync } = await import(join(home.path, "node_modules", "fflate"));
  const files: Record<string, Uint8Array> = unzipSync(await Bun.file(zip).bytes());
  expect(Object.keys(files).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors", "prompt.json"]);
  for (const [name, bytes] of Object.entries(files)) await Bun.write(join(folder.path, "adapter", name), bytes);
  const question = JSON.stringify([{ instruction: "回答关于飞跃云产品的问题", input: "免费空间有多大?" }]);
  await Bun.write(join(folder.path, "rows.json"), question);
  const evaluate = async (...args: string[]): Promise<Evaluated> => {
    const all = [join(folder.path, "rows.json"), ...args, "--model", "demo", "--json", "--generate", "60"];
    const { status, stdout, stderr } = await command("eval", all, { env: { ...OFFLINE, TENSOR_ISA: "wasm" } });
    expect({ status, stderr }).toMatchObject({ status: 0 });
    return JSON.parse(stdout.split("\n")[0]);
  };
  const scores: Evaluated = JSON.parse((await page.locator("#scores").textContent())!);
  return { scores, adapted: await evaluate("--adapter", join(folder.path, "adapter")), base: await evaluate() };
}

/** What `bun run eval` says of a prompt. */
interface Evaluated {
  prompt: string;
  top: [id: number, logit: number][];
  logsumexp: number;
  text: string;
}

/** The line ends lower than it began, by more than a quarter of what it spans. */
function expectFalling(rows: readonly number[]): void {
  expect(rows.length).toBeGreaterThan(50);
  const mean = (part: readonly number[]): number => part.reduce((a, b) => a + b) / part.length;
  const tenth = Math.ceil(rows.length / 10);
  const fallen = mean(rows.slice(-tenth)) - mean(rows.slice(0, tenth));
  expect(fallen).toBeGreaterThan(0.25 * (Math.max(...rows) - Math.min(...rows)));
}

describe.skipIf(!HAS_CHROMIUM)("the example pages in a browser", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launch();
  });
  afterAll(() => browser?.close());

  describe("digits-browser", () => {
    let home: Project;
    beforeAll(async () => {
      home = await built("digits-browser");
    });
    afterAll(() => home?.[Symbol.asyncDispose]());

    test.each([
      ["desktop, threads that share memory", DESKTOP, true],
      ["phone, one thread", PHONE, false],
    ])("%s: trains live, the plotted loss falls", async (name, options, isolated) => {
      using server = serveFolder(join(home.path, "dist"), { isolated });
      const { page, problems } = await openPage(browser, server.url.href, options);
      await page.locator("#device").selectOption("cpu");
      await page.locator("#epochs").fill("4");
      await page.getByRole("button", { name: "Train" }).click();
      const done = await status(page, /^Done/);
      expect(done.startsWith("Done, on cpu (wasm")).toBe(true);
      expect(done.includes("threads")).toBe(isolated);
      expect(Number.parseFloat((await page.locator("#accuracy").textContent())!)).toBeGreaterThan(88);
      expectFalling(await plotted(page));
      expect(await page.locator("#samples canvas").count()).toBe(40);
      expect(await page.locator("#samples .wrong").count()).toBeLessThan(10);
      expect(await overflow(page)).toBe(0);
      await shoot(page, `digits-${name.split(",")[0]}`);
      expect(problems).toEqual([]);
      await page.close();
    });

    test("on WebGPU: trains live, the plotted loss falls", async () => {
      await using gpu = await launch({ webgpu: true }).then((b) => ({
        browser: b,
        [Symbol.asyncDispose]: () => b.close(),
      }));
      using server = serveFolder(join(home.path, "dist"));
      const { page, problems } = await openPage(gpu.browser, server.url.href, DESKTOP);
      if (!(await page.evaluate(hasAdapter))) return console.warn("skipped: this browser has no WebGPU adapter");
      await page.locator("#device").selectOption("gpu");
      await page.locator("#epochs").fill("1");
      await page.getByRole("button", { name: "Train" }).click();
      expect(await status(page, /^Done/)).toContain("on gpu");
      expectFalling(await plotted(page));
      expect(Number.parseFloat((await page.locator("#accuracy").textContent())!)).toBeGreaterThan(80);
      await shoot(page, "digits-webgpu");
      expect(problems).toEqual([]);
    });

    test("without WebGPU, on WebGL 2: trains live, the plotted loss falls", async () => {
      await using gl = await launch({ webgl: true }).then((b) => ({
        browser: b,
        [Symbol.asyncDispose]: () => b.close(),
      }));
      using server = serveFolder(join(home.path, "dist"));
      const { page, problems } = await openPage(gl.browser, server.url.href, DESKTOP);
      expect(await page.evaluate(hasAdapter)).toBe(false);
      await page.locator("#device").selectOption("gpu");
      await page.locator("#epochs").fill("1");
      await page.getByRole("button", { name: "Train" }).click();
      expect(await status(page, /^Done/)).toBe("Done, on gpu (gpu.js webgl2).");
      expectFalling(await plotted(page));
      expect(Number.parseFloat((await page.locator("#accuracy").textContent())!)).toBeGreaterThan(80);
      await shoot(page, "digits-webgl2");
      expect(problems).toEqual([]);
    });

    test("stops when told, and can train again", async () => {
      using server = serveFolder(join(home.path, "dist"), { isolated: true });
      const { page, problems } = await openPage(browser, server.url.href);
      await page.locator("#device").selectOption("cpu");
      await page.locator("#epochs").fill("50");
      await page.getByRole("button", { name: "Train" }).click();
      await page.waitForFunction(() => /^\d/.test(document.querySelector("#accuracy")!.textContent!));
      await page.getByRole("button", { name: "Stop" }).click();
      expect(await status(page, /^Stopped/)).toBe("Stopped.");
      await page.locator("#epochs").fill("1");
      await page.getByRole("button", { name: "Train" }).click();
      await status(page, /^Done/);
      expect(problems).toEqual([]);
      await page.close();
    });
  });

  describe("lora-browser", () => {
    let home: Project;
    beforeAll(async () => {
      home = await built("lora-browser", join(ROOT, "models", "demo"));
    });
    afterAll(() => home?.[Symbol.asyncDispose]());

    test("learns an answer; the downloaded adapter gives the command line the same logits", async () => {
      using server = serveFolder(join(home.path, "dist"), { isolated: true });
      const { page, problems } = await openPage(browser, server.url.href, DESKTOP);
      expect(await status(page, /^Ready/)).toBe("Ready, on cpu (wasm, 2 threads).".replace("2", await threads(page)));
      expect(await page.locator("#before").textContent()).toContain("100GB");
      await page.getByRole("button", { name: "Fine-tune" }).click();
      expect(await status(page, /^Done/)).toStartWith("Done: 14,336 parameters trained");
      expect(await page.locator("#after").textContent()).toContain("15GB");
      expectFalling(await plotted(page));
      await shoot(page, "lora-desktop");

      const { scores, adapted, base } = await inCommandLine(page, home);
      expect(adapted.prompt).toBe(scores.prompt);
      // The same kernels in the same order: the same bits.
      expect(adapted.top).toEqual(scores.top);
      expect(adapted.logsumexp).toBe(scores.logsumexp);
      expect(adapted.text).toBe((await page.locator("#after").textContent())!);
      expect(base.top).not.toEqual(scores.top);
      expect(problems).toEqual([]);
      await page.close();
    });

    test("a phone: fits, and says what is wrong with a row", async () => {
      using server = serveFolder(join(home.path, "dist"));
      const { page, problems } = await openPage(browser, server.url.href, PHONE);
      expect(await status(page, /^Ready/)).toBe("Ready, on cpu (wasm).");
      await page.locator("#rows").fill("a question without an answer");
      await page.getByRole("button", { name: "Fine-tune" }).click();
      expect(await status(page, /^line/)).toContain("line 1 must be a question, one bar, and its answer");
      await page.locator("#rows").fill("ok?|ok!");
      await page.locator("#epochs").fill("2");
      await page.getByRole("button", { name: "Fine-tune" }).click();
      await status(page, /^Done/);
      expect(await overflow(page)).toBe(0);
      await shoot(page, "lora-phone");
      expect(problems).toEqual([]);
      await page.close();
    });

    test("on WebGPU: learns too, and the adapter gives the same logits up to f32's rounding", async () => {
      await using gpu = await launch({ webgpu: true }).then((b) => ({
        browser: b,
        [Symbol.asyncDispose]: () => b.close(),
      }));
      using server = serveFolder(join(home.path, "dist"), { isolated: true });
      const { page, problems } = await openPage(gpu.browser, server.url.href, DESKTOP);
      if (!(await page.evaluate(hasAdapter))) return console.warn("skipped: this browser has no WebGPU adapter");
      await status(page, /^Ready/);
      await page.locator("#device").selectOption("gpu");
      await status(page, /^Ready, on gpu/);
      await page.locator("#epochs").fill("2");
      await page.getByRole("button", { name: "Fine-tune" }).click();
      expect(await status(page, /^Done/)).toContain("on gpu");
      const { scores, adapted, base } = await inCommandLine(page, home);
      const logit = ({ top }: Evaluated, id: number): number => top.find(([found]) => found === id)?.[1] ?? Number.NaN;
      for (const [id, value] of scores.top.slice(0, 5)) expect(Math.abs(logit(adapted, id) - value)).toBeLessThan(1e-4);
      expect(Math.abs(adapted.logsumexp - scores.logsumexp)).toBeLessThan(1e-4);
      expect(Math.abs(base.logsumexp - scores.logsumexp)).toBeGreaterThan(1e-2);
      await shoot(page, "lora-webgpu");
      expect(problems).toEqual([]);
    });
  });
});

const threads = (page: Page): Promise<string> => page.evaluate(() => String(navigator.hardwareConcurrency));
