import { expect, test } from "bun:test";
import { readFile } from "node:fs/promises";
import { convertCsv } from "./convert.ts";
import { openExamples, readExamples } from "./examples.ts";
import { dataErrorOf, useFolder } from "./testing.ts";

const folder = useFolder();
const weights = async (name: string, content: string) =>
  (await readExamples(folder.file(name, content))).map(({ weight }) => weight);
const line = (row: object) => `${JSON.stringify(row)}\n`;

test("every format may say how much a row counts", async () => {
  expect(await weights("a.csv", "input,output,weight\nq,a,2.5\nq,a,\n")).toEqual([2.5, undefined]);
  expect(await weights("a.jsonl", line({ instruction: "", output: "a", weight: 3 }))).toEqual([3]);
  const turns = [
    { role: "user", content: "q" },
    { role: "assistant", content: "a" },
  ];
  expect(await weights("m.jsonl", line({ messages: turns, weight: 0.5 }) + line({ messages: turns }))).toEqual([
    0.5,
    undefined,
  ]);
  const shared = [
    { from: "human", value: "q" },
    { from: "gpt", value: "a" },
  ];
  expect(await weights("s.jsonl", line({ conversations: shared, system: "s", weight: 2 }))).toEqual([2]);
  expect(await weights("p.jsonl", line({ prompt: "q", completion: "a", weight: 4 }))).toEqual([4]);
});

test("the conversion keeps it", async () => {
  const input = folder.file("a.csv", "input,output,weight\nq,a,2\nq,a,\n");
  const output = folder.path("a.json");
  await convertCsv({ input, output });
  const rows = JSON.parse(await readFile(output, "utf8"));
  expect(rows.map(({ weight }: { weight?: number }) => weight)).toEqual([2, undefined]);
  expect(await readExamples(output)).toEqual(await readExamples(input));
});

test("it is used, and so not reported as unused", async () => {
  const csv = await openExamples(folder.file("a.csv", "input,output,weight,note\nq,a,2,n\n"));
  for await (const { unused } of csv.rows()) expect(unused).toEqual(["note"]);
});

test("what is no weight is refused with its place", async () => {
  const problem = "it must be a number above 0 (leave a row out instead of giving it 0), or have another name";
  const sentence = async (name: string, content: string) =>
    (await dataErrorOf(() => readExamples(folder.file(name, content)))).sentence;
  expect(await sentence("a.csv", "input,output,weight\nq,a,1\nq,a,5kg\n")).toBe(
    `a.csv, line 3 (row 2), column "weight": the weight is "5kg"; ${problem}`,
  );
  expect(await sentence("a.csv", "input,output,weight\nq,a,0\n")).toContain('the weight is "0"');
  expect(await sentence("a.jsonl", line({ instruction: "", output: "a", weight: -1 }))).toBe(
    `a.jsonl, line 1 (row 1), field "weight": the weight is -1; ${problem}`,
  );
});
