import { describe, expect, test } from "bun:test";
import type { ChatTokenizer } from "./chat.ts";
import { OptionError } from "./errors.ts";
import {
  chatPromptFormat,
  type Example,
  formatPrompt,
  type PromptFormat,
  promptFormat,
  promptFormatSchema,
  promptOf,
  putQuestion,
  sequenceOf,
  withSystem,
} from "./prompt.ts";
import { LOSS_MASKS, type SequenceOptions, trainingSequence, trainingSequences } from "./train/sequences.ts";

const prompt = promptFormat("base", "回答问题");
const example: Example = { instruction: "指导 {} 集成", input: "怎么 {} 安装?", output: "运行 {} 即可" };
/** One token a character, by its code point. */
const encode = (text: string): number[] => [...text].map((c) => c.codePointAt(0)!);
const options: SequenceOptions = { prompt, encode, endTokenId: 0, maxLength: 1000 };
const decode = (tokens: readonly number[]): string =>
  tokens.map((t) => (t === 0 ? "<end>" : String.fromCodePoint(t))).join("");

test("the template of the contract, braces in the text kept", () => {
  expect(promptOf(example, prompt)).toBe(
    "### Instruction:\n指导 {} 集成\n\n### Input:\n怎么 {} 安装?\n\n### Response:\n",
  );
  expect(sequenceOf(example, prompt)).toBe(`${promptOf(example, prompt)}运行 {} 即可`);
  expect(promptOf({ input: "免费空间有多大?" }, prompt)).toBe(
    "### Instruction:\n回答问题\n\n### Input:\n免费空间有多大?\n\n### Response:\n",
  );
  expect(promptFormat("base")).toMatchObject({ instruction: "回答关于飞跃云产品的问题", end_token: "<|im_end|>" });
});

test("text behind the answer belongs to the sequence", () => {
  const own = { ...prompt, template: "[{}|{}|{}]" };
  expect(promptOf(example, own)).toBe("[指导 {} 集成|怎么 {} 安装?|");
  expect(sequenceOf(example, own)).toBe("[指导 {} 集成|怎么 {} 安装?|运行 {} 即可]");
  expect(decode(trainingSequence(example, { ...options, prompt: own }).tokens)).toBe(
    "[指导 {} 集成|怎么 {} 安装?|运行 {} 即可]<end>",
  );
});

test("a format that could not be read back is not written", () => {
  expect(() => formatPrompt({ ...prompt, template: "{}" })).toThrow("must hold {} three times");
});

describe("a question as training put it", () => {
  const tokenizer: ChatTokenizer = {
    renderChat: (messages, { addGenerationPrompt }) =>
      `${messages.map(({ role, content }) => `${role[0]}:${content};`).join("")}${addGenerationPrompt ? "a:" : ""}`,
    encode,
    isSpecial: () => false,
  };
  const put = (question: Parameters<typeof putQuestion>[0], format: PromptFormat): string => {
    const { text, ids } = putQuestion(question, format, tokenizer);
    expect(decode(ids)).toBe(text);
    return text;
  };

  test("into the template", () => {
    expect(put({ input: "q" }, prompt)).toBe(promptOf({ input: "q" }, prompt));
    expect(() => put({ messages: [{ role: "user", content: "q" }] }, prompt)).toThrow("not on conversations");
  });

  test("through the chat template, with the training's system text or another", () => {
    const chat = chatPromptFormat("base", "客服");
    expect(put({ input: "问?" }, chat)).toBe("s:客服;u:问?;a:");
    expect(put({ input: "问?", instruction: "律师" }, chat)).toBe("s:律师;u:问?;a:");
    expect(put({ input: "问?" }, chatPromptFormat("base"))).toBe("u:问?;a:");
    const talk = [...withSystem([{ role: "user", content: "a" }], chat), { role: "assistant", content: "b" }];
    expect(put({ messages: talk }, chat)).toBe("s:客服;u:a;a:b;a:");
  });

  test("prompt.json of both formats comes back", () => {
    for (const format of [prompt, chatPromptFormat("base", "客服"), chatPromptFormat("base")]) {
      expect(promptFormatSchema.parse(JSON.parse(formatPrompt(format)))).toEqual(format);
    }
  });
});

describe("sequences", () => {
  test("every token predicts the next; completion: only the answer's tokens are predicted", () => {
    const { tokens, targets } = trainingSequence(example, options);
    expect(decode(tokens)).toBe(`${sequenceOf(example, prompt)}<end>`);
    expect(targets).toEqual([...tokens.slice(1), -1]);
    const masked = trainingSequence(example, { ...options, loss: "completion" });
    expect(masked.tokens).toEqual(tokens);
    expect(decode(masked.targets.filter((t) => t >= 0))).toBe("运行 {} 即可<end>");
    const last = promptOf(example, prompt).length - 1;
    expect(masked.targets.findIndex((t) => t >= 0)).toBe(last);
  });

  test("the end token is learned whatever carries loss, so that the answer stops (trl #1623)", () => {
    for (const loss of LOSS_MASKS) {
      const { tokens, targets } = trainingSequence(example, { ...options, loss });
      expect(tokens.at(-1)).toBe(options.endTokenId);
      expect(targets.at(-2)).toBe(options.endTokenId);
      // It is the last: nothing is learned to follow it.
      expect(targets.at(-1)).toBe(-1);
    }
  });

  test("what is cut or lost is reported", () => {
    const short: Example = { input: "短", output: "好" };
    const report = trainingSequences([short, example, { ...short, input: "很长".repeat(40) }], {
      ...options,
      loss: "completion",
      maxLength: 69,
    });
    expect(report.truncated).toEqual([
      { example: 2, length: 72 },
      { example: 3, length: 132 },
    ]);
    expect(report.dropped).toEqual([3]);
    expect(report.sequences.map(({ tokens }) => tokens.length)).toEqual([53, 69]);
    expect([report.tokens, report.predicted]).toEqual([122, 2 + 6]);
    expect(decode(report.sequences[1].targets.filter((t) => t >= 0))).toBe("运行 {} ");
  });

  const bad: [string, Partial<SequenceOptions>, Example[], string][] = [
    ["max-length", { maxLength: 1 }, [example], "max-length must be a whole number of at least 2, not 1"],
    ["max-length", { maxLength: Number.NaN }, [example], "max-length must be a whole number of at least 2, not NaN"],
    ["loss", { loss: "all" as "full" }, [example], "loss must be one of full, completion, assistant, not all"],
    ["data", {}, [], "there are no examples to train on"],
    [
      "max-length",
      { maxLength: 20, loss: "completion" },
      [example],
      "max-length 20 cuts the whole answer off every example, so nothing is left to learn; raise it",
    ],
  ];
  test.each(bad)("%s %#", (option, change, examples, sentence) => {
    let error: unknown;
    try {
      trainingSequences(examples, { ...options, ...change });
    } catch (e) {
      error = e;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect([(error as OptionError).option, (error as Error).message]).toEqual([option, sentence]);
  });
});
