import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CAN_MOUNT, command, ROOT, temporaryFolder, tinyDisk } from "../support/process.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const SEED_DATA = join(ROOT, "data/input/lora_train_data.csv");

describe("data", () => {
  test("writes the seed's rows as Alpaca JSON, in a folder it makes", async () => {
    await using folder = await temporaryFolder();
    const output = join(folder.path, "new/train.json");
    const { status, stdout } = await command("data", [SEED_DATA, output, "--json"]);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      output,
      rows: 5,
      emptied: [],
      emptied_count: 0,
      encoding: "utf-8",
      delimiter: ",",
    });
    const rows = JSON.parse(await readFile(output, "utf8"));
    expect(rows).toHaveLength(5);
    expect(rows[1]).toEqual({
      instruction: "回答以下关于特定领域的问题:",
      input: "免费空间有多大?",
      output: "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。",
    });
  });

  test("--instruction, --keep-instruction and --rag", async () => {
    await using folder = await temporaryFolder();
    const output = join(folder.path, "out");
    await command("data", [SEED_DATA, output, "--instruction", "请回答"]);
    expect(JSON.parse(await readFile(output, "utf8"))[0].instruction).toBe("请回答");
    await command("data", [SEED_DATA, output, "--keep-instruction"]);
    expect(JSON.parse(await readFile(output, "utf8"))[2].instruction).toBe("指导用户进行技术集成");
    const { stdout } = await command("data", [SEED_DATA, output, "--rag"]);
    expect(stdout).toBe(`${output}: 5 rows, read as utf-8\n`);
    expect(await readFile(output, "utf8")).toStartWith("instruction,input,output\n");
  });

  test("names the rows that cleaning left empty", async () => {
    await using folder = await temporaryFolder();
    const input = join(folder.path, "in.csv");
    await writeFile(input, "input,output\na,<br>\nb,answer\nc,  \n");
    const { status, stderr } = await command("data", [input, join(folder.path, "out.json")]);
    expect(status).toBe(0);
    expect(stderr).toBe("warning: nothing is left of the output of rows 1, 3 after cleaning; fill or remove them\n");
  });

  const bad: [string, string | Uint8Array | undefined, string][] = [
    ["a missing file", undefined, "there is no such file; check the path"],
    ["an empty file", "", "the file is empty; give one with rows"],
    ["no rows", "input,output\n", "no rows"],
    ["a missing column", "question,answer\na,b\n", 'line 1, column "input"'],
    ["a ragged row", "input,output\na,b\nc,d,e\n", "line 3 (row 2)"],
    ["a broken quote", 'input,output\na,"b\n', "quote"],
    [
      "a wrong encoding",
      new Uint8Array([...new TextEncoder().encode("input,output\na,"), 0xff, 0xfe, 0xff, 0x0a]),
      "in.csv",
    ],
  ];
  test.each(bad)("%s: one sentence, status 1, nothing written", async (_, content, sentence) => {
    await using folder = await temporaryFolder();
    const [input, output] = [join(folder.path, "in.csv"), join(folder.path, "made/out.json")];
    if (content !== undefined) await writeFile(input, content);
    const { status, stdout, stderr } = await command("data", [input, output]);
    expect(stderr).toContain(sentence);
    expect(stderr).toStartWith(`error: ${input}`);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(status).toBe(1);
    expect(stdout).toBe("");
    expect(existsSync(join(folder.path, "made"))).toBe(false);
  });

  test("--debug adds where it came from", async () => {
    const { stderr } = await command("data", ["nothing.csv", "out.json", "--debug"]);
    expect(stderr).toContain("DataError");
    expect(stderr).toMatch(/\n\s+at .*\.ts:\d+/);
  });

  test.skipIf(!CAN_MOUNT)("a full disk (mounted by root): said so, and nothing half-written stays", async () => {
    await using disk = await tinyDisk(64);
    await using folder = await temporaryFolder();
    const input = join(folder.path, "in.csv");
    await writeFile(input, `input,output\n${`question,${"answer ".repeat(100)}\n`.repeat(200)}`);
    const output = join(disk.path, "out.json");
    const { status, stderr } = await command("data", [input, output]);
    expect(stderr).toBe(
      `error: ${output}: cannot be written: the disk is full; free some space or choose another place\n`,
    );
    expect(status).toBe(1);
    expect([...new Bun.Glob("**").scanSync({ cwd: disk.path, dot: true })]).toEqual([]);
  });
});
