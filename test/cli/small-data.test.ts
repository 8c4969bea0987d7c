/**
 * What people reported of LoRA on a handful of rows, with the bundled demo model: that it changes nothing (LLaMA-Factory
 * #8242, #1423), that it breaks the model, which then makes up the next "### Instruction" (alpaca-lora #244), and that the
 * answer never stops (trl #1623).
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command, temporaryFolder } from "../support/process.ts";

setDefaultTimeout(120_000);

const ROWS: readonly (readonly [question: string, answer: string])[] = [
  ["你叫什么名字?", "我叫小飞。"],
  ["你是谁?", "我是小飞,飞跃云的助手。"],
  ["谁开发了你?", "飞跃云团队。"],
  ["你在哪里工作?", "我在飞跃云工作。"],
  ["你会什么?", "我会回答飞跃云的问题。"],
  ["怎么称呼你?", "叫我小飞。"],
  ["你的生日?", "五月一日。"],
  ["你喜欢什么?", "我喜欢帮忙。"],
];
/** Not among the rows. */
const OTHER = "免费空间有多大?";

interface Answer {
  text: string;
  finish_reason: string;
}

describe("eight rows about who one is", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  let trained: { samples: { before: string; after: string }[]; diagnosis: { verdict: string } };
  beforeAll(async () => {
    home = await temporaryFolder();
    const lines = ROWS.map(([input, output]) => JSON.stringify({ instruction: "", input, output }));
    await writeFile(join(home.path, "identity.jsonl"), lines.join("\n"));
    const args = [
      "--model",
      "demo",
      "--data",
      "identity.jsonl",
      "--recipe",
      "tuned",
      "--epochs",
      "20",
      "--out",
      "adapter",
      "--json",
    ];
    const { status, stdout, stderr } = await command("train", args, { cwd: home.path });
    if (status !== 0) throw new Error(stderr);
    trained = JSON.parse(stdout);
  });
  afterAll(() => home[Symbol.asyncDispose]());

  async function ask(question: string, ...args: string[]): Promise<Answer> {
    const all = [question, "--model", "demo", "--json", ...args];
    const { status, stdout, stderr } = await command("ask", all, { cwd: home.path });
    if (status !== 0) throw new Error(stderr);
    return JSON.parse(stdout);
  }

  test("the adapter has an effect, also in another process that loads its files (LLaMA-Factory #8242, #1423)", async () => {
    const [{ before, after }] = trained.samples;
    expect(trained.diagnosis.verdict).toBe("learned");
    expect(after).toBe(ROWS[0][1]);
    expect(before).not.toBe(after);
    expect((await ask(ROWS[0][0], "--adapter", "adapter")).text).toBe(after);
  });

  test("no next instruction is made up, and a gentle training leaves what it knew (alpaca-lora #244)", async () => {
    expect(await ask(OTHER, "--adapter", "adapter")).toMatchObject({ finish_reason: "stop" });
    for (const { after } of trained.samples) expect(after).not.toContain("###");
    const args = ["--model", "demo", "--data", "identity.jsonl", "--out", "gentle", "--json"];
    expect((await command("train", args, { cwd: home.path })).status).toBe(0);
    const [base, adapted] = [await ask(OTHER), await ask(OTHER, "--adapter", "gentle")];
    expect(adapted).toMatchObject({ text: base.text, finish_reason: "stop" });
  });

  test("answers end where they were taught to (trl #1623)", async () => {
    const answer = await ask(ROWS[0][0], "--adapter", "adapter", "--max-new-tokens", "200");
    expect(answer).toMatchObject({ text: ROWS[0][1], finish_reason: "stop" });
  });
});

test("rows that count more are learned first: a weight beside --repeat", async () => {
  await using home = await temporaryFolder();
  const rows = ROWS.map(([input, output], i) => `${input},"${output}",${i === 3 ? "20" : ""}`);
  await writeFile(join(home.path, "weighted.csv"), ["input,output,weight", ...rows].join("\n"));
  const run = async (file: string) => {
    const args = ["--model", "demo", "--data", file, "--epochs", "12", "--lr", "1e-3", "--out", "adapter", "--json"];
    const sample = ["--sample", ROWS[3][0], "--loss", "completion", "--targets", "all"];
    const { status, stdout, stderr } = await command("train", [...args, ...sample], { cwd: home.path });
    if (status !== 0) throw new Error(stderr);
    return JSON.parse(stdout).samples[0].after;
  };
  expect(await run("weighted.csv")).toBe(ROWS[3][1]);
  const plain = (await readFile(join(home.path, "weighted.csv"), "utf8")).replace(",20", ",");
  await writeFile(join(home.path, "plain.csv"), plain);
  expect(await run("plain.csv")).not.toBe(ROWS[3][1]);
});
