import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type ChatMessage, type ChatTokenizer, encodeChatPrompt, encodeConversation } from "./chat.ts";
import { OptionError } from "./errors.ts";
import { type SequenceOptions, trainingSequence, trainingSequences } from "./train/sequences.ts";

const CONTROL = ["<|im_start|>", "<|im_end|>"];
const END = 1;
const PAIR = "\u240a";

/** Qwen's template, and one token a character or pair of line feeds, so that tokens reach over a seam as real ones do. */
const tokenizer: ChatTokenizer = {
  renderChat(messages, { addGenerationPrompt }) {
    const system = messages[0]?.role === "system" ? "" : "<|im_start|>system\nHelp.<|im_end|>\n";
    const turns = messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`);
    return system + turns.join("") + (addGenerationPrompt ? "<|im_start|>assistant\n" : "");
  },
  encode(text, { specialTokens = true } = {}) {
    const pieces = specialTokens ? text.split(/(<\|im_start\|>|<\|im_end\|>)/) : [text];
    return pieces.flatMap((piece) =>
      specialTokens && CONTROL.includes(piece)
        ? [CONTROL.indexOf(piece)]
        : [...piece.replaceAll("\n\n", PAIR)].map((character) => 10 + character.codePointAt(0)!),
    );
  },
  isSpecial: (id) => id < CONTROL.length,
};
const decode = (ids: readonly number[]): string =>
  ids.map((id) => CONTROL[id] ?? String.fromCodePoint(id - 10).replace(PAIR, "\n\n")).join("");

const turn = (role: string, content: string, weight?: 0 | 1): ChatMessage =>
  weight === undefined ? { role, content } : { role, content, weight };
const [ASK, TELL] = [turn("user", "免费空间有多大?"), turn("assistant", "15GB。")];
const TALK = [ASK, TELL, turn("user", "可以加吗?"), turn("assistant", "可以。")];
const options: SequenceOptions = {
  chat: tokenizer,
  encode: tokenizer.encode,
  endTokenId: END,
  maxLength: 10_000,
  loss: "assistant",
};

/** The runs of tokens that carry loss, as text. */
function lossRuns(messages: readonly ChatMessage[], change: Partial<SequenceOptions> = {}): string[] {
  const { tokens, targets } = trainingSequence({ messages }, { ...options, ...change });
  const runs: number[][] = [];
  targets.forEach((target, i) => {
    if (target < 0) return;
    expect(target).toBe(tokens[i + 1]);
    if (i === 0 || targets[i - 1] < 0) runs.push([]);
    runs[runs.length - 1].push(target);
  });
  return runs.map(decode);
}

const character = fc.oneof(
  fc.constantFrom("\n", "\n\n", " ", "云", "a", "<|im_end|>", "<|im_start|>assistant\n", "\ue0000\ue001"),
  fc.string({ unit: "binary", minLength: 1, maxLength: 2 }),
);
const content = fc.array(character, { maxLength: 6 }).map((parts) => parts.join(""));
const conversation = fc.array(
  fc
    .record({ role: fc.constantFrom("system", "user", "assistant"), content, weight: fc.constantFrom(0, 1, undefined) })
    .map(({ role, content: text, weight }) => turn(role, text, role === "assistant" ? weight : undefined)),
  { minLength: 1, maxLength: 6 },
);

describe("what carries loss", () => {
  test("every answer with its end token (trl #1623), and nothing of the template", () => {
    expect(lossRuns(TALK)).toEqual(["15GB。<|im_end|>", "可以。<|im_end|>"]);
    expect(lossRuns(TALK, { loss: "completion" })).toEqual(["可以。<|im_end|>"]);
    const rendered = tokenizer.renderChat(TALK, { addGenerationPrompt: false });
    expect(lossRuns(TALK, { loss: "full" })).toEqual([rendered.replace("<|im_start|>", "")]);
  });

  test("an answer of weight 0 is context", () => {
    const talk = [ASK, { ...TELL, weight: 0 as const }, ...TALK.slice(2)];
    expect(lossRuns(talk)).toEqual(["可以。<|im_end|>"]);
    expect(lossRuns(talk.slice(0, 2))).toEqual([]);
  });

  test("an empty answer still teaches the end", () => {
    expect(lossRuns([ASK, turn("assistant", "")])).toEqual(["<|im_end|>"]);
  });

  test("for any conversation: exactly the learned answers' texts and end tokens", () => {
    fc.assert(
      fc.property(conversation, (messages) => {
        const answers = messages.filter(({ role, weight }) => role === "assistant" && weight !== 0);
        expect(lossRuns(messages)).toEqual(answers.map((answer) => `${answer.content}<|im_end|>`));
        const { tokens } = encodeConversation(messages, tokenizer, END);
        expect(decode(tokens)).toBe(tokenizer.renderChat(messages, { addGenerationPrompt: false }));
        // Control tokens that are written in a message end nothing: as many count as the template has.
        const frames = messages.length + (messages[0].role === "system" ? 0 : 1);
        expect(tokens.filter((id) => id === END)).toHaveLength(frames);
      }),
      { numRuns: 300 },
    );
  });

  test("for any conversation: an answer is preceded by the very tokens that ask for it", () => {
    fc.assert(
      fc.property(conversation, (messages) => {
        const at = messages.findIndex(({ role }) => role === "assistant");
        if (at < 1) return;
        const { tokens, answers } = encodeConversation(messages, tokenizer, END);
        expect(tokens.slice(0, answers[0].start)).toEqual(encodeChatPrompt(messages.slice(0, at), tokenizer));
      }),
      { numRuns: 200 },
    );
  });
});

describe("templates", () => {
  const withTemplate = (renderChat: ChatTokenizer["renderChat"]): Partial<SequenceOptions> => ({
    chat: { ...tokenizer, renderChat },
  });

  test("one that trims messages", () => {
    const trims = withTemplate((messages, how) =>
      tokenizer.renderChat(
        messages.map(({ role, content }) => ({ role, content: content.trim() })),
        how,
      ),
    );
    expect(lossRuns([ASK, turn("assistant", " 15GB。\n")], trims)).toEqual(["15GB。<|im_end|>"]);
  });

  test.each<[string, ChatTokenizer["renderChat"], string]>([
    [
      "one that changes messages",
      (messages, how) => tokenizer.renderChat(messages, how).replace("15", "fifteen"),
      "does not show the messages' texts as they are",
    ],
    [
      "one that leaves an answer out",
      (messages, how) =>
        tokenizer.renderChat(
          messages.filter(({ role }) => role === "user"),
          how,
        ),
      "does not show the assistant's message 2 as they are",
    ],
    [
      "one that ends no answer",
      (messages, how) => tokenizer.renderChat(messages, how).replaceAll("<|im_end|>", ""),
      "does not put the end token behind an answer",
    ],
  ])("%s is refused", (_, renderChat, sentence) => {
    expect(() => lossRuns(TALK, withTemplate(renderChat))).toThrow(sentence);
  });
});

describe("what max-length takes", () => {
  const [first, second] = encodeConversation(TALK, tokenizer, END).answers;

  test("at any length, the loss is that of the answers up to there", () => {
    const whole = trainingSequence({ messages: TALK }, options);
    for (let maxLength = 2; maxLength <= whole.length; maxLength++) {
      const { tokens, targets, length } = trainingSequence({ messages: TALK }, { ...options, maxLength });
      expect(length).toBe(whole.length);
      expect(tokens).toEqual(whole.tokens.slice(0, maxLength));
      expect(targets).toEqual([...whole.targets.slice(0, maxLength - 1), -1]);
    }
  });

  test("rows that lose every answer are told from rows that have none", () => {
    const rows = [{ messages: TALK }, { messages: [ASK, TELL] }, { messages: [turn("user", "长".repeat(200)), TELL] }];
    const report = trainingSequences([...rows, { messages: [ASK] }], { ...options, maxLength: first.end });
    expect(report.truncated.map(({ example }) => example)).toEqual([1, 2, 3]);
    expect([report.lost, report.dropped, report.unanswered]).toEqual([[3], [3], [4]]);
    expect(report.predicted).toBe(2 * (first.end - first.start));
    const full = trainingSequences(rows, { ...options, loss: "full", maxLength: first.end });
    expect([full.lost, full.dropped, full.sequences.length]).toEqual([[3], [], 3]);
    expect(second.start).toBeGreaterThan(first.end);
  });

  const none = { messages: [ASK] };
  test.each([
    [[none, none], 100, "every token is masked, so nothing is left to learn: 2 of 2 examples have no answer"],
    [
      [none, { messages: TALK }],
      20,
      "1 of 2 examples have no answer of the assistant that carries loss, and max-length",
    ],
    [[{ messages: TALK }], 20, "max-length 20 cuts the whole answer off every example"],
  ])(
    "nothing left to learn is an error that says why, not a loss of 0 (trl #6668) %#",
    (examples, maxLength, sentence) => {
      const making = (): unknown => trainingSequences(examples, { ...options, maxLength });
      expect(making).toThrow(OptionError);
      expect(making).toThrow(sentence);
    },
  );
});

test("what a kind of row needs is asked for", () => {
  expect(() => trainingSequence({ messages: TALK }, { ...options, chat: undefined })).toThrow("chat template");
  expect(() => trainingSequence({ input: "q", output: "a" }, options)).toThrow("prompt's format");
});
