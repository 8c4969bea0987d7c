import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { HAS_CHROMIUM, launch, openPage, serveFolder } from "../support/browser.ts";
import { execute, type Project, project } from "../support/packed.ts";
import { ROOT } from "../support/process.ts";

// The tensor package as strangers get it: packed, installed in an empty project, used by Bun, Node, tsc, bundlers and pages.
setDefaultTimeout(120_000);

/** What a page that uses everything on one device loads may have, in bytes with gzip. */
const LARGEST_BUNDLE = 100_000;

interface Xor {
  device: { name: string; isa: string; threads: number };
  losses: number[];
  answers: number[][];
  product: number;
  leaked: number;
}

let home: Project;
beforeAll(async () => {
  home = await project({ dependencies: ["@tslm/tensor"] }, { installer: "npm" });
  for (const name of ["xor.mjs", "consumer.ts"]) await cp(join(import.meta.dir, name), join(home.path, name));
  const main = 'import { learnXor } from "./xor.mjs";\nconsole.log(JSON.stringify(await learnXor({ threads: 2 })));\n';
  await Bun.write(join(home.path, "main.mjs"), main);
});
afterAll(() => home?.[Symbol.asyncDispose]());

function checkLearned({ losses, answers, product, leaked }: Xor): void {
  expect(answers).toEqual([[0], [1], [1], [0]]);
  expect(losses.at(-1)!).toBeLessThan(0.02 * losses[0]);
  expect(product).toBe(PRODUCT);
  expect(leaked).toBe(0);
}

/** Σ over all elements of a·a, with a[i] = i mod 7 − 3 in rows of 512. */
const PRODUCT = (() => {
  const n = 512;
  const at = (i: number): number => (i % 7) - 3;
  let sum = 0;
  for (let k = 0; k < n; k++) {
    let [column, row] = [0, 0];
    for (let i = 0; i < n; i++) {
      column += at(i * n + k);
      row += at(k * n + i);
    }
    sum += column * row;
  }
  return sum;
})();

async function run(program: string): Promise<Xor> {
  const { status, stdout, stderr } = await execute(home.path, program, "main.mjs");
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return JSON.parse(stdout);
}

/** The same arithmetic wherever the kernels are WebAssembly: the same bits. */
let wasmLosses: number[] | undefined;
const expectSameLosses = ({ losses }: Xor): void => expect(losses).toEqual((wasmLosses ??= losses));

test("Bun", async () => {
  const result = await run(process.execPath);
  expect(result.device).toMatchObject({ name: "cpu", threads: 2 });
  checkLearned(result);
});

test.skipIf(Bun.which("node") === null)("Node, on the WebAssembly tier, with files", async () => {
  const result = await run("node");
  expect(result.device).toEqual({ name: "cpu", isa: "wasm", threads: 2 });
  checkLearned(result);
  expectSameLosses(result);
  const program = `import { openSafetensors, tensor, writeSafetensors } from "@tslm/tensor";
await writeSafetensors("x.safetensors", new Map([["x", tensor([[1, 2], [3, 4]])]]));
const file = await openSafetensors("x.safetensors");
console.log(JSON.stringify(await file.tensor("x").tolist()));`;
  await Bun.write(join(home.path, "files.mjs"), program);
  expect(await execute(home.path, "node", "files.mjs")).toEqual({ status: 0, stdout: "[[1,2],[3,4]]\n", stderr: "" });
});

test.each([
  ["bundler", "ESNext"],
  ["nodenext", "NodeNext"],
])("types, strictly, with moduleResolution %s", async (moduleResolution, module) => {
  const compilerOptions = {
    ...{ moduleResolution, module, target: "ES2022", lib: ["ES2022", "DOM"], types: [], noEmit: true },
    ...{ strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false },
  };
  await Bun.write(join(home.path, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["consumer.ts"] }));
  const compiler = join(ROOT, "node_modules", "typescript", "bin", "tsc");
  const { status, stdout } = await execute(home.path, process.execPath, compiler, "-p", ".");
  expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
});

