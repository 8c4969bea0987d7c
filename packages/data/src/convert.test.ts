import { describe, expect, test } from "bun:test";
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import fc from "fast-check";
import { cleanText } from "./clean.ts";
import { type ConvertOptions, type ConvertProgress, convertCsv } from "./convert.ts";
import { formatCsvRow } from "./csv/write.ts";
import { dataErrorOf, encodeGbk, useFolder } from "./testing.ts";

const folder = useFolder();
const SEED = `${import.meta.dir}/../../../data/input/lora_train_data.csv`;
const CSV = 'instruction,input,output,note\n指令,问?," <b>答</b>\n 了 ",x\n,,"",\n指令,q,<br>,"a,b"\n';

async function convert(content: string | Uint8Array, options: Partial<ConvertOptions> = {}) {
  const output = folder.path("out");
  const report = await convertCsv({ input: folder.file("in.csv", content), output, ...options });
  return { report, text: readFileSync(output, "utf8") };
}

test("the seed's rows become Alpaca JSON under the fixed instruction", async () => {
  const output = folder.path("deep/er/train_data.json");
  const report = await convertCsv({ input: SEED, output });
  expect(report).toEqual({ rows: 5, emptied: [], emptiedCount: 0, encoding: "utf-8", delimiter: ",", output });
  const text = readFileSync(output, "utf8");
  const rows = JSON.parse(text);
  expect(rows[1]).toEqual({
    instruction: "回答以下关于特定领域的问题:",
    input: "免费空间有多大?",
    output: "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。",
  });
  expect(text).toStartWith(
    '[\n  {\n    "instruction": "回答以下关于特定领域的问题:",\n    "input": "扩容 1TB 多少钱?",\n',
  );
  expect(text).toBe(JSON.stringify(rows, null, 2));
});

test("outputs are cleaned, inputs are not, and rows left empty are reported", async () => {
  const { report, text } = await convert(CSV.replace("问?", '" 问\n<i>? "'));
  const instruction = "回答以下关于特定领域的问题:";
  expect(JSON.parse(text)).toEqual([
    { instruction, input: " 问\n<i>? ", output: "答 了" },
    { instruction, input: "", output: "" },
    { instruction, input: "q", output: "" },
  ]);
  expect(report).toMatchObject({ rows: 3, emptied: [2, 3], emptiedCount: 2 });
});

test("white space that tags leave behind is empty too", async () => {
  const { report, text } = await convert("input,output\nq,<a> </a>\n");
  expect(JSON.parse(text)[0].output).toBe(" ");
  expect(report.emptied).toEqual([1]);
});

test("the instruction can be another, or the rows' own", async () => {
  const other = await convert(CSV, { instruction: "回答问题" });
  expect(JSON.parse(other.text)[2].instruction).toBe("回答问题");
  const own = await convert(CSV, { keepInstruction: true });
  expect(JSON.parse(own.text).map((row: { instruction: string }) => row.instruction)).toEqual(["指令", "", "指令"]);
});

test("rag gives the CSV with its columns, the output cleaned", async () => {
  const { report, text } = await convert(CSV, { rag: true });
  expect(text).toBe('instruction,input,output,note\n指令,问?,答 了,x\n,,,\n指令,q,,"a,b"\n');
  expect(report).toMatchObject({ rows: 3, emptied: [2, 3] });
  const only = await convert("output\n<p>\n答\n", { rag: true });
  expect(only.text).toBe('output\n""\n答\n');
});

test("whatever came in, UTF-8 with commas and line feeds comes out", async () => {
  const { report, text } = await convert(encodeGbk('input;output\r\n"问;1";答\r\n'), { rag: true });
  expect(text).toBe("input,output\n问;1,答\n");
  expect(report).toMatchObject({ encoding: "gb18030", delimiter: ";" });
});

