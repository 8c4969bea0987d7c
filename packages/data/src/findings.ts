import type { Message } from "./conversation.ts";
import type { TrainingExample } from "./examples.ts";

/** A question that has several answers. */
export interface Conflict {
  question: string;
  answers: { text: string; rows: number[] }[];
}

/** A row of the validation data that training has seen. */
export interface Leak {
  validationRow: number;
  /** The row of the training data. */
  row: number;
  /** The whole row is the same, or its question only. */
  same: "row" | "question";
}

/** What is suspicious about training data. Rows are numbers from 1. */
export interface Findings {
  /** Groups of rows that say the same. */
  duplicates: number[][];
  conflicts: Conflict[];
  /** Rows with an answer to learn that is empty or only spaces. */
  emptyAnswers: number[];
  leaks: Leak[];
}

/** One answer to learn and what it answers. */
interface Exchange {
  /** All that stands before the answer, as a key. */
  context: string;
  question: string;
  answer: string;
}

/**
 * Looks for rows that are there twice, questions with different answers, answers that are empty, and rows of the validation
 * data that are in the training data too. Texts count as the same when they differ only in white space, in width
 * (U+FF1F and ?) and, for questions, in case.
 */
export function findTroubles(
  examples: readonly TrainingExample[],
  validation: readonly TrainingExample[] = [],
): Findings {
  const rowsOf = new Map<string, number[]>();
  const answersOf = new Map<string, { question: string; answers: Map<string, { text: string; rows: number[] }> }>();
  const questions = new Map<string, number>();
  const emptyAnswers: number[] = [];
  examples.forEach((example, i) => {
    const row = i + 1;
    const exchanges = exchangesOf(example);
    gather(rowsOf, keyOf(example), () => []).push(row);
    for (const key of questionsOf(example)) gather(questions, key, () => row);
    if (exchanges.some(({ answer }) => answer.trim() === "")) emptyAnswers.push(row);
    for (const { context, question, answer } of exchanges) {
      const known = gather(answersOf, context, () => ({ question, answers: new Map() }));
      const { rows } = gather(known.answers, normal(answer), () => ({ text: answer, rows: [] }));
      if (rows.at(-1) !== row) rows.push(row);
    }
  });
  const leaks = validation.flatMap((example, i): Leak[] => {
    const validationRow = i + 1;
    const twin = rowsOf.get(keyOf(example));
    if (twin !== undefined) return [{ validationRow, row: twin[0], same: "row" }];
    const asked = questionsOf(example).flatMap((key) => questions.get(key) ?? []);
    return asked.length === 0 ? [] : [{ validationRow, row: asked[0], same: "question" }];
  });
  return {
    duplicates: [...rowsOf.values()].filter((rows) => rows.length > 1),
    conflicts: [...answersOf.values()]
      .filter(({ answers }) => answers.size > 1)
      .map(({ question, answers }) => ({ question, answers: [...answers.values()] })),
    emptyAnswers,
    leaks,
  };
}

function gather<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key);
  if (found !== undefined) return found;
  const made = make();
  map.set(key, made);
  return made;
}

/** A text without what makes no difference to a reader. */
function normal(text: string): string {
  return text.normalize("NFKC").replaceAll(/\s+/g, " ").trim();
}

function keyOf({ messages, instruction, input, output }: TrainingExample): string {
  return messages === undefined
    ? JSON.stringify([instruction, input, output].map(normal))
    : JSON.stringify(messages.map(({ role, content }) => [role, normal(content)]));
}

function exchangesOf({ messages, instruction, input, output }: TrainingExample): Exchange[] {
  if (messages === undefined) {
    const context = JSON.stringify([instruction, input].map((text) => normal(text).toLowerCase()));
    return [{ context, question: input.trim() === "" ? instruction : input, answer: output }];
  }
  const before: string[][] = [];
  let question = "";
  return messages.flatMap(({ role, content, weight }) => {
    const context = JSON.stringify(before);
    before.push([role, normal(content).toLowerCase()]);
    if (role === "user") question = content;
    return role === "assistant" && weight !== 0 ? [{ context, question, answer: content }] : [];
  });
}

/**
 * A key that is the same for rows that ask the same: all that stands before a row's (last) answer, apart from instruction
 * and system text; for a conversation without an answer, all of it. Held-out data must share none with training data.
 */
export function questionKey(example: TrainingExample): string {
  return questionsOf(example).at(-1) ?? keyOf(example);
}

/** What a row asks, apart from instruction and system text: comparable between formats. */
function questionsOf({ messages, instruction, input }: TrainingExample): string[] {
  const asked = (turns: readonly string[]): string => JSON.stringify(turns.map((text) => normal(text).toLowerCase()));
  if (messages === undefined) return [asked([input.trim() === "" ? instruction : input])];
  const turns = messages.filter(({ role }) => role !== "system");
  const isAnswer = ({ role, weight }: Message) => role === "assistant" && weight !== 0;
  return turns.flatMap((turn, i) => (isAnswer(turn) ? [asked(turns.slice(0, i).map(({ content }) => content))] : []));
}
