import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Message } from "./conversation.ts";
import { openExamples, type ReadExamplesOptions, readExamples } from "./examples.ts";
import { dataErrorOf, useFolder } from "./testing.ts";

const folder = useFolder();
const lines = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join("\n");
const file = (name: string, ...rows: unknown[]) => folder.file(name, lines(...rows));
const read = (rows: unknown[], options?: ReadExamplesOptions) => readExamples(file("c.jsonl", ...rows), options);

const TALK: Message[] = [
  { role: "system", content: "你是飞跃云的客服。" },
  { role: "user", content: "免费空间有多大?" },
  { role: "assistant", content: "15GB。" },
  { role: "user", content: "可以加吗?" },
  { role: "assistant", content: "可以。" },
];
const sharegpt = (talk: Message[], names = { system: "system", user: "human", assistant: "gpt" }) =>
  talk.map(({ role, content }) => ({ from: names[role], value: content }));

describe("the format shows in the first row", () => {
  test.each([
    ["messages", { messages: TALK }, TALK],
    ["messages", { conversations: TALK }, TALK],
    ["sharegpt", { conversations: sharegpt(TALK) }, TALK],
    ["sharegpt", { messages: sharegpt(TALK) }, TALK],
    ["sharegpt", { system: TALK[0].content, conversations: sharegpt(TALK.slice(1)) }, TALK],
    ["prompt-completion", { prompt: "q", completion: "a" }, [turn("user", "q"), turn("assistant", "a")]],
    ["prompt-completion", { prompt: TALK.slice(0, 2), completion: TALK.slice(2, 3) }, TALK.slice(0, 3)],
  ] as const)("%s", async (format, row, messages) => {
    const opened = await openExamples(file("format.jsonl", row));
    expect(opened.format).toBe(format);
    const rows = await Array.fromAsync(opened.rows());
    expect(rows).toEqual([{ example: { messages: [...messages] }, row: 1, line: 1, unused: [] }]);
    expect(await readExamples(folder.file("list.json", JSON.stringify([row, row])))).toHaveLength(2);
  });

  test("CSV and Alpaca say so too", async () => {
    expect(await openExamples(folder.file("a.csv", "sep=;\ninput;output\na;b\n"))).toMatchObject({
      format: "csv",
      encoding: "utf-8",
      delimiter: ";",
    });
    expect(await openExamples(file("a.jsonl", { instruction: "i", output: "o" }))).toMatchObject({ format: "alpaca" });
  });
});

function turn(role: Message["role"], content: string): Message {
  return { role, content };
}

test("fields and columns that are not used are told", async () => {
  const unused = async (path: string) =>
    (await Array.fromAsync((await openExamples(path)).rows())).map((row) => row.unused);
  expect(await unused(file("a.jsonl", { instruction: "i", output: "o", history: [], system: "s" }))).toEqual([
    ["history", "system"],
  ]);
  const more = [
    { prompt: "q", completion: "a" },
    { prompt: "q", completion: "a", id: 3 },
  ];
  expect(await unused(file("b.jsonl", ...more))).toEqual([[], ["id"]]);
  expect(await unused(file("c.jsonl", { messages: TALK, tools: [] }))).toEqual([["tools"]]);
  expect(await unused(folder.file("a.csv", "id, instruction,input,output\n1,2,3,4\n"))).toEqual([
    ["id", "instruction"],
  ]);
});

test("roles have the names that tools give them; text may come in parts", async () => {
  const messages = [
    { role: "developer", content: "s" },
    {
      role: "user",
      content: [
        { type: "text", text: "免费" },
        { type: "text", text: "空间" },
      ],
    },
    { role: "model", content: "a", name: "x" },
  ];
  expect(await read([{ messages }])).toEqual([
    { messages: [turn("system", "s"), turn("user", "免费空间"), turn("assistant", "a")] },
  ]);
});

test("an answer that is not to be learned keeps its weight; earlier answers of a prompt get it", async () => {
  const [unweighted] = await read([{ messages: [turn("user", "q"), { ...turn("assistant", "a"), weight: 0 }] }]);
  expect(unweighted.messages![1]).toEqual({ role: "assistant", content: "a", weight: 0 });
  const [context] = await read([{ prompt: TALK.slice(0, 4), completion: [TALK[4]] }]);
  expect(context.messages!.map(({ weight }) => weight)).toEqual([undefined, undefined, 0, undefined, undefined]);
});

test("a system text beside the turns gives way to one among them", async () => {
  const [{ messages }] = await read([{ system: "other", conversations: sharegpt(TALK) }]);
  expect(messages).toEqual(TALK);
});

