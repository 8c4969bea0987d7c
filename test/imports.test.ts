import { expect, test } from "bun:test";
import { dirname, join, relative, sep } from "node:path";

const root = join(import.meta.dir, "..");
const scan = (text: string): { path: string }[] =>
  // The transpiler stops at a script's `#!` line.
  new Bun.Transpiler({ loader: "ts" }).scanImports(text.replace(/^#!.*/, ""));

/** What each package may import of ours; anything else is an upward or sideways import. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  "packages/tensor": [],
  "packages/data": [],
  "packages/qwen": ["@tslm/tensor"],
  "packages/lora": ["@tslm/tensor"],
  "packages/watch": ["@tslm/data"],
  "packages/tune": ["@tslm/data", "@tslm/watch"],
  "apps/server": ["@tslm/tensor", "@tslm/qwen", "@tslm/lora", "@tslm/data"],
  "packages/cli": [
    "@tslm/tensor",
    "@tslm/qwen",
    "@tslm/lora",
    "@tslm/data",
    "@tslm/watch",
    "@tslm/tune",
    "@tslm/server",
  ],
  bench: ["@tslm/tensor", "@tslm/tensor/measure", "@tslm/qwen", "@tslm/lora", "@tslm/data", "@tslm/cli"],
};

/** Rooms of the tensor package from the ground up: a room imports itself and the rooms before it. */
const TENSOR_ROOMS = [
  ["dtype.ts", "errors.ts", "shape.ts"],
  ["expr"],
  ["devices", "memory.ts"],
  // One knot by nature: a tensor's methods are ops, ops make tensors, and both record on the tape.
  ["tensor.ts", "autograd.ts", "ops", "creation.ts"],
  ["nn"],
  ["optim", "io"],
];

async function sources(folder: string): Promise<string[]> {
  const files = await Array.fromAsync(new Bun.Glob("src/**/*.ts").scan({ cwd: join(root, folder) }));
  return files.filter((f) => !f.endsWith(".test.ts") && !f.endsWith(".d.ts")).sort();
}

async function importsOf(folder: string, file: string): Promise<string[]> {
  return scan(await Bun.file(join(root, folder, file)).text()).map((i) => i.path);
}

for (const [folder, allowed] of Object.entries(MAY_IMPORT)) {
  test(`${folder} imports only what lies below it, by the public entries`, async () => {
    const files = await sources(folder);
    expect(files.length).toBeGreaterThan(0);
    const wrong: string[] = [];
    for (const file of files) {
      for (const path of await importsOf(folder, file)) {
        if (path.startsWith("@tslm/") && !allowed.includes(path)) wrong.push(`${file} imports ${path}`);
        if (path.startsWith(".")) {
          const target = relative(join(root, folder), join(root, folder, dirname(file), path));
          if (target.startsWith(`..${sep}`)) wrong.push(`${file} reaches out of its package: ${path}`);
        }
      }
    }
    expect(wrong).toEqual([]);
  });
}

test("the rooms of packages/tensor import downwards", async () => {
  const roomOf = (path: string): number =>
    TENSOR_ROOMS.findIndex((names) => names.includes(relative("src", path).split(sep)[0]));
  const wrong: string[] = [];
  for (const file of await sources("packages/tensor")) {
    const from = roomOf(file);
    if (from < 0) continue;
    for (const path of await importsOf("packages/tensor", file)) {
      const to = path.startsWith(".") ? roomOf(join(dirname(file), path)) : -1;
      if (to > from) wrong.push(`${file} imports ${path}`);
    }
  }
  expect(wrong).toEqual([]);
});

test("nothing branches on a device's name outside of packages/tensor/src/devices", async () => {
  const wrong: string[] = [];
  for (const folder of Object.keys(MAY_IMPORT)) {
    for (const file of await sources(folder)) {
      if (file.startsWith(join("src", "devices"))) continue;
      const text = await Bun.file(join(root, folder, file)).text();
      if (/info\.name\s*[!=]==|\.isa\s*[!=]==/.test(text)) wrong.push(join(folder, file));
    }
  }
  expect(wrong).toEqual([]);
});
