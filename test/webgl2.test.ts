/** The gpu device on gpu.js' WebGL 2, in Chromium on its software driver: the conformance suite of all devices. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { DEVICE_TESTS } from "../packages/tensor/src/devices/conformance.ts";
import { HAS_CHROMIUM, launch, openPage, serveFolder } from "./support/browser.ts";
import { temporaryFolder } from "./support/process.ts";
import type { Outcome } from "./support/webgl2-suite.ts";

/** What WebGL 2 does not give, and why. */
const SKIPPED: Readonly<Record<string, string>> = {
  "elementwise: numbers too small for a normal f32 are kept": "GLSL lets a GPU take subnormal numbers as 0",
};

declare const suite: { adapter: string; names: string[]; run(name: string): Promise<Outcome> };

describe.skipIf(!HAS_CHROMIUM)("gpu on webgl2", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Bun.Server<undefined>;
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    folder = await temporaryFolder();
    // In a process of its own: where other tests have loaded gpu.js for Bun, the bundler takes that one.
    const built = Bun.spawn(["bun", join(import.meta.dir, "support", "build-webgl2-suite.ts"), folder.path], {
      stdout: "ignore",
      stderr: "pipe",
    });
    expect(await new Response(built.stderr).text()).toBe("");
    expect(await built.exited).toBe(0);
    const html = '<!doctype html><link rel="icon" href="data:,"><script type="module" src="webgl2-suite.js"></script>';
    await Bun.write(join(folder.path, "index.html"), html);
    server = serveFolder(folder.path);
    browser = await launch({ webgl: true });
    ({ page } = await openPage(browser, `http://127.0.0.1:${server.port}/`));
    await page.waitForFunction(() => "suite" in globalThis);
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    server?.stop(true);
    await folder?.[Symbol.asyncDispose]();
  });

  for (const { name } of DEVICE_TESTS) {
    const reason = SKIPPED[name];
    if (reason !== undefined) test.skip(`${name} (${reason})`, () => {});
    else {
      test(name, async () => {
        const outcome = await page.evaluate((which) => suite.run(which), name);
        expect(outcome.error).toBeUndefined();
      }, 60_000);
    }
  }
});
