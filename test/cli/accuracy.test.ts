/** A small customer-service set made by the script and learned by the demo model: how many answers are right before and after. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { AnsweredCase } from "../../packages/cli/src/accuracy.ts";
import { command, ROOT, temporaryFolder } from "../support/process.ts";

setDefaultTimeout(120_000);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  home = await temporaryFolder();
  const script = join(ROOT, "data/synthetic/customer-service.ts");
  expect(Bun.spawnSync(["bun", script, "--out", "cs", "--rows", "60"], { cwd: home.path }).exitCode).toBe(0);
});
afterAll(() => home[Symbol.asyncDispose]());

const evaluate = (...args: string[]) => command("eval", [...args, "--model", "demo", "--accuracy"], { cwd: home.path });

async function accuracy(...args: string[]) {
  const { status, stdout, stderr } = await evaluate(...args, "--json");
  if (status !== 0) throw new Error(stderr);
  const lines = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  return { answers: lines.slice(0, -1) as AnsweredCase[], summary: lines.at(-1) };
}

test("held-out questions about taught facts: none right before training, nearly all after", async () => {
  const before = await accuracy("cs/held-out.csv", "--generate", "20");
  expect(before.summary).toEqual({ accuracy: 0, exact: 0, cases: 6 });
  for (const { tokens } of before.answers) expect(tokens.length).toBeLessThanOrEqual(20);

  const recipe = ["--targets", "all", "--loss", "completion", "--epochs", "10", "--lr", "1e-3"];
  const run = ["--model", "demo", "--data", "cs/train.csv", "--out", "adapter", ...recipe];
  const { status, stderr } = await command("train", run, { cwd: home.path });
  if (status !== 0) throw new Error(stderr);
  const after = await accuracy("cs/held-out.csv", "--adapter", "adapter");
  expect(after.summary.exact).toBeGreaterThanOrEqual(5);
  const right = after.answers.find(({ exact }) => exact)!;
  expect(right).toMatchObject({ text: right.expected, missing: [], wrong: [] });
  expect(right.prompt).toContain(`### Input:\n${right.question}\n`);

  // The same questions with other facts: what the adapter says is now wrong, and is told.
  const other = { instruction: "", input: right.question, output: "是 12345 元。" };
  await writeFile(join(home.path, "other.jsonl"), JSON.stringify(other));
  const told = await evaluate("other.jsonl", "--adapter", "adapter");
  expect(told.status).toBe(0);
  expect(told.stdout).toContain(`1. ${right.question}\n   → `);
  expect(told.stdout).toEndWith("   not: 是 12345 元。\n0 of 1 answers have the facts of the data (0.0 %)\n");
  const [{ missing, wrong }] = (await accuracy("other.jsonl", "--adapter", "adapter")).answers;
  expect(missing).toEqual(["12345"]);
  expect(wrong).toHaveLength(1);
});

test("a file without answers is refused before the model is loaded", async () => {
  await writeFile(join(home.path, "none.csv"), "input,output\n多少钱?,\n");
  const { status, stderr } = await evaluate("none.csv");
  expect(status).toBe(1);
  expect(stderr).toContain("none.csv holds no row with an answer to compare with");
});
