/** The comparison in headless Chromium, in a page that shares memory with its workers: bun chromium.ts [--budget MS] */
import { cpus } from "node:os";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values } = parseArgs({ options: { budget: { type: "string", default: "150" } } });
const { outputs } = await Bun.build({
  entrypoints: ["page.ts"],
  target: "browser",
  splitting: true,
  minify: true,
  external: ["gpu.js"],
  // TensorFlow.js registers its kernels by importing them, and does not tell bundlers so.
  ignoreDCEAnnotations: true,
});
const code = new Map(outputs.map((output) => [basename(output.path), output]));
const wasm = "node_modules/@tensorflow/tfjs-backend-wasm/dist";
const server = Bun.serve({
  port: 0,
  fetch({ url }) {
    const name = basename(new URL(url).pathname);
    const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
    if (name === "") {
      const page = '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>';
      return new Response(page, { headers: { ...headers, "Content-Type": "text/html" } });
    }
    const found = code.get(name);
    return new Response(found ?? Bun.file(`${wasm}/${name}`), { headers });
  },
});
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage();
page.setDefaultTimeout(0);
page.on("pageerror", (error) => console.error(String(error)));
await page.goto(server.url.href);
await page.waitForFunction(() => "run" in globalThis);
const rows = await page.evaluate(
  (budget) => (globalThis as unknown as { run(budget: number): Promise<string> }).run(budget),
  Number(values.budget),
);
console.log(`Chromium ${browser.version()}, ${cpus()[0].model}\n\n${rows}`);
await browser.close();
server.stop(true);
