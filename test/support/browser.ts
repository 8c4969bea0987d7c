import { existsSync } from "node:fs";
import { join, normalize } from "node:path";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];

/** Is there a browser? Where not, tests say that they are skipped. */
export const HAS_CHROMIUM = existsSync(CHROMIUM);
if (!HAS_CHROMIUM) console.warn(`skipped: no browser at ${CHROMIUM}; install Debian's chromium or set CHROMIUM`);

/** WebGPU on a driver in software, which Chromium brings. */
const WEBGPU_FLAGS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];

/** WebGL on the same driver. */
const WEBGL_FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"];

/** A headless browser, with WebGPU or WebGL where asked for. */
export function launch({ webgpu = false, webgl = false } = {}): Promise<Browser> {
  const more = [...(webgpu ? WEBGPU_FLAGS : []), ...(webgl ? WEBGL_FLAGS : [])];
  const flags = more.length > 0 ? [...FLAGS.filter((flag) => flag !== "--disable-gpu"), ...more] : FLAGS;
  return chromium.launch({ executablePath: CHROMIUM, args: flags });
}

/** Headers by which a page may share memory with its workers. */
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** Serves a folder's files as they are. */
export function serveFolder(folder: string, { isolated = false } = {}): Bun.Server<undefined> {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch({ url }) {
      const path = normalize(decodeURIComponent(new URL(url).pathname));
      const file = Bun.file(join(folder, path.endsWith("/") ? `${path}index.html` : path));
      if (!(await file.exists())) return new Response("not found", { status: 404 });
      return new Response(file, { headers: isolated ? ISOLATED : {} });
    },
  });
}

/** A page, and what went wrong on it: errors, and requests to other hosts. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<{ page: Page; problems: string[] }> {
  const page = await browser.newPage({ locale: "en-US", ...options });
  const problems: string[] = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== new URL(url).origin)
      problems.push(request.url());
  });
  await page.goto(url);
  return { page, problems };
}
