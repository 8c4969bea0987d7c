import type { Example } from "@tslm/data";
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
  readonly instruction: string;
  readonly input: string;
  /** The answer that training wants. */
  readonly expected: string;
  /** Its row's index. */
  readonly row: number;
}

/** The sample question where the data holds its answer, otherwise the first row's. */
export function chooseSample(examples: readonly Example[]): Sample {
  const row = examples.findIndex(({ input }) => input.trim() === SAMPLE.input);
  if (row >= 0) return { ...SAMPLE, expected: examples[row].output, row };
  const [{ instruction, input, output }] = examples;
  return { instruction, input, expected: output, row: 0 };
}

/** `--repeat 'TEXT=N'`. */
export interface Repetition {
  readonly text: string;
  readonly times: number;
}

/**
 * Every row as often as it is to be seen, the copies beside it: as often as the last repetition says whose text its input
 * or output holds, else as often as the recipe says.
 *
 * @throws CommandError for a text that no row holds
 */
export function repeatRows(
  examples: readonly Example[],
  repetitions: readonly Repetition[],
  sample: Sample,
  keyRepeat: number,
): Example[] {
  const holds = ({ input, output }: Example, text: string) => input.includes(text) || output.includes(text);
  for (const { text } of repetitions) {
    if (!examples.some((example) => holds(example, text))) {
      throw new CommandError(`--repeat: no row's input or output holds ${JSON.stringify(text)}; correct the text`);
    }
  }
  return examples.flatMap((example, i) => {
    const told = repetitions.findLast(({ text }) => holds(example, text))?.times;
    return Array<Example>(told ?? (i === sample.row ? keyRepeat : 1)).fill(example);
  });
}

/** The instruction that most rows have, the first of equals: what a question gets that comes without one. */
export function commonInstruction(examples: readonly Example[]): string {
  const counts = new Map<string, number>();
  for (const { instruction } of examples) counts.set(instruction, (counts.get(instruction) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}
