import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ChatMessage, trainingSequence } from "@tslm/lora";
import { loadTokenizer } from "@tslm/qwen";
import fc from "fast-check";
import { piecesOf } from "./pieces.ts";

const tokenizer = await loadTokenizer(join(import.meta.dir, "../../../../models/demo"));
const options = {
  chat: tokenizer,
  encode: (text: string) => tokenizer.encode(text),
  endTokenId: tokenizer.tokenToId("<|im_end|>")!,
  loss: "assistant" as const,
  maxLength: 100_000,
};

describe("with the demo model's tokenizer and chat template", () => {
  const content = fc
    .array(
      fc.oneof(
        fc.constantFrom("免费空间", "15GB", "\n", "\n\n", " ", "<|im_end|>", "<|im_start|>assistant\n", "\u{20000}"),
        fc.string({ unit: "grapheme", minLength: 1, maxLength: 3 }),
      ),
      { maxLength: 6 },
    )
    // As the tokenizer does; what it makes of a text must not depend on where the text stands.
    .map((parts) => parts.join("").normalize("NFC"));
  const turn = fc.record({ role: fc.constantFrom("system", "user", "assistant"), content });
  const conversation = fc.array(turn, { minLength: 1, maxLength: 5 });

  test("the pieces are the whole text, and those with loss exactly the answers and their end tokens", () => {
    fc.assert(
      fc.property(conversation, (messages: ChatMessage[]) => {
        const sequence = trainingSequence({ messages }, options);
        const pieces = piecesOf(sequence, tokenizer);
        expect(pieces.flatMap(({ ids }) => ids)).toEqual([...sequence.tokens]);
        expect(pieces.map(({ text }) => text).join("")).toBe(
          tokenizer.renderChat(messages, { addGenerationPrompt: false }),
        );
        const answers = messages.filter(({ role }) => role === "assistant");
        const learned = pieces.flatMap(({ text, loss }) => (loss ? text : []));
        expect(learned.join("")).toBe(answers.map((answer) => `${answer.content}<|im_end|>`).join(""));
      }),
      { numRuns: 150 },
    );
  });
});

test("text that cannot touch the template's: the tokens of the rendered conversation as a whole", () => {
  const content = fc
    .string({ unit: fc.constantFrom(..."飞跃云 15GB,免费?ab"), minLength: 1 })
    .map((text) => `问${text}。`);
  const turns = fc.array(content, { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(turns, (texts) => {
      const messages = texts.map((text, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content: text }));
      const rendered = tokenizer.renderChat(messages, { addGenerationPrompt: false });
      expect(trainingSequence({ messages }, options).tokens).toEqual(tokenizer.encode(rendered));
    }),
  );
});

describe("characters that are cut over tokens", () => {
  const bytes = { tokenBytes: (id: number) => Uint8Array.of(id) };
  const pieces = (tokens: readonly number[], targets = tokens.map(() => -1)) => piecesOf({ tokens, targets }, bytes);

  test("are one piece", () => {
    expect(pieces([...Buffer.from("a云\u{20000}")])).toEqual([
      { ids: [97], text: "a", loss: false },
      { ids: [0xe4, 0xba, 0x91], text: "云", loss: false },
      { ids: [0xf0, 0xa0, 0x80, 0x80], text: "\u{20000}", loss: false },
    ]);
  });

  test("are ended where the loss begins, where the text ends, and where they are none", () => {
    const cut = pieces([0xe4, 0xba, 97, 0xe4], [-1, 97, -1, -1]);
    expect(cut.map(({ text, loss }) => [text, loss])).toEqual([
      ["\ufffd", false],
      ["a", true],
      ["\ufffd", false],
    ]);
    expect(pieces(new Array(100).fill(0xff)).flatMap(({ ids }) => ids)).toHaveLength(100);
    expect(pieces([])).toEqual([]);
  });
});
