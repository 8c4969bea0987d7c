// The package as others get it: packed, unpacked into a folder of its own, and used from there.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const TIMEOUT_MS = 180_000;
const place = mkdtempSync(join(tmpdir(), "packed-"));
afterAll(() => rmSync(place, { recursive: true }));

async function run(...command: string[]): Promise<{ output: string; status: number }> {
  const child = Bun.spawn(command, { cwd: place, stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { output: output + errors, status: await child.exited };
}

beforeAll(async () => {
  const packer = Bun.which("npm") ? ["npm", "pack", "--pack-destination", place] : null;
  const command = packer ?? [process.execPath, "pm", "pack", "--destination", place];
  const packed = Bun.spawn(command, { cwd: join(import.meta.dir, ".."), stdout: "pipe", stderr: "pipe" });
  const errors = await new Response(packed.stderr).text();
  if ((await packed.exited) !== 0) throw new Error(errors);
  const archive = readdirSync(place).find((name) => name.endsWith(".tgz"))!;
  const folder = join(place, "node_modules", "@tslm", "tensor");
  mkdirSync(folder, { recursive: true });
  const unpacked = await run("tar", "xzf", archive, "-C", folder, "--strip-components=1");
  expect(unpacked).toEqual({ output: "", status: 0 });
}, TIMEOUT_MS);

/** Trains XOR, writes it to a file and reads it back; on the reference and on the compiled device. */
const PROGRAM = `
import { AdamW, Generator, Linear, mseLoss, noGrad, scope, tensor, createDevice, setDefaultDevice, openSafetensors, writeSafetensors } from "@tslm/tensor";
for (const name of ["reference", "cpu"]) {
  const device = await createDevice(name, { threads: 2 });
  setDefaultDevice(device);
  const random = new Generator(1);
  const [a, b] = [Linear.init(2, 8, random), Linear.init(8, 1, random)];
  const model = (x) => b.forward(a.forward(x).tanh());
  const x = tensor([[0, 0], [0, 1], [1, 0], [1, 1]]);
  const y = tensor([[0], [1], [1], [0]]);
  const adam = new AdamW([...a.parameters(), ...b.parameters()], { lr: 0.02 });
  for (let step = 0; step < 400; step++) {
    const loss = scope(() => mseLoss(model(x), y));
    loss.backward();
    adam.step();
    adam.zeroGrad();
    loss.dispose();
  }
  await writeSafetensors("xor.safetensors", a.stateDict());
  const file = await openSafetensors("xor.safetensors");
  a.loadStateDict(file.tensors());
  file.close();
  const out = await noGrad(() => model(x)).data();
  console.log(name, [...out].map((v) => Math.abs(Math.round(v))).join(" "));
  await device.dispose();
}
`;

test(
  "Node learns XOR on both devices, and reads and writes files",
  async () => {
    const node = Bun.which("node");
    if (!node) {
      console.log("node is not installed: the package was not tried in it");
      return;
    }
    writeFileSync(join(place, "xor.mjs"), PROGRAM);
    expect(await run(node, "xor.mjs")).toEqual({ output: "reference 0 1 1 0\ncpu 0 1 1 0\n", status: 0 });
  },
  TIMEOUT_MS,
);

test(
  "Bun does, from the sources in the package",
  async () => {
    writeFileSync(join(place, "xor.ts"), PROGRAM.replace("(x) =>", "(x: any) =>"));
    expect(await run(process.execPath, "xor.ts")).toEqual({ output: "reference 0 1 1 0\ncpu 0 1 1 0\n", status: 0 });
  },
  TIMEOUT_MS,
);

test(
  "a browser bundle imports nothing of Bun or Node, and computes",
  async () => {
    writeFileSync(
      join(place, "page.js"),
      `import * as all from "@tslm/tensor";
       globalThis.keep = Object.keys(all);
       const x = all.tensor([[1, 2]], { requiresGrad: true });
       x.matmul(all.tensor([[3], [4]])).sum().backward();
       const bytes = await all.serializeSafetensors(new Map([["grad", x.grad]]));
       console.log(await all.parseSafetensors(bytes).tensor("grad").tolist());
       await all.openSafetensors("file").catch((error) => console.log(error.message));`,
    );
    const built = await run(process.execPath, "build", "page.js", "--target=browser", "--splitting", "--outdir=bundle");
    expect(built.status).toBe(0);
    const chunks = readdirSync(join(place, "bundle"));
    expect(chunks.length).toBeGreaterThan(1);
    for (const name of chunks) {
      const text = await Bun.file(join(place, "bundle", name)).text();
      const imports = new Bun.Transpiler({ loader: "js" }).scanImports(text).map((i) => i.path);
      expect(imports.filter((path) => !path.startsWith("./") && path !== "gpu.js")).toEqual([]);
      expect(text).not.toContain("bun:ffi");
    }
    const output = (await run(process.execPath, "bundle/page.js")).output;
    expect(output).toContain("[ 3, 4 ]");
    expect(output).toContain(
      "[openSafetensors] a browser has no files; fetch the bytes and give them to parseSafetensors",
    );
  },
  TIMEOUT_MS,
);

test(
  "its types are those of the sources",
  async () => {
    writeFileSync(
      join(place, "types.ts"),
      `import { type Tensor, elementwise, openSafetensors, registry, tensor } from "@tslm/tensor";
       const t: Tensor = tensor([1]);
       const shape: readonly number[] = registry.add.infer([t, t], []).shape;
       elementwise("twice", 1, ([x]) => x.mul(2));
       const info: { dtype: string } = (await openSafetensors("x")).info("a");
       // @ts-expect-error: a shape is no number
       const wrong: number = t.shape;
       export { info, shape, wrong };`,
    );
    writeFileSync(join(place, "package.json"), '{ "type": "module" }');
    const compiler = join(import.meta.dir, "../../../node_modules/typescript/bin/tsc");
    const flags = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "esnext,dom"];
    expect(await run(process.execPath, compiler, ...flags, "types.ts")).toEqual({ output: "", status: 0 });
  },
  TIMEOUT_MS,
);

test("the package has no tests in it", () => {
  const files = [...new Bun.Glob("**/*").scanSync(join(place, "node_modules", "@tslm", "tensor"))];
  expect(files).toContain("README.md");
  expect(files).toContain("dist/index.d.ts");
  expect(files.filter((name) => /\.test\.|testdata|testing|fixtures/.test(name))).toEqual([]);
});
