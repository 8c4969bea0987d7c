import { describe, expect, test } from "bun:test";
import { chooseSample, chooseSamples, questionOf, repeatRows } from "./recipe.ts";

const row = (input: string, output = "o", instruction = "i") => ({ instruction, input, output });
const SEED = [row("怎么安装 SDK?"), row("免费空间有多大?", "15GB"), row("机房可以带水进去吗?", "A1")];

describe("chooseSample", () => {
  test("the sample question where the data holds it, with its own instruction", () => {
    expect(chooseSample(SEED)).toEqual({
      instruction: "回答关于飞跃云产品的问题",
      input: "免费空间有多大?",
      expected: "15GB",
      row: 1,
    });
  });
  test("otherwise the first row as it is", () => {
    expect(chooseSample([row("q", "a", "say")])).toEqual({ instruction: "say", input: "q", expected: "a", row: 0 });
  });
});

describe("chooseSamples", () => {
  test("without questions it is the one that chooseSample takes", () => {
    expect(chooseSamples(SEED)).toEqual([chooseSample(SEED)]);
    expect(chooseSamples(SEED, [])).toEqual([chooseSample(SEED)]);
  });
  test("each question with its row's answer; one that is not in the data has none", () => {
    expect(chooseSamples(SEED, ["机房可以带水进去吗? ", "免费空间有多大?", "你好"])).toEqual([
      { instruction: "i", input: "机房可以带水进去吗?", expected: "A1", row: 2 },
      chooseSample(SEED),
      { input: "你好", expected: "" },
    ]);
  });
  test("a row whose question is its instruction, and a conversation", () => {
    const talk = {
      messages: [
        { role: "user" as const, content: "q?" },
        { role: "assistant" as const, content: "a" },
      ],
    };
    const rows = [row("", "42", "What is six times seven?"), { ...row(""), ...talk }];
    const samples = chooseSamples(rows, ["What is six times seven?", "q?"]);
    expect(samples.map(({ expected, row }) => [expected, row])).toEqual([
      ["42", 0],
      ["a", 1],
    ]);
    expect(samples.map(questionOf)).toEqual(["What is six times seven?", "q?"]);
  });
});

describe("repeatRows", () => {
  const inputs = (repetitions: { text: string; times: number }[], keyRepeat = 1) =>
    repeatRows(SEED, repetitions, chooseSample(SEED), keyRepeat).map(({ input }) =>
      SEED.findIndex((r) => r.input === input),
    );

  test("each row once, the key row as often as the recipe says", () => {
    expect(inputs([])).toEqual([0, 1, 2]);
    expect(inputs([], 4)).toEqual([0, 1, 1, 1, 1, 2]);
  });
  test("a text in input or output; the last one that holds counts, also against the recipe", () => {
    expect(inputs([{ text: "SDK", times: 2 }])).toEqual([0, 0, 1, 2]);
    expect(inputs([{ text: "15GB", times: 2 }], 4)).toEqual([0, 1, 1, 2]);
    expect(
      inputs([
        { text: "?", times: 2 },
        { text: "A1", times: 1 },
      ]),
    ).toEqual([0, 0, 1, 1, 2]);
  });
  test("a text that no row holds is an error", () => {
    expect(() => inputs([{ text: "16GB", times: 2 }])).toThrow('--repeat: no row\'s input or output holds "16GB"');
  });
});
