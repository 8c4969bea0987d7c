import { expect, test } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "..");

test("docs/add-a-model.md: its code runs and prints what its comments say", async () => {
  const text = await Bun.file(join(root, "docs", "add-a-model.md")).text();
  const blocks = [...text.matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1]);
  expect(blocks.length).toBe(3);
  const printed = [...blocks.join("").matchAll(/^console\.log\(.*\n\/\/ (.*)$/gm)].map((match) => match[1]);
  expect(printed.length).toBe(3);
  // Packages' names resolve here because the working folder is one that depends on them.
  const child = Bun.spawnSync([process.execPath, "-e", blocks.join("")], { cwd: join(root, "packages", "qwen") });
  expect(child.stderr.toString()).toBe("");
  expect(child.stdout.toString().trimEnd().split("\n")).toEqual(printed);
});
