import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";

/**
 * Runs the code of the documentation: docs/*.md and the READMEs.
 *
 * All ```ts blocks of a file are one program, in their order; its working folder is the README's package, or one beside it
 * for docs/. Comment lines directly below a line of code state what has been printed by then; a program
 * without them only has to run. "```ts no-run" is not run;
 * "```ts test" blocks are run behind the program by `bun test`. "./packages/…" is the repository's. In tables of equivalents, whose
 * last column is headed "here", that column's code is run after the program, an expression a line.
 */
const root = join(import.meta.dir, "..");
const workspaces = [...new Bun.Glob("{packages,apps}/*/package.json").scanSync(root)]
  .map((path) => dirname(path))
  .sort();
const places = [
  ...workspaces.map((folder) => ({ file: `${folder}/README.md`, folder })),
  ...[...new Bun.Glob("docs/*.md").scanSync(root)].sort().map((file) => ({ file, folder: "packages/cli" })),
  ...[...new Bun.Glob("docs/tensor/*.md").scanSync(root)].sort().map((file) => ({ file, folder: "packages/tensor" })),
].filter(({ file }) => existsSync(join(root, file)));

const temporary = realpathSync(mkdtempSync(join(tmpdir(), "docs-")));
afterAll(() => rmSync(temporary, { recursive: true }));

function blocks(text: string, info: string): string {
  const all = [...text.matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)];
  return all
    .filter((match) => match[1] === info)
    .map((match) => match[2].replaceAll('"./packages/', `"${root}/packages/`))
    .join("\n");
}

/** The expressions in the last column of tables of equivalents, as statements. */
function equivalents(text: string): string {
  const tables = [...text.matchAll(/^\|.*\| here \|\n\| ---.*\n((?:\|.*\n)+)/gm)];
  const rows = tables.flatMap((match) => match[1].trim().split("\n"));
  return rows.map((row) => `void (${row.match(/`([^`]+)` \|$/)![1]});\n`).join("");
}

/** The lines that the program's comments say it prints. */
function printed(program: string): string[] {
  const lines = program.split("\n");
  const found: string[] = [];
  let below = false;
  for (const line of lines) {
    const comment = line.match(/^\/\/ (.*)$/);
    if (comment && below) found.push(comment[1]);
    else below = !comment && line.trim() !== "";
  }
  return found;
}

/** A folder in which every package of ours, and what `folder` depends on, is found by name. */
function home(file: string, folder: string): string {
  const place = join(temporary, file.replaceAll(/[/.]/g, "-"));
  const scope = join(place, "node_modules", "@tslm");
  mkdirSync(scope, { recursive: true });
  for (const workspace of workspaces) {
    const { name } = JSON.parse(readFileSync(join(root, workspace, "package.json"), "utf8"));
    symlinkSync(join(root, workspace), join(scope, basename(name)));
  }
  const installed = join(root, folder, "node_modules");
  for (const name of readdirSync(installed)) {
    if (!name.startsWith(".") && name !== "@tslm")
      symlinkSync(join(installed, name), join(place, "node_modules", name));
  }
  return place;
}

async function run(cwd: string, ...args: string[]): Promise<{ output: string; errors: string; status: number }> {
  const env = { ...process.env, NO_COLOR: "1" };
  const child = Bun.spawn([process.execPath, ...args], { cwd, env, stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { output, errors, status: await child.exited };
}

/** A program may train a model and a suite has seconds of work; other tests run beside it. */
const TIMEOUT_MS = 180_000;

describe("the documentation's code runs and prints what its comments say", () => {
  for (const { file, folder } of places) {
    const text = readFileSync(join(root, file), "utf8");
    const program = blocks(text, "ts") + equivalents(text);
    if (program === "") continue;
    const check = async (): Promise<void> => {
      const place = home(file, folder);
      writeFileSync(join(place, "program.ts"), program);
      const { output, errors, status } = await run(join(root, folder), join(place, "program.ts"));
      expect({ errors, status }).toEqual({ errors: "", status: 0 });
      const said = printed(program);
      if (said.length > 0) expect(output.trimEnd().split("\n")).toEqual(said);

      const tests = blocks(text, "ts test");
      if (tests === "") return;
      writeFileSync(join(place, "program.test.ts"), `${program}\n${tests}`);
      const suite = await run(place, "test", "program.test.ts");
      expect(suite.errors).toContain(" 0 fail");
      expect(suite.status).toBe(0);
    };
    test(file, check, TIMEOUT_MS);
  }
});

test(
  "the documentation's code has no type errors",
  async () => {
    for (const { file, folder } of places) {
      const text = readFileSync(join(root, file), "utf8");
      const program = [blocks(text, "ts"), equivalents(text), "export {};"].join("\n");
      writeFileSync(join(home(`types of ${file}`, folder), "program.ts"), program);
    }
    const options = {
      noUnusedLocals: false,
      noUnusedParameters: false,
      noImplicitAny: false,
      types: [join(root, "node_modules", "@types", "bun")],
    };
    // What packages declare of files that are no TypeScript.
    const declarations = [...new Bun.Glob("{packages,apps}/*/src/**/*.d.ts").scanSync(root)].map((f) => join(root, f));
    const config = {
      extends: join(root, "tsconfig.json"),
      compilerOptions: options,
      include: ["types*/program.ts", ...declarations],
    };
    writeFileSync(join(temporary, "tsconfig.json"), JSON.stringify(config));
    const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
    expect(await run(temporary, compiler, "-p", "tsconfig.json")).toEqual({ output: "", errors: "", status: 0 });
  },
  TIMEOUT_MS,
);

test("every fence of TypeScript says whether it runs", () => {
  const wrong = places.flatMap(({ file }) =>
    [...readFileSync(join(root, file), "utf8").matchAll(/^```(ts\b.*|typescript.*)$/gm)]
      .filter((match) => !["ts", "ts no-run", "ts test"].includes(match[1]))
      .map((match) => `${file}: ${match[0]}`),
  );
  expect(wrong).toEqual([]);
});
