import { type AnswerSpan, type ChatTokenizer, type Conversation, encodeConversation } from "../chat.ts";
import { OptionError } from "../errors.ts";
import { type Example, promptOf, type TemplatePrompt } from "../prompt.ts";
import { checkOption } from "./options.ts";
import { predictedTokens, type TrainingSequence } from "./pass.ts";

/**
 * Which tokens carry loss: all; those of the answer and its end token, of a conversation the last answer's; or those of
 * every answer of a conversation.
 */
export type LossMask = "full" | "completion" | "assistant";
export const LOSS_MASKS: readonly LossMask[] = ["full", "completion", "assistant"];

/** A row of training data: a question with its answer, or a conversation. */
export type TrainingExample = (
  | (Example & { messages?: undefined })
  | (Conversation & { [Field in keyof Example]?: undefined })
) & {
  /** How much each of its tokens counts in the loss, above 0. Default 1. */
  weight?: number;
};

export interface SequenceOptions {
  /** How a question is put; conversations need none. */
  prompt?: Pick<TemplatePrompt, "template" | "instruction">;
  /** The model's chat template and tokenizer, for conversations. */
  chat?: ChatTokenizer;
  /** Token ids of a text, without special tokens added. */
  encode: (text: string) => readonly number[];
  endTokenId: number;
  /** Default full. */
  loss?: LossMask;
  /** Longer sequences are cut at their end. Default 512. */
  maxLength?: number;
}

/** A sequence and what it was made of. */
export interface ExampleSequence extends TrainingSequence {
  /** Tokens before the cut. */
  length: number;
  /** Where the answers stand, before the cut. */
  answers: readonly AnswerSpan[];
}

/** What became of the examples, which are named by their numbers from 1. */
export interface SequenceReport {
  /** Sequences to train on. */
  sequences: TrainingSequence[];
  /** Tokens of all of them. */
  tokens: number;
  /** Tokens that carry loss. */
  predicted: number;
  /** Examples that were cut, and the length they had. */
  truncated: { example: number; length: number }[];
  /** Examples whose answers were all cut off. With loss full their questions are trained on all the same. */
  lost: number[];
  /** Examples left out because the cut took all that carries loss. */
  dropped: number[];
  /** Examples left out because nothing in them carries loss: no answer of the assistant, or none that is to be learned. */
  unanswered: number[];
}

/**
 * Tokens and targets of one example. Prompt, answer and end token are tokenised each on its own, so that training sees the
 * prompt's tokens exactly as a later question has them.
 *
 * @throws OptionError when what this kind of example needs was not given
 */
export function trainingSequence(example: TrainingExample, options: SequenceOptions): ExampleSequence {
  const { loss = "full", maxLength = 512 } = options;
  const { tokens: whole, answers } =
    example.messages === undefined ? encodeExample(example, options) : encodeTurns(example, options);
  const { weight } = example;
  const tokens = whole.slice(0, maxLength);
  const targets = new Array<number>(tokens.length).fill(-1);
  const learned = loss === "full" ? [{ start: 0, end: tokens.length }] : learnedAnswers(answers, loss);
  for (const { start, end } of learned) {
    for (let at = Math.max(1, start); at < Math.min(end, tokens.length); at++) targets[at - 1] = tokens[at];
  }
  return { tokens, targets, ...(weight !== undefined && { weight }), length: whole.length, answers };
}

function learnedAnswers(answers: readonly AnswerSpan[], loss: "completion" | "assistant"): readonly AnswerSpan[] {
  return (loss === "assistant" ? answers : answers.slice(-1)).filter(({ isLearned }) => isLearned);
}

function encodeExample(example: Example, { prompt, encode, endTokenId }: SequenceOptions) {
  if (prompt === undefined) throw new OptionError("prompt", "a row of question and answer needs a prompt's format");
  const question = encode(promptOf(example, prompt));
  const answer = encode(example.output + prompt.template.split("{}")[3]);
  const tokens = [...question, ...answer, endTokenId];
  return { tokens, answers: [{ start: question.length, end: tokens.length, isLearned: true }] };
}

function encodeTurns({ messages }: Conversation, { chat, endTokenId }: SequenceOptions) {
  if (chat === undefined) throw new OptionError("chat", "a conversation needs the model's chat template");
  return encodeConversation(messages, chat, endTokenId);
}

/**
 * Makes sequences of examples and reports what was cut or left out.
 * @throws OptionError when a setting cannot be used or nothing is left to train on
 */
export function trainingSequences(examples: readonly TrainingExample[], options: SequenceOptions): SequenceReport {
  const { loss = "full", maxLength = 512 } = options;
  checkOption("loss", loss, (v: LossMask) => LOSS_MASKS.includes(v), `one of ${LOSS_MASKS.join(", ")}`);
  checkOption(
    "max-length",
    maxLength,
    (v: number) => Number.isSafeInteger(v) && v >= 2,
    "a whole number of at least 2",
  );
  const report: SequenceReport = {
    sequences: [],
    tokens: 0,
    predicted: 0,
    truncated: [],
    lost: [],
    dropped: [],
    unanswered: [],
  };
  examples.forEach((example, i) => {
    const { length, answers, ...sequence } = trainingSequence(example, options);
    if (length > maxLength) report.truncated.push({ example: i + 1, length });
    if (answers.length > 0 && answers.every(({ start }) => start >= maxLength)) report.lost.push(i + 1);
    const predicted = predictedTokens([sequence]);
    if (predicted === 0) {
      const isCut = loss === "full" || learnedAnswers(answers, loss).length > 0;
      (isCut ? report.dropped : report.unanswered).push(i + 1);
      return;
    }
    report.sequences.push(sequence);
    report.tokens += sequence.tokens.length;
    report.predicted += predicted;
  });
  if (report.sequences.length === 0) throw nothingLeft(examples.length, report, maxLength);
  return report;
}

/** Every token masked would train to a loss of 0 and change nothing: that is said instead of done. */
function nothingLeft(examples: number, { dropped, unanswered }: SequenceReport, maxLength: number): OptionError {
  if (examples === 0) return new OptionError("data", "there are no examples to train on");
  if (unanswered.length === 0) {
    return new OptionError(
      "max-length",
      `max-length ${maxLength} cuts the whole answer off every example, so nothing is left to learn; raise it`,
    );
  }
  const cut = dropped.length > 0 ? `, and max-length ${maxLength} cuts the whole answer off ${dropped.length}` : "";
  return new OptionError(
    "data",
    `every token is masked, so nothing is left to learn: ${unanswered.length} of ${examples} examples have no answer of the assistant that carries loss${cut}; add answers, or train with loss full`,
  );
}
