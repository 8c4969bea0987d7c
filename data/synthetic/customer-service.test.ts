import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readExamples } from "../../packages/data/src/index.ts";
import { keyFacts } from "../../packages/lora/src/index.ts";
import { MOST_ROWS, makeCustomerService } from "./make.ts";
import { HELD_OUT_FRAMES, TOPICS } from "./topics.ts";

const SCRIPT = join(import.meta.dir, "customer-service.ts");

function run(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["bun", SCRIPT, ...args]);
  return { status: exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

describe("2,000 rows", () => {
  const { training, heldOut } = makeCustomerService(2000, 0);
  const questions = training.map(({ input }) => input);

  test("so many rows, and a tenth of it held out; no question twice", () => {
    expect([training.length, heldOut.length]).toEqual([2000, 200]);
    expect(new Set([...training, ...heldOut].map(({ input }) => input)).size).toBe(2200);
  });

  test("the held-out questions ask for facts that training taught 20 times, in words that it never used", () => {
    const taught = Map.groupBy(training, ({ output }) => output);
    expect(taught.size).toBe(100);
    for (const { output } of heldOut) expect(taught.get(output)).toHaveLength(20);
    const frames = HELD_OUT_FRAMES.map((frame) => frame.split("{p}")[0]);
    for (const words of [...TOPICS.flatMap((topic) => topic.heldOut), ...frames]) {
      expect(questions.filter((question) => question.includes(words))).toEqual([]);
    }
  });

  test("an answer is one fact, which no question gives away and no other product shares", () => {
    const answers = [...new Set(training.map(({ output }) => output))];
    const facts = answers.map((answer) => keyFacts(answer));
    for (const fact of facts) expect(fact).toHaveLength(1);
    for (const question of questions) expect(keyFacts(question)).toEqual([]);
    // The sentence with the product and the value taken out is the topic.
    const topics = Map.groupBy(answers, (answer) =>
      answer.replace(/^\p{Script=Han}+?(?=每|可以|提供|的|于|最多|购买|使用)/u, "").replace(/\d[\d.-]*/, ""),
    );
    for (const same of topics.values())
      expect(new Set(same.map((answer) => keyFacts(answer)[0])).size).toBe(same.length);
  });
});

test("the seed decides everything; as many rows as there are facts can be made", () => {
  expect(makeCustomerService(100, 7)).toEqual(makeCustomerService(100, 7));
  expect(makeCustomerService(100, 7)).not.toEqual(makeCustomerService(100, 8));
  expect(makeCustomerService(MOST_ROWS, 1).training).toHaveLength(MOST_ROWS);
});

describe("the files", () => {
  test("CSVs in UTF-8 that training reads", async () => {
    const folder = mkdtempSync(join(tmpdir(), "synthetic-"));
    try {
      const out = join(folder, "new");
      expect(run("--out", out, "--rows", "60", "--seed", "3")).toEqual({
        status: 0,
        stdout: `${join(out, "train.csv")}: 60 rows\n${join(out, "held-out.csv")}: 6 rows\n`,
        stderr: "",
      });
      const made = makeCustomerService(60, 3);
      expect((await readExamples(join(out, "train.csv"), { keepInstruction: true })) as unknown[]).toEqual(
        made.training,
      );
      expect((await readExamples(join(out, "held-out.csv"), { keepInstruction: true })) as unknown[]).toEqual(
        made.heldOut,
      );
      expect(readFileSync(join(out, "train.csv"), "utf8")).toStartWith("instruction,input,output\n");
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  const WRONG: [string[], number, string][] = [
    [[], 2, "--out needs the folder"],
    [["--out", "x", "--rows", "30"], 2, "--rows must be a multiple of 20 up to 2400"],
    [["--out", "x", "--rows", "100000"], 2, "--rows must be"],
    [["--out", "x", "--seed", "-1"], 2, "--seed"],
    [["--out", "x", "--lines", "3"], 2, "--lines"],
    [["--out", "/dev/null/x", "--rows", "20"], 1, "could not be written"],
  ];
  test.each(WRONG)("%j: status %d and a sentence", (args, status, sentence) => {
    const told = run(...args);
    expect(told.status).toBe(status);
    expect(told.stderr).toContain(sentence);
  });
});
