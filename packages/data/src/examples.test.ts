import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DEFAULT_INSTRUCTION } from "./alpaca.ts";
import { convertCsv } from "./convert.ts";
import { type ReadExamplesOptions, readExamples, streamExamples } from "./examples.ts";
import { dataErrorOf, useFolder } from "./testing.ts";

const folder = useFolder();
const CSV = "instruction,input,output\n指令,问?,<b>答</b>\n";
const ROWS = [
  { instruction: "指令", input: "问?", output: "<b>答</b>" },
  { instruction: "", input: "", output: "" },
];

const read = (name: string, content: string, options?: ReadExamplesOptions) =>
  readExamples(folder.file(name, content), options);

test("a CSV: its outputs cleaned, its instruction the fixed one", async () => {
  const example = { instruction: DEFAULT_INSTRUCTION, input: "问?", output: "答" };
  expect(await read("a.csv", CSV)).toEqual([example]);
  expect(await read("a.csv", CSV, { instruction: "x" })).toEqual([{ ...example, instruction: "x" }]);
  expect(await read("a.csv", CSV, { keepInstruction: true })).toEqual([{ ...example, instruction: "指令" }]);
});

test("a CSV read directly gives what its conversion gives", async () => {
  const input = `${import.meta.dir}/../../../data/input/lora_train_data.csv`;
  const output = folder.path("converted.json");
  await convertCsv({ input, output });
  expect(await readExamples(input)).toEqual(await readExamples(output));
});

test.each([
  ["an array", "a.json", JSON.stringify(ROWS, null, 2)],
  ["lines", "a.jsonl", ROWS.map((row) => JSON.stringify(row)).join("\n")],
  ["lines in a .json", "lines.json", ROWS.map((row) => JSON.stringify(row)).join("\n")],
  ["an array without an ending", "a", JSON.stringify(ROWS)],
  ["lines without an ending", "b", `\n${ROWS.map((row) => JSON.stringify(row)).join("\n")}`],
])("JSON as it is: %s", async (_, name, content) => {
  expect(await read(name, content)).toEqual(ROWS);
});

test("a CSV without an ending", async () => {
  expect(await read("c", CSV)).toHaveLength(1);
});

test("JSON under another instruction needs none of its own", async () => {
  expect(await read("a.json", '[{"input": "q", "output": "a"}]', { instruction: "x" })).toEqual([
    { instruction: "x", input: "q", output: "a" },
  ]);
});

test("input may be missing; other fields are dropped", async () => {
  expect(await read("a.json", '[{"instruction": "i", "output": "a", "system": 1, "__proto__": {"x": 1}}]')).toEqual([
    { instruction: "i", input: "", output: "a" },
  ]);
});

test("examples come one by one", async () => {
  const path = folder.file("late.jsonl", `${JSON.stringify(ROWS[0])}\nbroken\n`);
  for await (const example of streamExamples(path)) {
    expect(example).toEqual(ROWS[0]);
    break;
  }
});

test("any examples come back from the JSON written of them", async () => {
  const text = fc.string({ unit: "binary" });
  const example = fc.record({ instruction: text, input: text, output: text });
  await fc.assert(
    fc.asyncProperty(fc.array(example, { minLength: 1 }), async (examples) => {
      const plain = examples.map((example) => ({ ...example }));
      expect(await read("any.json", JSON.stringify(plain))).toEqual(plain);
    }),
  );
});

test("an abort ends the reading", async () => {
  const signal = AbortSignal.abort();
  for (const name of ["a.csv", "a.json"]) {
    const reading = read(name, name === "a.csv" ? CSV : JSON.stringify(ROWS), { signal });
    expect((await reading.catch((error) => error)).name).toBe("AbortError");
  }
});

describe("what is wrong is named with file, line, row and field", () => {
  const good = JSON.stringify(ROWS[0]);

  test.each([
    [
      "a missing field",
      `[${good},\n{"instruction": "i", "input": "q"}]`,
      'a.json, line 2 (row 2), field "output": the field is missing; add it',
    ],
    [
      "a number",
      '[{"instruction": "i", "input": "q", "output": 15}]',
      'a.json, line 1 (row 1), field "output": the value is a number where text is needed; put it in double quotes',
    ],
    [
      "null",
      '{"instruction": "i", "input": null, "output": "a"}',
      'a.json, line 1 (row 1), field "input": the value is null where text is needed; put it in double quotes',
    ],
    [
      "a list for a row",
      `[${good}, [1]]`,
      'a.json, line 1 (row 2): the row is a list; an object with "instruction", "input" and "output" is needed',
    ],
    [
      "half a character",
      '[{"instruction": "\\ud83d", "output": "a"}]',
      'a.json, line 1 (row 1), field "instruction": the text holds half of a surrogate pair (a broken \\ud800 to \\udfff escape); correct it',
    ],
    [
      "a list cut off",
      `[${good},`,
      'a.json, line 1 (row 2): the file ends before the "]" that closes the list; it may have been cut off: write or fetch it again',
    ],
  ])("%s", async (_, content, sentence) => {
    const error = await dataErrorOf(() => read("a.json", content));
    expect(error.sentence).toBe(sentence);
  });

  test("a field beyond the limit", async () => {
    const row = '{"instruction": "i", "output": "12345678901"}';
    const error = await dataErrorOf(() => read("a.json", row, { maxCellLength: 10 }));
    expect(error.code).toBe("limit");
    expect(error.sentence).toBe(
      'a.json, line 1 (row 1), field "output": the text is longer than 10 characters; shorten it or raise maxCellLength',
    );
  });

  test("a CSV's limit on rows", async () => {
    const error = await dataErrorOf(() => read("a.csv", `${CSV}1,2,3\n`, { maxRows: 1 }));
    expect(error.sentence).toBe("a.csv, line 3 (row 2): the file has more than 1 rows; raise maxRows");
  });

  test("two wishes for the instruction", async () => {
    const error = await dataErrorOf(() => read("a.json", `[${good}]`, { instruction: "x", keepInstruction: true }));
    expect(error.code).toBe("options");
  });
});