test("any rows come out as JSON.stringify writes them", async () => {
  const cell = fc.string({ unit: fc.constantFrom(...'a云<b>,"\\\r\n \u2028\x7f\x01𠮷') });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(cell, cell), { minLength: 1 }), async (rows) => {
      const { text } = await convert([["input", "output"], ...rows].map(formatCsvRow).join(""), { instruction: "i" });
      const expected = rows.map(([input, output]) => ({ instruction: "i", input, output: cleanText(output) }));
      expect(text).toBe(JSON.stringify(expected, null, 2));
    }),
  );
});

test("progress tells bytes and rows, up to the end", async () => {
  const seen: ConvertProgress[] = [];
  const content = `input,output\n${"q,a\n".repeat(40_000)}`;
  await convert(content, { onProgress: (progress) => seen.push(progress) });
  expect(seen.length).toBeGreaterThan(1);
  expect(seen.at(-1)).toMatchObject({ bytesRead: content.length, totalBytes: content.length });
  expect(seen.at(-1)!.rows).toBeGreaterThan(seen[0].rows);
});

test("of very many emptied rows the first thousand are listed", async () => {
  const { report } = await convert(`input,output\n${"q,\n".repeat(1200)}`);
  expect(report.emptied).toHaveLength(1000);
  expect(report.emptiedCount).toBe(1200);
});

describe("nothing is written", () => {
  const output = folder.path("new/out.json");
  const refuse = (content: string, options: Partial<ConvertOptions> = {}) =>
    dataErrorOf(() => convertCsv({ input: folder.file("in.csv", content), output, ...options }));

  test.each([
    ["a missing column", "input\nq\n", 'in.csv, line 1, column "output": the column is missing'],
    ["a ragged row far down", `input,output\n${"q,a\n".repeat(50_000)}q\n`, "in.csv, line 50002 (row 50001)"],
    ["a broken quote", 'input,output\nq,"a\n', 'in.csv, line 2 (row 1), column "output": the quote'],
    ["no rows", "input,output\n", "in.csv: the file has a header but no rows"],
  ])("%s", async (_, content, beginning) => {
    expect((await refuse(content)).sentence).toStartWith(beginning);
    expect(existsSync(folder.path("new"))).toBe(false);
  });

  test("the instruction's column is needed only to be kept", async () => {
    expect((await refuse("input,output\nq,a\n", { keepInstruction: true })).column).toBe("instruction");
    expect((await refuse("output\na\n")).column).toBe("input");
  });

  test("two wishes for the instruction", async () => {
    expect((await refuse(CSV, { instruction: "x", keepInstruction: true })).sentence).toBe(
      "in.csv: an instruction is given and the rows' own are to be kept; choose one of the two",
    );
  });

  test("an abort in the middle", async () => {
    mkdirSync(folder.path("abort"));
    const controller = new AbortController();
    const converting = convertCsv({
      input: folder.file("in.csv", `input,output\n${"q,a\n".repeat(100_000)}`),
      output: folder.path("abort/out.json"),
      onProgress: () => controller.abort(),
      signal: controller.signal,
    });
    expect((await converting.catch((error) => error)).name).toBe("AbortError");
    expect(readdirSync(folder.path("abort"))).toEqual([]);
  });

  test("the output is the input, under whatever name", async () => {
    const input = folder.file("same.csv", CSV);
    symlinkSync(input, folder.path("soft.csv"));
    linkSync(input, folder.path("hard.csv"));
    for (const name of ["same.csv", "soft.csv", "hard.csv"]) {
      const error = await dataErrorOf(() => convertCsv({ input, output: folder.path(name), rag: true }));
      expect(error.sentence).toBe(`${name}: input and output are the same file; choose another output`);
    }
    expect(readFileSync(input, "utf8")).toBe(CSV);
  });

  test("the output is a folder", async () => {
    const error = await refuse(CSV, { output: folder.path(".") });
    expect(error.code).toBe("output");
  });
});
