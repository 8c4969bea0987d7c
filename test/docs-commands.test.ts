import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OFFLINE, ROOT } from "./support/process.ts";

/**
 * Runs the commands of docs/fine-tuning/*.md and docs/serving/*.md, page by page, in a folder of their own that has the program's `bun run`.
 *
 * A fence with a file's name behind its language, such as "```jsonl talks.jsonl", is that file. "```sh test" blocks are run in order; the lines
 * behind `# ` must be found, in their order, in what the block prints. "```sh no-run" is not run.
 */
const folder = mkdtempSync(join(tmpdir(), "docs-commands-"));
afterAll(() => rmSync(folder, { recursive: true }));

const pages = ["fine-tuning", "serving"].flatMap((part) =>
  readdirSync(join(ROOT, "docs", part))
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(part, name)),
);

interface Fence {
  readonly info: string;
  readonly content: string;
}

function fencesOf(page: string): Fence[] {
  const text = readFileSync(join(ROOT, "docs", page), "utf8");
  return [...text.matchAll(/^```(.+)\n([\s\S]*?)^```$/gm)].map(([, info, content]) => ({ info, content }));
}

/** An empty folder with the scripts of the repository and the data that ships with it. */
function home(page: string): string {
  const place = join(folder, page);
  mkdirSync(place, { recursive: true });
  const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  for (const [name, script] of Object.entries<string>(scripts)) {
    scripts[name] = script.replace(/^bun (\S+\.ts)/, (_, path) => `bun ${join(ROOT, path)}`);
  }
  writeFileSync(join(place, "package.json"), JSON.stringify({ scripts }));
  cpSync(join(ROOT, "data/input"), join(place, "data/input"), { recursive: true });
  return place;
}

/** Expected lines that are not found behind those before them. */
function missing(output: string, expected: readonly string[]): string[] {
  let at = 0;
  return expected.filter((line) => {
    const found = output.indexOf(line, at);
    if (found >= 0) at = found + line.length;
    return found < 0;
  });
}

const TIMEOUT_MS = 300_000;

describe("the commands of docs run and print what is written below them", () => {
  for (const page of pages) {
    const run = async (): Promise<void> => {
      const place = home(page);
      for (const { info, content } of fencesOf(page)) {
        const name = /^\w+ (\S+\.\w+)$/.exec(info)?.[1];
        if (name !== undefined) writeFileSync(join(place, name), content);
        if (info !== "sh test") continue;
        // A line that begins with `!` must fail; by itself the shell would only not mind.
        const script = content.replaceAll(/^! (.*)$/gm, "if $1; then exit 99; fi");
        const child = Bun.spawn(["bash", "-euo", "pipefail", "-c", `exec 2>&1\n${script}`], {
          cwd: place,
          env: { ...process.env, ...OFFLINE, NO_COLOR: "1" },
          stdout: "pipe",
        });
        const output = await new Response(child.stdout).text();
        const expected = [...content.matchAll(/^# (.*)$/gm)].map((match) => match[1]);
        const told = { block: content, output, status: await child.exited, missing: missing(output, expected) };
        expect(told).toEqual({ block: content, output, status: 0, missing: [] });
      }
    };
    test(page, run, TIMEOUT_MS);
  }
});

test("every fence of commands says whether it runs", () => {
  const wrong = pages.flatMap((page) =>
    fencesOf(page)
      .filter(({ info }) => /^(sh|bash|shell|console)\b/.test(info) && !["sh test", "sh no-run"].includes(info))
      .map(({ info }) => `${page}: ${info}`),
  );
  expect(wrong).toEqual([]);
});

test("what a page says is printed must be printed, in its order", () => {
  expect(missing("a\nb\nc", ["a", "c"])).toEqual([]);
  expect(missing("a\nb\nc", ["c", "a", "x"])).toEqual(["a", "x"]);
});
