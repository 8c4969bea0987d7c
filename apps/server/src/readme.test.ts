import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";

test("the README's example prints what its comments say", () => {
  const root = join(import.meta.dir, "..");
  const example = readFileSync(join(root, "README.md"), "utf8").match(/```ts\n(.*?)```/s)![1];
  const expected = [...example.matchAll(/^\/\/ (.*\n)/gm)].map((match) => match[1]).join("");
  // The package's own name resolves here because the working folder is the package's.
  const child = Bun.spawnSync([process.execPath, "-e", example], { cwd: root });
  expect(child.stderr.toString()).toBe("");
  expect(child.stdout.toString()).toBe(expected);
});
