import type { Message, TrainingExample } from "@tslm/data";
import { CommandError } from "./errors.ts";

/** What a recipe sets unless the command line says otherwise. */
export interface Recipe {
  readonly rank: number;
  readonly alpha: number;
  readonly epochs: number;
  readonly lr: number;
  /** How often the row of the sample question is seen. */
  readonly keyRepeat: number;
}

/** `tuned` is the cure for underfitting on a handful of rows. */
export const RECIPES = {
  default: { rank: 8, alpha: 32, epochs: 3, lr: 2e-4, keyRepeat: 1 },
  tuned: { rank: 4, alpha: 32, epochs: 10, lr: 1e-3, keyRepeat: 4 },
} as const satisfies Record<string, Recipe>;

export type RecipeName = keyof typeof RECIPES;
export const RECIPE_NAMES = Object.keys(RECIPES) as RecipeName[];

/** The question that is asked before and after training on the data that ships with the program. */
const SAMPLE = { instruction: "回答关于飞跃云产品的问题", input: "免费空间有多大?" };

/** A question to ask before and after, and the row that answers it. */
export interface Sample {
  /** Undefined: what training used most. */
  readonly instruction?: string;
  readonly input: string;
  /** Of a conversation: its turns up to the answer. */
  readonly messages?: readonly Message[];
  /** The answer that training wants; empty where the data has none. */
  readonly expected: string;
  /** Its row's index; undefined for a question that is not in the data. */
  readonly row?: number;
}

/** The question of a sample as people know it. */
export function questionOf({ input, instruction = "" }: Sample): string {
  return input || instruction;
}

/** The sample question where the data holds its answer, otherwise the first row's. */
export function chooseSample(examples: readonly TrainingExample[]): Sample {
  const samples = examples.map(sampleOf);
  const known = samples.findIndex(({ input }) => input.trim() === SAMPLE.input);
  if (known >= 0) return { ...samples[known], ...SAMPLE, row: known };
  const row = Math.max(
    0,
    samples.findIndex(({ expected }) => expected.trim() !== ""),
  );
  return { ...samples[row], row };
}

/** The questions that were given, with the rows that answer them; without one, `chooseSample`'s. */
export function chooseSamples(examples: readonly TrainingExample[], questions: readonly string[] = []): Sample[] {
  if (questions.length === 0) return [chooseSample(examples)];
  const known = examples.map((example, row) => ({ ...sampleOf(example), row }));
  return questions.map((question) => {
    const found = known.find((sample) => questionOf(sample).trim() === question.trim());
    if (found === undefined) return { input: question, expected: "" };
    return question.trim() === SAMPLE.input ? { ...found, ...SAMPLE } : found;
  });
}

/** A row's question; of a conversation, its first answer's. */
export function sampleOf({ messages, instruction, input, output }: TrainingExample): Omit<Sample, "row"> {
  if (messages === undefined) return { instruction, input, expected: output };
  const at = messages.findIndex(({ role, weight }) => role === "assistant" && weight !== 0);
  const before = at < 0 ? messages : messages.slice(0, at);
  const question = before.findLast(({ role }) => role === "user")?.content ?? "";
  return { instruction: "", input: question, messages: before, expected: at < 0 ? "" : messages[at].content };
}

/** `--repeat 'TEXT=N'`. */
export interface Repetition {
  readonly text: string;
  readonly times: number;
}

/**
 * Every row as often as it is to be seen, the copies beside it: as often as the last repetition says whose text its input
 * or output (or a turn) holds, else as often as the recipe says.
 *
 * @throws CommandError for a text that no row holds
 */
export function repeatRows(
  examples: readonly TrainingExample[],
  repetitions: readonly Repetition[],
  sample: Sample,
  keyRepeat: number,
): TrainingExample[] {
  const holds = ({ messages, input, output }: TrainingExample, text: string) =>
    messages === undefined
      ? input.includes(text) || output.includes(text)
      : messages.some(({ role, content }) => role !== "system" && content.includes(text));
  for (const { text } of repetitions) {
    if (!examples.some((example) => holds(example, text))) {
      throw new CommandError(`--repeat: no row's input or output holds ${JSON.stringify(text)}; correct the text`);
    }
  }
  return examples.flatMap((example, i) => {
    const told = repetitions.findLast(({ text }) => holds(example, text))?.times;
    return Array<TrainingExample>(told ?? (i === sample.row ? keyRepeat : 1)).fill(example);
  });
}
