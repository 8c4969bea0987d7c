import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { execute } from "./support/packed.ts";
import { ROOT, temporaryFolder } from "./support/process.ts";

const GUIDES = [
  "Getting_started",
  "Tensors",
  "Autograd",
  "Devices",
  "Memory",
  "Custom_operations",
  "Coming_from_PyTorch",
];

test("the site is made without a warning: every export documented, no broken link", async () => {
  await using folder = await temporaryFolder();
  const { status, stdout, stderr } = await execute(ROOT, process.execPath, "docs/site/build.ts", folder.path);
  expect({ status, warnings: `${stdout}${stderr}`.split("\n").filter((line) => /warning|error/.test(line)) }).toEqual({
    status: 0,
    warnings: [],
  });
  for (const name of GUIDES) expect(existsSync(join(folder.path, "documents", `${name}.html`))).toBe(true);
  const tensor = await Bun.file(join(folder.path, "classes", "index.Tensor.html")).text();
  // A method has the words of the function of its name.
  expect(tensor).toMatch(/id="softmax"[\s\S]{1,2000}so that nothing overflows/);
  expect(existsSync(join(folder.path, "functions", "index.matmul.html"))).toBe(true);
}, 120_000);