/** Bundles a program for browsers as a stranger would; bytes of all its files with gzip, and the modules in it. */
async function bundle(source: string, without?: RegExp): Promise<{ bytes: number; modules: string[] }> {
  const entry = join(home.path, "entry.mjs");
  await Bun.write(entry, source);
  const modules: string[] = [];
  const { outputs } = await Bun.build({
    entrypoints: [entry],
    target: "browser",
    splitting: true,
    minify: true,
    sourcemap: "external",
    external: ["gpu.js"],
    plugins: without && [
      {
        name: "without",
        setup: (build) => void build.onResolve({ filter: without }, ({ path }) => ({ path, external: true })),
      },
    ],
  });
  let bytes = 0;
  for (const output of outputs) {
    const content = new Uint8Array(await output.arrayBuffer());
    if (output.kind === "sourcemap") modules.push(...JSON.parse(new TextDecoder().decode(content)).sources);
    else bytes += Bun.gzipSync(content).byteLength;
  }
  return { bytes, modules };
}

const kilobytes = (bytes: number): string => `${(bytes / 1000).toFixed(1)} KB`;

test("the whole package is small in a browser, one operation far smaller", async () => {
  const all = 'import * as all from "@tslm/tensor"; globalThis.all = all;';
  // Each device comes when it is asked for, and of the gpu device what the page's backend needs.
  const onWasm = await bundle(all, /\/gpu\/(open|auto)\.js$/);
  const onGpu = await bundle(all, /\/cpu\/index\.js$|\/fallback\/open\.js$/);
  const onWebGl = await bundle(all, /\/cpu\/index\.js$|\/gpu\/auto\.js$|^\.\/device\.js$/);
  const both = await bundle(all);
  const one = await bundle('import { softmax, tensor } from "@tslm/tensor"; softmax(tensor([1, 2])).dispose();');
  const sizes = {
    ...{ "on WebAssembly": onWasm, "on WebGPU": onGpu, "on WebGL 2": onWebGl },
    ...{ "all that there is": both, "one operation": one },
  };
  const told = Object.entries(sizes).map(([what, { bytes }]) => `${what} ${kilobytes(bytes)}`);
  console.log(`@tslm/tensor, whole, in a browser, with gzip: ${told.join(", ")}`);
  expect(onWasm.bytes).toBeLessThan(LARGEST_BUNDLE);
  expect(onGpu.bytes).toBeLessThan(LARGEST_BUNDLE);
  expect(onWebGl.bytes).toBeLessThan(LARGEST_BUNDLE);
  expect(one.bytes).toBeLessThan(both.bytes / 2);
  const unwanted = (modules: string[], what: RegExp): string[] => modules.filter((path) => what.test(path));
  // Each has its device and not the other.
  expect(unwanted(onWasm.modules, /devices\/gpu\/(?!webgpu)/)).toEqual([]);
  expect(unwanted(onWasm.modules, /devices\/cpu\/device/)).toHaveLength(1);
  expect(unwanted(onGpu.modules, /devices\/cpu\/(device|kernels)/)).toEqual([]);
  expect(unwanted(onGpu.modules, /devices\/gpu\/device/)).toHaveLength(1);
  expect(unwanted(onGpu.modules, /gpu\/fallback\/(open|device)/)).toEqual([]);
  expect(unwanted(onWebGl.modules, /devices\/(cpu\/(device|kernels)|gpu\/(device|wgsl))/)).toEqual([]);
  expect(unwanted(onWebGl.modules, /gpu\/fallback\/open/)).toHaveLength(1);
  // Machine code cannot run there; compiled devices, files, optimisers and layers were not asked for.
  expect(unwanted(both.modules, /emit\/(x64|arm64)|kernels\/.*tile|native\.bun|files\.(bun|node)/)).toEqual([]);
  expect(unwanted(one.modules, /devices\/(cpu|gpu)\/|\/(io|optim|nn)\//)).toEqual([]);
  expect(one.modules.length).toBeGreaterThan(10);
});

describe.skipIf(!HAS_CHROMIUM)("Chromium, on the WebAssembly tier", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launch();
    // Once through a bundler, once with what the package brings for pages without one.
    const source = `import { init } from "@tslm/tensor";
import { learnXor } from "./xor.mjs";
Object.assign(globalThis, { learnXor, start: async (device) => (await init({ device })).info.name });
`;
    await Bun.write(join(home.path, "page.mjs"), source);
    await Bun.build({
      entrypoints: [join(home.path, "page.mjs")],
      target: "browser",
      splitting: true,
      minify: true,
      external: ["gpu.js"],
      outdir: join(home.path, "bundled"),
    });
    await Bun.write(
      join(home.path, "bundled.html"),
      '<!doctype html><link rel="icon" href="data:,"><script type="module" src="bundled/page.js"></script>',
    );
    const map = { imports: { "@tslm/tensor": "/node_modules/@tslm/tensor/dist/bundle/index.js" } };
    await Bun.write(
      join(home.path, "plain.html"),
      `<!doctype html><link rel="icon" href="data:,"><script type="importmap">${JSON.stringify(map)}</script><script type="module" src="page.mjs"></script>`,
    );
  });
  afterAll(() => browser?.close());

  test("auto loads the code of one device, unless there is a GPU to be measured", async () => {
    using server = serveFolder(home.path);
    const { page } = await openPage(browser, `${server.url}bundled.html`);
    const loaded: Promise<Uint8Array>[] = [];
    page.on("response", (response) => {
      if (response.url().endsWith(".js")) loaded.push(response.body());
    });
    await page.reload();
    await page.waitForFunction(() => "start" in globalThis);
    // A GPU that computes on the processor.
    await page.evaluate(() => {
      const info = { vendor: "", architecture: "", description: "SwiftShader Device", isFallbackAdapter: true };
      Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => ({ info }) } });
    });
    const start = (device: string): Promise<string> =>
      page.evaluate((name) => (globalThis as unknown as { start(name: string): Promise<string> }).start(name), device);
    expect(await start("auto")).toBe("cpu");
    const files = await Promise.all(loaded);
    const bytes = files.reduce((sum, file) => sum + Bun.gzipSync(new Uint8Array(file)).byteLength, 0);
    console.log(`A page that asks for "auto" and has no GPU loads ${kilobytes(bytes)} with gzip`);
    expect(bytes).toBeLessThan(LARGEST_BUNDLE);
    expect(files.filter((file) => new TextDecoder().decode(file).includes("@compute"))).toEqual([]);
    await page.close();
  });

  test.each([
    ["bundled, threads that share memory", "bundled.html", true],
    ["bundled, one thread without SharedArrayBuffer", "bundled.html", false],
    ["without a bundler", "plain.html", false],
  ])("%s", async (_, path, isolated) => {
    using server = serveFolder(home.path, { isolated });
    const { page, problems } = await openPage(browser, `${server.url}${path}`);
    await page.waitForFunction(() => "learnXor" in globalThis);
    expect(await page.evaluate(() => [crossOriginIsolated, "SharedArrayBuffer" in globalThis])).toEqual([
      isolated,
      isolated,
    ]);
    const learn = (options: { threads?: number }): Promise<Xor> =>
      page.evaluate(
        (given) => (globalThis as unknown as { learnXor(o: object): Promise<Xor> }).learnXor(given),
        options,
      );
    const result = await learn(isolated ? { threads: 2 } : {});
    expect(result.device).toEqual({ name: "cpu", isa: "wasm", threads: isolated ? 2 : 1 });
    checkLearned(result);
    expectSameLosses(result);
    if (!isolated) expect(await learn({ threads: 2 }).catch(String)).toContain("cross-origin isolated");
    expect(problems).toEqual([]);
    await page.close();
  });
});
