import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { execute, project } from "../support/packed.ts";
import { ROOT } from "../support/process.ts";

// Each example as a stranger has it: copied elsewhere, with the packed package installed, run as a process of its own.
setDefaultTimeout(120_000);

const example = (name: string): string => join(ROOT, "examples", name);

async function checkTypes(folder: string): Promise<void> {
  const compiler = join(ROOT, "node_modules", "typescript", "bin", "tsc");
  const { status, stdout } = await execute(folder, process.execPath, compiler, "-p", ".");
  expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
}

async function print(folder: string, ...command: string[]): Promise<string> {
  const { status, stdout, stderr } = await execute(folder, ...command);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

const numbers = (text: string, pattern: RegExp): number[] =>
  [...text.matchAll(pattern)].map((match) => Number(match[1]));

function checkDigits(output: string): void {
  const losses = numbers(output, /loss ([\d.]+)/g);
  expect(losses.length).toBe(10);
  expect(losses.at(-1)!).toBeLessThan(0.1 * losses[0]);
  expect(numbers(output, /unseen digits: ([\d.]+)/g)[0]).toBeGreaterThan(0.93);
}

test("digits-bun reads more than 93 of 100 unseen digits", async () => {
  await using home = await project({ copy: example("digits-bun") });
  await checkTypes(home.path);
  checkDigits(await print(home.path, process.execPath, "run", "--silent", "start"));
});

test.skipIf(Bun.which("node") === null)("digits-node does too, on WebAssembly", async () => {
  await using home = await project({ copy: example("digits-node") }, { installer: "npm" });
  await checkTypes(home.path);
  const output = await print(home.path, "npm", "start", "--silent");
  expect(output).toContain("on cpu (wasm)");
  checkDigits(output);
});

test("tiny-gpt learns a text, in memory that does not grow, and writes", async () => {
  await using home = await project({ copy: example("tiny-gpt") });
  await checkTypes(home.path);
  const run = (steps: number) => print(home.path, process.execPath, "main.ts", "--steps", String(steps));
  const output = await run(60);
  const losses = numbers(output, /loss ([\d.]+)/g);
  // At first all 51 characters are as likely: ln 51.
  expect(Math.abs(losses[0] - Math.log(51))).toBeLessThan(0.2);
  expect(losses.at(-1)!).toBeLessThan(2.6);
  expect(/Shall I compare thee\|([\s\S]{200})\n/.test(output)).toBe(true);
  const pieces = (text: string): number => numbers(text, /in (\d+) pieces/g)[0];
  expect(pieces(await run(5))).toBe(pieces(output));
});

test("every example has a README that says how to start it", async () => {
  for (const name of await Array.fromAsync(new Bun.Glob("*/package.json").scan(join(ROOT, "examples")))) {
    const folder = join(example(name), "..");
    expect(existsSync(join(folder, "README.md"))).toBe(true);
    expect(await Bun.file(join(folder, "README.md")).text()).toContain("bun run pack");
  }
});
