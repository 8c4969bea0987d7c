import { expect, test } from "bun:test";
import type { Message } from "./conversation.ts";
import type { TrainingExample } from "./examples.ts";
import { findTroubles } from "./findings.ts";

const row = (input: string, output: string, instruction = "回答"): TrainingExample => ({ instruction, input, output });
const talk = (...texts: string[]): TrainingExample => ({
  messages: texts.map((content, i): Message => ({ role: i % 2 === 0 ? "user" : "assistant", content })),
});
const NOTHING = { duplicates: [], conflicts: [], emptyAnswers: [], leaks: [] };

test("rows without trouble", () => {
  expect(findTroubles([row("a", "1"), row("b", "1"), row("a", "2", "other"), talk("a", "3")], [row("c", "1")])).toEqual(
    NOTHING,
  );
  expect(findTroubles([])).toEqual(NOTHING);
});

test("rows that are there twice, in whatever white space and width", () => {
  expect(
    findTroubles([row("多大?", "15GB"), row("b", "1"), row(" 多大\uff1f ", "15GB\n"), row("多大?", "15GB")]),
  ).toEqual({
    ...NOTHING,
    duplicates: [[1, 3, 4]],
  });
  expect(findTroubles([talk("a", "b"), talk("a", "b"), talk("a", "b", "c", "d")]).duplicates).toEqual([[1, 2]]);
});

test("a question with two answers, in whatever case", () => {
  expect(findTroubles([row("SDK?", "yes"), row("sdk?", "no"), row("SDK?", " yes "), row("?", "no")])).toEqual({
    ...NOTHING,
    duplicates: [[1, 3]],
    conflicts: [
      {
        question: "SDK?",
        answers: [
          { text: "yes", rows: [1, 3] },
          { text: "no", rows: [2] },
        ],
      },
    ],
  });
});

test("in a conversation the same words after other turns are another question", () => {
  expect(
    findTroubles([talk("a", "1", "more?", "2"), talk("a", "1", "more?", "3"), talk("b", "1", "more?", "4")]),
  ).toEqual({
    ...NOTHING,
    conflicts: [
      {
        question: "more?",
        answers: [
          { text: "2", rows: [1] },
          { text: "3", rows: [2] },
        ],
      },
    ],
  });
});

test("empty answers, unless they are only context", () => {
  expect(findTroubles([row("a", " \n"), row("b", "1"), talk("a", "1", "b", "")]).emptyAnswers).toEqual([1, 3]);
  const context: TrainingExample = { messages: [{ role: "assistant", content: "", weight: 0 }] };
  expect(findTroubles([context])).toEqual(NOTHING);
});

test("validation rows that training has seen, also in another format", () => {
  const train = [row("免费空间多大?", "15GB"), talk("a", "1", "b", "2")];
  const validation = [
    row("免费空间多大?", "15GB"),
    row("免费空间多大?", "20GB", "other"),
    talk("免费空间多大?", "15GB"),
    talk("A", "3"),
    row("b", "2"),
  ];
  expect(findTroubles(train, validation).leaks).toEqual([
    { validationRow: 1, row: 1, same: "row" },
    { validationRow: 2, row: 1, same: "question" },
    { validationRow: 3, row: 1, same: "question" },
    { validationRow: 4, row: 2, same: "question" },
  ]);
});
