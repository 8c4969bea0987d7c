import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { native } from "#native";
import { CodeMemory } from "./code-memory.ts";
import { Runtime } from "./index.ts";
import { type Isa, isas } from "./isa.ts";
import { missing } from "./requirements.ts";
import { increment, incrementKernel, trapKernel } from "./test-kernels.ts";

const here = import.meta.dir;
const best = new Runtime({ emitters: ["avx2", "neon", "wasm"], threads: 1 });
const tiers: Isa[] = best.isa === "wasm" ? ["wasm"] : [best.isa, "wasm"];

/** Runs a program beside this file in a process of its own. */
function child(source: string, env: Record<string, string> = {}) {
  const program = `import { Runtime } from ${JSON.stringify(join(here, "index.ts"))};
import { increment, incrementKernel } from ${JSON.stringify(join(here, "test-kernels.ts"))};
${source}`;
  const folder = mkdtempSync(join(tmpdir(), "tensor-runtime-"));
  try {
    const file = join(folder, "program.ts");
    writeFileSync(file, program);
    const result = Bun.spawnSync([process.execPath, file], { env: { ...process.env, ...env }, timeout: 20_000 });
    return { code: result.exitCode, out: result.stdout.toString().trim(), err: result.stderr.toString() };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe.each(tiers)("runtime on %s", (isa) => {
  test.each([1, 2, 4])("every item is done once by %i threads, whatever the chunk", async (threads) => {
    const runtime = new Runtime({ emitters: [isa], isa, threads });
    const kernel = runtime.load("increment", incrementKernel(isa));
    const items = 10_007;
    const address = runtime.memory.allocate(items * 4);
    const words = runtime.memory.i32(address, items).fill(0);
    let runs = 0;
    for (const chunk of [1, 7, 64, 9999, 10_007, 20_000]) {
      for (let i = 0; i < 50; i++, runs++) increment(runtime, kernel, address, items, chunk);
    }
    expect(words.findIndex((word) => word !== runs)).toBe(-1);
    increment(runtime, kernel, address, 0);
    expect(words[0]).toBe(runs);
    await runtime.dispose();
  });

  test("a kernel loaded while threads run, in memory grown since, is found by them", async () => {
    const runtime = new Runtime({ emitters: [isa], isa, threads: 3 });
    const first = runtime.load("first", incrementKernel(isa));
    const address = runtime.memory.allocate(4000);
    runtime.memory.i32(address, 1000).fill(0);
    for (let i = 0; i < 100; i++) increment(runtime, first, address, 1000, 10);
    runtime.memory.allocate(50_000_000);
    const second = runtime.load("second", incrementKernel(isa));
    const far = runtime.memory.allocate(4_000_000);
    const words = runtime.memory.i32(far, 1_000_000).fill(0);
    for (let i = 0; i < 100; i++) increment(runtime, second, far, 1_000_000, 5000);
    expect(words.findIndex((word) => word !== 100)).toBe(-1);
    await runtime.dispose();
  });

  test("a process with sleeping threads ends by itself", () => {
    const { code, out } = child(
      `const runtime = new Runtime({ emitters: ["${isa}"], isa: "${isa}", threads: 3 });
const kernel = runtime.load("increment", incrementKernel("${isa}"));
const address = runtime.memory.allocate(400);
for (let i = 0; i < 100; i++) increment(runtime, kernel, address, 100);
await Bun.sleep(50);
console.log("done");`,
    );
    expect({ code, out }).toEqual({ code: 0, out: "done" });
  });

  test("disposed: runs are refused", async () => {
    const runtime = new Runtime({ emitters: [isa], isa, threads: 2 });
    const kernel = runtime.load("increment", incrementKernel(isa));
    await runtime.dispose();
    expect(() => runtime.run(kernel, 10)).toThrow("disposed");
  });
});

describe("threads", () => {
  test("a trap in a kernel is an error that names the kernel, then the pool refuses work", async () => {
    const runtime = new Runtime({ emitters: ["wasm"], isa: "wasm", threads: 3 });
    const counting = runtime.load("increment", incrementKernel("wasm"));
    const trap = runtime.load("trap", trapKernel());
    const address = runtime.memory.allocate(4000);
    for (let i = 0; i < 50; i++) increment(runtime, counting, address, 1000, 1);
    // Whoever takes item 0 fails: this thread with the trap itself, another one with an error that tells of it.
    expect(() => increment(runtime, trap, address, 200, 1)).toThrow(/[Uu]nreachable/);
    await runtime.dispose();
  });

  test("a thread that ends in the middle of a job is an error, not a hang", () => {
    const { code, out } = child(`
import { WorkerPool } from ${JSON.stringify(join(here, "pool.ts"))};
const prelude = "globalThis.tensorNative = { kernelAt: () => () => process.exit(3) };";
const pool = new WorkerPool({ threads: 2, prelude });
const slow = pool.register("slow", () => Bun.sleepSync(5), 1, 1);
for (let i = 0; i < 2; i++) {
  try { pool.run(slow, 0, 100); } catch (error) { console.log(error.name, error.message); }
}`);
    const lost = "PoolError [pool] thread 1 of 2 ended in the middle of its work";
    expect({ code, out }).toEqual({ code: 0, out: `${lost}\n${lost}` });
  });

  test("a thread that ends between jobs is an error as well", () => {
    const { code, out } = child(`
const workers = [];
globalThis.Worker = class extends Worker { constructor(...args) { super(...args); workers.push(this); } };
const runtime = new Runtime({ emitters: ["wasm"], isa: "wasm", threads: 2 });
const kernel = runtime.load("increment", incrementKernel("wasm"));
const address = runtime.memory.allocate(4000);
for (let i = 0; i < 100; i++) increment(runtime, kernel, address, 1000, 1);
workers[0].terminate();
await Bun.sleep(100);
try { increment(runtime, kernel, address, 10); } catch (error) { console.log(error.name, error.message); }`);
    expect({ code, out }).toEqual({ code: 0, out: "PoolError [pool] thread 1 of 2 ended: it was ended from outside" });
  });

  test("bad arguments are refused before any thread sees them", async () => {
    const runtime = new Runtime({ emitters: ["wasm"], isa: "wasm", threads: 2 });
    const kernel = runtime.load("increment", incrementKernel("wasm"));
    expect(() => runtime.run(kernel, -1)).toThrow("out of range");
    expect(() => runtime.run(kernel, 10, 0)).toThrow("out of range");
    expect(() => runtime.run(kernel + 1, 10)).toThrow("no kernel");
    expect(() => new Runtime({ emitters: ["wasm"], isa: "wasm", threads: 0 })).toThrow("threads");
    await runtime.dispose();
  });
});

describe.skipIf(!native || process.platform !== "linux")("native memory (Bun on Linux)", () => {
  /** The line of /proc/self/maps that holds an address. */
  const mapping = (address: number) => {
    for (const line of readFileSync("/proc/self/maps", "utf8").split("\n")) {
      const [, first, last, flags] = /^(\w+)-(\w+) (\S+)/.exec(line) ?? [];
      const [from, to] = [Number.parseInt(first ?? "0", 16), Number.parseInt(last ?? "0", 16)];
      if (address >= from && address < to) return { from, to, flags };
    }
    return undefined;
  };
  const permissions = (address: number) => mapping(address)?.flags;

  test("code pages are executable, not writable, between guard pages", () => {
    const code = new CodeMemory(native!);
    const address = code.add("ret", new Uint8Array([0xc3]));
    expect(permissions(address)).toBe("r-xp");
    expect(permissions(address - 1)).toBe("---p");
    expect(permissions(address + native!.pageBytes)).toBe("---p");
    code.dispose();
    expect(permissions(address)).not.toBe("r-xp");
    expect(() => code.add("none", new Uint8Array(0))).toThrow("has no code");
  });

  test("memory is readable and writable between guard pages", async () => {
    const runtime = new Runtime({ emitters: [best.isa], isa: best.isa, threads: 1 });
    const address = runtime.memory.allocate(64);
    expect(permissions(address)).toBe("rw-p");
    const { from, to } = mapping(address)!;
    expect(permissions(from - 1)).toBe("---p");
    expect(permissions(to)).toBe("---p");
    expect(() => runtime.memory.u8(to - 10, 11)).toThrow("not memory of this device");
    await runtime.dispose();
  });

  test("dispose gives the pages back; a view kept by mistake does no harm", async () => {
    const runtime = new Runtime({ emitters: [best.isa], isa: best.isa, threads: 1 });
    const length = 4 * 2 ** 20;
    const bytes = runtime.memory.u8(runtime.memory.allocate(length), length).fill(1);
    await runtime.dispose();
    expect(Buffer.compare(bytes, new Uint8Array(length))).toBe(0);
  });

  test("the system refusing executable memory gives a clear error", () => {
    const refusing = { ...native!, makeExecutable: () => false };
    expect(() => new CodeMemory(refusing).add("k", new Uint8Array([0xc3]))).toThrow("use TENSOR_ISA=wasm");
  });
});

describe("tiers", () => {
  test("a tier that cannot run here is refused with the reason and the choices", () => {
    const impossible = isas.find((isa) => missing(isa, best.cpu) !== undefined)!;
    const { code, err } = child(`new Runtime({ emitters: ["avx2", "neon", "wasm"] });`, { TENSOR_ISA: impossible });
    expect(code).toBe(1);
    expect(err).toContain(`TENSOR_ISA=${impossible} is impossible here`);
    expect(err).toContain("wasm");
  });

  test("Node runs the WebAssembly tier on its worker threads", async () => {
    if (!Bun.which("node")) return console.warn("skipped: node is not installed");
    const build = await Bun.build({
      entrypoints: [join(here, "node-smoke.ts")],
      target: "node",
      conditions: ["@tslm/source"],
    });
    const node = Bun.spawnSync(["node", "--input-type=module", "-e", await build.outputs[0]!.text()], {
      timeout: 20_000,
    });
    expect(node.stdout.toString().trim()).toBe("wasm 3 ok");
  });
});

test.skipIf(native === undefined)("matrix tiles are given, once and for all, only where the processor has them", () => {
  const given = native!.requestTiles();
  expect(native!.requestTiles()).toBe(given);
  if (!best.cpu?.features.amxTile) expect(given).toBe(false);
});