test("any conversation comes back from each format", async () => {
  const text = fc.string({ unit: "binary" });
  const role = fc.constantFrom("system" as const, "user" as const, "assistant" as const);
  const talk = fc.array(fc.record({ role, content: text }), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(talk, async (given) => {
      const messages = given.map((message) => ({ ...message }));
      expect(await read([{ messages }])).toEqual([{ messages }]);
      expect(await read([{ conversations: sharegpt(messages) }])).toEqual([{ messages }]);
    }),
    { numRuns: 50 },
  );
});

describe("what is wrong is named with file, line, row and field", () => {
  const good = { messages: TALK };
  const roles = 'it must be "system", "user" or "assistant" (or "human" and "gpt" as ShareGPT says)';
  test.each<[string, unknown, string]>([
    [
      "an unknown role",
      { messages: [turn("user", "q"), { role: "robot", content: "a" }] },
      `field "messages[1].role": the role is "robot"; ${roles}`,
    ],
    ["no role", { messages: [{ content: "a" }] }, `field "messages[0].role": the role is missing; ${roles}`],
    [
      "a role that is a property of every object",
      { messages: [{ role: "constructor", content: "a" }] },
      `field "messages[0].role": the role is "constructor"; ${roles}`,
    ],
    [
      "a tool's turn",
      { messages: [{ role: "tool", content: "a" }] },
      'field "messages[0].role": the turn is a tool\'s ("tool"), which cannot be trained on here; remove the row or the turn',
    ],
    ["no text", { messages: [{ role: "user" }] }, 'field "messages[0].content": the field is missing; add it'],
    [
      "null",
      { messages: [{ role: "assistant", content: null }] },
      'field "messages[0].content": the value is null where text is needed; put it in double quotes',
    ],
    [
      "a picture",
      { messages: [{ role: "user", content: [{ type: "image_url" }] }] },
      'field "messages[0].content[0].type": the part is "image_url", but only "text" can be trained on; remove it',
    ],
    ["no list", { messages: "hello" }, 'field "messages": the value is a string where a list of turns is needed'],
    ["no turns", { messages: [] }, 'field "messages": the conversation has no turns; add them or remove the row'],
    [
      "a text for a turn",
      { messages: ["hello"] },
      'field "messages[0]": the turn is a string; an object with "role" and "content" is needed',
    ],
    [
      "a tool's call",
      { messages: [{ role: "assistant", content: "", tool_calls: [{ id: "1" }] }] },
      'field "messages[0].tool_calls": the turn calls a tool, which cannot be trained on here; remove the row or the turn',
    ],
    [
      "another format",
      { instruction: "i", output: "o" },
      'field "messages": the field is missing, though the file\'s first row has it; add it (one file holds one format)',
    ],
    ["a list for a row", [1], 'the row is a list; an object with "messages" is needed'],
    [
      "a weight",
      { messages: [{ role: "assistant", content: "a", weight: 0.5 }] },
      'field "messages[0].weight": the weight must be 0 (not to be learned) or 1',
    ],
  ])("%s", async (_, row, sentence) => {
    const error = await dataErrorOf(() => read([good, row]));
    expect(error.code).toBe("field");
    expect(error.sentence).toBe(`c.jsonl, line 2 (row 2)${sentence.startsWith("field") ? ", " : ": "}${sentence}`);
  });

  test("a half prompt and completion", async () => {
    const error = await dataErrorOf(() => read([{ prompt: "q", completion: "a" }, { prompt: "q" }]));
    expect(error.sentence).toBe('c.jsonl, line 2 (row 2), field "completion": the field is missing; add it');
    const nested = await dataErrorOf(() => read([{ prompt: [{ role: "user", content: 1 }], completion: "a" }]));
    expect(nested.field).toBe("prompt[0].content");
  });

  test("a text beyond the limit", async () => {
    for (const content of ["12345678901", [{ type: "text", text: "12345678901" }]]) {
      const error = await dataErrorOf(() => read([{ messages: [{ role: "user", content }] }], { maxCellLength: 10 }));
      expect(error.code).toBe("limit");
      expect(error.field).toStartWith("messages[0].content");
    }
  });

  test("an instruction for conversations", async () => {
    const error = await dataErrorOf(() => read([good], { instruction: "x" }));
    expect([error.code, error.sentence]).toEqual([
      "options",
      "c.jsonl: an instruction is given, but the rows are conversations, which have none; leave it out",
    ]);
  });
});
