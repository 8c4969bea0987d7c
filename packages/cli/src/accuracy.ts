import { readExamples } from "@tslm/data";
import { isAnswered, keyFacts, type PromptFormat, says, wrongNumbers } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { CommandError } from "./errors.ts";
import { questionOf, type Sample, sampleOf } from "./recipe.ts";
import { putSample } from "./training-data.ts";

/** A question whose answer the data knows, as the model answered it. The names are those of the commands' JSON. */
export interface AnsweredCase {
  prompt: string;
  question: string;
  expected: string;
  text: string;
  /** The answer's tokens, without the end token. */
  tokens: readonly number[];
  /** The answer says every fact of the expected one, and no number that is neither in it nor in the question. */
  exact: boolean;
  /** Facts of the expected answer that it lacks. */
  missing: string[];
  /** Numbers of its own. */
  wrong: string[];
}

/**
 * The questions of a file of training data (CSV, Alpaca, conversations …) that have an answer.
 *
 * @throws DataError naming file, line and field; CommandError where no row has an answer
 */
export async function readQuestions(file: string, signal: AbortSignal): Promise<Sample[]> {
  const questions = (await readExamples(file, { signal })).map(sampleOf).filter(({ expected }) => expected.trim());
  if (questions.length > 0) return questions;
  throw new CommandError(`${file} holds no row with an answer to compare with; fill the column or field "output"`);
}

/**
 * Asks a question greedily, as training puts it, and compares the answer with the data's.
 *
 * @param maxNewTokens the answer is cut off there
 */
export async function answerCase(
  qwen: Qwen,
  sample: Sample,
  format: PromptFormat,
  options: { maxNewTokens: number; signal: AbortSignal },
): Promise<AnsweredCase> {
  const { text: prompt, ids } = putSample(sample, format, qwen.tokenizer);
  const { text, tokens } = await qwen.complete(ids, options);
  const { expected } = sample;
  const question = questionOf(sample);
  const wrong = wrongNumbers(text, expected, question);
  const exact = isAnswered(text, expected, question) && wrong.length === 0;
  const missing = keyFacts(expected, question).filter((fact) => !says(text, fact));
  return { prompt, question, expected, text, tokens, exact, missing, wrong };
}
