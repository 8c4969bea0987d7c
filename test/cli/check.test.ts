import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command, OFFLINE, ROOT, temporaryFolder } from "../support/process.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const SEED_DATA = join(ROOT, "data/input/lora_train_data.csv");
const folder = await temporaryFolder();
afterAll(() => folder[Symbol.asyncDispose]());

async function file(name: string, ...rows: unknown[]): Promise<string> {
  const path = join(folder.path, name);
  await writeFile(path, rows.map((row) => JSON.stringify(row)).join("\n"));
  return path;
}

const SYSTEM = { role: "system", content: "你是飞跃云的客服。" };
const talk = (...texts: string[]) => ({
  messages: [SYSTEM, ...texts.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }))],
});
const GOOD = [talk("免费空间有多大?", "15GB。", "可以加吗?", "可以。"), talk("怎么退款?", "请联系客服。")];

describe("data --check", () => {
  test("the seed's rows: token by token, lengths, nothing to find; the answers alone in brackets", async () => {
    const { status, stdout, stderr } = await command("data", [
      "--check",
      SEED_DATA,
      "--model",
      "demo",
      "--loss",
      "completion",
    ]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toStartWith(`${SEED_DATA}: 5 rows (CSV, utf-8, "," between the cells)\nTokenizer: demo.`);
    expect(stdout).toContain("\nNot used: the column instruction.\n");
    expect(stdout.match(/^Row \d+, line \d+: \d+ tokens, \d+ with loss$/gm)).toHaveLength(3);
    expect(stdout).toEndWith("\n\nNo findings.\n");
    const [row] = stdout.split("\n\n").filter((block) => block.startsWith("Row 2, line 3:"));
    expect(row.match(/\[(.*)\]/s)?.[1].replaceAll(/[·⁰¹²³⁴-⁹]/g, "")).toBe(
      "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。<|im_end|>",
    );
    expect(row).not.toContain("\u001b");
  });

  test("what it says is trained is what training trains", async () => {
    const data = await file("good.jsonl", ...GOOD);
    const settings = ["--model", "demo", "--loss", "assistant", "--json"];
    const checked = JSON.parse((await command("data", ["--check", data, ...settings])).stdout);
    const out = join(folder.path, "adapter");
    const training = [
      "--data",
      data,
      "--out",
      out,
      "--epochs",
      "60",
      "--lr",
      "3e-3",
      "--batch",
      "2",
      "--grad-accum",
      "1",
    ];
    const { status, stdout } = await command("train", [...training, ...settings]);
    expect(status).toBe(0);
    const trained = JSON.parse(stdout);
    expect([checked.examples, checked.tokens]).toEqual([trained.data.examples, trained.data.tokens]);
    expect(trained.samples[0].prompt).toEndWith("免费空间有多大?<|im_end|>\n<|im_start|>assistant\n");
    expect(trained.samples[0].after).toBe("15GB。");

    // A question finds the adapter as training put it: through the chat template, with the system text.
    expect(JSON.parse(await readFile(join(out, "prompt.json"), "utf8"))).toEqual({
      format: 2,
      system: SYSTEM.content,
      end_token: "<|im_end|>",
      base_model: "demo",
      base_fingerprint: { vectors: expect.any(String), rows: { dtype: "bf16", sha256: expect.any(String) } },
    });
    const asked = JSON.parse((await command("ask", ["怎么退款?", "--adapter", out, "--json"])).stdout);
    const [, refund] = checked.rows;
    const ids: number[] = refund.tokens.flatMap((piece: { ids: number[] }) => piece.ids);
    const learned: number[] = refund.tokens.flatMap(({ ids, loss }: { ids: number[]; loss: boolean }) =>
      loss ? ids : [],
    );
    expect(asked.prompt_tokens).toEqual(ids.slice(0, asked.prompt_tokens.length));
    expect([...asked.tokens, ids[asked.prompt_tokens.length + learned.length - 1]]).toEqual(learned);
    expect(asked.finish_reason).toBe("stop");
  });

  test("finds what is wrong, names the rows, and ends with status 0", async () => {
    const rows = [
      ...GOOD,
      GOOD[1],
      talk("怎么退款?", "不退。"),
      talk("空", " "),
      talk("?"),
      talk("长".repeat(400), "好"),
    ];
    const data = await file("bad.jsonl", ...rows, talk("短", "好".repeat(400)));
    const validation = await file("validation.jsonl", GOOD[1], talk("空", "满"), talk("新", "好"));
    const args = ["--check", data, "--validation", validation, "--model", "demo", "--max-length", "200"];
    const { status, stdout } = await command("data", [...args, "--loss", "assistant"]);
    expect(status).toBe(0);
    const found = stdout.slice(stdout.indexOf("Findings:"));
    for (const line of [
      "2 rows longer than 200 tokens",
      "will be cut: 7, 8;",
      "1 of them loses an answer's end, and so when to stop: 8",
      "1 of them loses the whole answer: 7;",
      "1 row without an answer to learn: 6; they are left out",
      "1 row with an empty answer: 5;",
      "1 group of rows that say the same: 2 = 3;",
      "1 question with different answers",
      "怎么退款?\n      row 2, 3: 请联系客服。\n      row 4: 不退。",
      `2 rows of ${validation} in the training data too, so its loss would flatter: 1 = 2, 2 asks the same as 5;`,
    ]) {
      expect(found).toContain(line);
    }
    const json = JSON.parse((await command("data", [...args, "--json", "--show", "0"])).stdout);
    expect(json).toMatchObject({
      format: "messages",
      examples: 8,
      validation_examples: 3,
      trainable: 8,
      max_length: 200,
      answer_lost: [{ row: 7, line: 7 }],
      answer_cut: [{ row: 8, line: 8 }],
      unanswered: [{ row: 6, line: 6 }],
      empty_answers: [5],
      duplicates: [[2, 3]],
      leaks: [
        { validation_row: 1, row: 2, same: "row" },
        { validation_row: 2, row: 5, same: "question" },
      ],
      rows: [],
    });
  });

  test("nothing can be trained: told with its reason, status 1; training says so too", async () => {
    const data = await file("none.jsonl", talk("a"), talk("b", "c"));
    const settings = ["--loss", "assistant", "--max-length", "5", "--model", "demo"];
    const checked = await command("data", ["--check", data, ...settings]);
    expect(checked.status).toBe(1);
    expect(checked.stdout).toContain("To train on: 0 rows");
    expect(checked.stderr).toContain(`nothing of ${data} can be trained: 1 of 2 rows have no answer to learn`);
    const out = join(folder.path, "none");
    const trained = await command("train", ["--data", data, "--out", out, ...settings]);
    expect(trained.status).toBe(1);
    expect(trained.stderr).toContain("every token is masked, so nothing is left to learn");
    expect(existsSync(out)).toBe(false);
  });

  test("without a model at hand the demo's tokenizer counts, and that is said; nothing is downloaded", async () => {
    const env = { ...OFFLINE, HOME: folder.path };
    const { status, stderr, stdout } = await command("data", ["--check", SEED_DATA], { env });
    expect(status).toBe(0);
    expect(stderr).toStartWith("warning: Qwen/Qwen2.5-0.5B-Instruct is not on this computer");
    expect(stdout).toContain("Tokenizer: demo.");
    const named = await command("data", ["--check", SEED_DATA, "--model", "Qwen/Qwen2.5-1.5B"], { env });
    expect(named.status).toBe(1);
    expect(named.stderr).toContain("run `bun run download Qwen/Qwen2.5-1.5B` first");
  });

  test("a broken row: one sentence with file, line, row and field, status 1", async () => {
    const data = await file("broken.jsonl", GOOD[0], { messages: [{ role: "robot", content: "a" }] });
    const { status, stdout, stderr } = await command("data", ["--check", data, "--model", "demo"]);
    expect(status).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toStartWith(`error: ${data}, line 2 (row 2), field "messages[0].role": the role is "robot"`);
  });

  test.each([
    [["--check", "a", "b"], "leave input and output out"],
    [["--check", "a", "--rag"], "'--rag'"],
    [["a", "b", "--loss", "full"], "'--loss' needs '--check <file>'"],
    [["--check", "a", "--max-length", "1"], "'--max-length <n>'"],
  ])("wrong usage: status 2 %p", async (args, sentence) => {
    const { status, stderr } = await command("data", args);
    expect(status).toBe(2);
    expect(stderr).toContain(sentence);
  });
});
