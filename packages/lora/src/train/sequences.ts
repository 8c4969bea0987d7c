import { OptionError } from "../errors.ts";
import { type Example, type PromptFormat, promptOf } from "../prompt.ts";
import { checkOption } from "./options.ts";
import { predictedTokens, type TrainingSequence } from "./pass.ts";

/** Which tokens carry loss: all, or only those of the answer and the end token. */
export type LossMask = "full" | "completion";
export const LOSS_MASKS: readonly LossMask[] = ["full", "completion"];

export interface SequenceOptions {
  prompt: Pick<PromptFormat, "template" | "instruction">;
  /** Token ids of a text, without special tokens added. */
  encode: (text: string) => readonly number[];
  endTokenId: number;
  /** Default full. */
  loss?: LossMask;
  /** Longer sequences are cut at their end. Default 512. */
  maxLength?: number;
}

/** What became of the examples. */
export interface SequenceReport {
  /** Sequences to train on. */
  sequences: TrainingSequence[];
  /** Tokens of all of them. */
  tokens: number;
  /** Tokens that carry loss. */
  predicted: number;
  /** Examples that were cut, by number from 1, and the length they had. */
  truncated: { example: number; length: number }[];
  /** Examples left out because nothing of them carries loss: the cut took the whole answer. */
  dropped: number[];
}

/**
 * Tokens and targets of one example: prompt, answer and end token, each tokenised on its own, so that training sees
 * the prompt's tokens exactly as a later question has them.
 */
export function trainingSequence(
  example: Example,
  { prompt, encode, endTokenId, loss = "full", maxLength = 512 }: SequenceOptions,
): TrainingSequence & { length: number } {
  const question = encode(promptOf(example, prompt));
  const answer = encode(example.output + prompt.template.split("{}")[3]);
  const whole = [...question, ...answer, endTokenId];
  const tokens = whole.slice(0, maxLength);
  const first = loss === "full" ? 0 : question.length;
  const targets = tokens.map((_, i) => (i + 1 < tokens.length && i + 1 >= first ? tokens[i + 1] : -1));
  return { tokens, targets, length: whole.length };
}

/**
 * Makes sequences of examples and reports what was cut or left out.
 * @throws OptionError when a setting cannot be used or nothing is left to train on
 */
export function trainingSequences(examples: readonly Example[], options: SequenceOptions): SequenceReport {
  const { loss = "full", maxLength = 512 } = options;
  checkOption("loss", loss, (v: LossMask) => LOSS_MASKS.includes(v), `one of ${LOSS_MASKS.join(", ")}`);
  checkOption(
    "max-length",
    maxLength,
    (v: number) => Number.isSafeInteger(v) && v >= 2,
    "a whole number of at least 2",
  );
  const report: SequenceReport = { sequences: [], tokens: 0, predicted: 0, truncated: [], dropped: [] };
  examples.forEach((example, i) => {
    const { length, ...sequence } = trainingSequence(example, options);
    if (length > maxLength) report.truncated.push({ example: i + 1, length });
    const predicted = predictedTokens([sequence]);
    if (predicted === 0) {
      report.dropped.push(i + 1);
      return;
    }
    report.sequences.push(sequence);
    report.tokens += sequence.tokens.length;
    report.predicted += predicted;
  });
  if (report.sequences.length === 0) {
    throw examples.length === 0
      ? new OptionError("data", "there are no examples to train on")
      : new OptionError(
          "max-length",
          `max-length ${maxLength} cuts the whole answer off every example, so nothing is left to learn; raise it`,
        );
  }
  return report;
}
