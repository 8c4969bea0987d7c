import {
  DataError,
  type ExampleFile,
  type Findings,
  findTroubles,
  openExamples,
  type TrainingExample,
} from "@tslm/data";
import { type LossMask, predictedTokens, type SequenceOptions, trainingSequence } from "@tslm/lora";
import { endTokenOf } from "../adapter.ts";
import { Progress } from "../progress.ts";
import type { Context } from "../run.ts";
import { promptFormatOf } from "../training-data.ts";
import { type Lengths, lengthsOf } from "./lengths.ts";
import { type Piece, piecesOf } from "./pieces.ts";
import type { LocatedTokenizer } from "./tokenizer.ts";

export interface InspectOptions {
  readonly file: string;
  readonly validation?: string;
  readonly loss: LossMask;
  /** Longer sequences are cut. */
  readonly maxLength: number;
  /** So many rows are shown token by token. */
  readonly shown: number;
}

/** A row of the file. */
export interface RowPlace {
  readonly row: number;
  readonly line: number;
}

/** A row and what is trained of it, token by token. */
export interface ShownRow extends RowPlace {
  readonly pieces: readonly Piece[];
  /** Tokens before the cut. */
  readonly length: number;
}

/** What training would do with a file, and what is wrong with it. */
export interface Inspection extends Findings {
  readonly file: Omit<ExampleFile, "rows">;
  readonly examples: number;
  /** Fields or columns that are not used, and in how many rows each stands. */
  readonly unused: Readonly<Record<string, number>>;
  /** Rows that something can be learned of. */
  readonly trainable: number;
  /** Rows of the validation data; undefined without. */
  readonly validation: number | undefined;
  readonly tokens: number;
  readonly predicted: number;
  readonly lengths: Lengths;
  /** Rows that are longer than allowed, whatever they lose. */
  readonly cut: readonly (RowPlace & { readonly length: number })[];
  /** Of those, rows that lose a part of an answer, but not every answer. */
  readonly answerCut: readonly RowPlace[];
  /** Of those, rows that lose every answer. */
  readonly answerLost: readonly RowPlace[];
  /** Rows without an answer that is to be learned. */
  readonly unanswered: readonly RowPlace[];
  readonly shownRows: readonly ShownRow[];
}

/** Between pauses in which Ctrl-C is seen. */
const ROWS_A_TURN = 200;

/**
 * Makes the sequences that training would make, and looks at them.
 * @throws DataError when a file cannot be read, or a row cannot go through the model's chat template
 */
export async function inspect(
  context: Context,
  { tokenizer, name }: LocatedTokenizer,
  options: InspectOptions,
): Promise<Inspection> {
  const { terminal, signal } = context;
  const { file, examples, lines, unused } = await readAll(options.file, signal);
  const validation = options.validation === undefined ? undefined : await readAll(options.validation, signal);
  const prompt = promptFormatOf(examples, name);
  const how: SequenceOptions = {
    prompt: prompt.format === 1 ? prompt : undefined,
    chat: tokenizer,
    encode: (text) => tokenizer.encode(text),
    endTokenId: endTokenOf(tokenizer, prompt),
    loss: options.loss,
    maxLength: options.maxLength,
  };
  const found = { tokens: 0, predicted: 0, trainable: 0 };
  const lengths: number[] = [];
  const cut: (RowPlace & { length: number })[] = [];
  const [answerCut, answerLost, unanswered]: RowPlace[][] = [[], [], []];
  const shownRows: ShownRow[] = [];
  const progress = new Progress(terminal, "Checking");
  try {
    for (const [i, example] of examples.entries()) {
      const place = { row: i + 1, line: lines[i] };
      const sequence = sequenceOf(options.file, place, example, how);
      const { length, answers } = sequence;
      lengths.push(length);
      if (length > options.maxLength) {
        cut.push({ ...place, length });
        if (answers.length > 0 && answers.every(({ start }) => start >= options.maxLength)) answerLost.push(place);
        else if (answers.some(({ end }) => end > options.maxLength)) answerCut.push(place);
      }
      if (!answers.some(({ isLearned }) => isLearned)) unanswered.push(place);
      const predicted = predictedTokens([sequence]);
      if (predicted > 0) {
        found.trainable++;
        found.tokens += sequence.tokens.length;
        found.predicted += predicted;
      }
      if (i < options.shown) shownRows.push({ ...place, pieces: piecesOf(sequence, tokenizer), length });
      if (i % ROWS_A_TURN === 0) {
        progress.update(i / examples.length, `${i} of ${examples.length} rows`);
        await new Promise((resolve) => setImmediate(resolve));
        signal.throwIfAborted();
      }
    }
  } finally {
    progress.stop();
  }
  return {
    file,
    examples: examples.length,
    unused: Object.fromEntries(unused),
    validation: validation?.examples.length,
    ...found,
    lengths: lengthsOf(lengths),
    cut,
    answerCut,
    answerLost,
    unanswered,
    shownRows,
    ...findTroubles(examples, validation?.examples),
  };
}

interface Content {
  readonly file: Omit<ExampleFile, "rows">;
  readonly examples: TrainingExample[];
  /** Line of each. */
  readonly lines: number[];
  readonly unused: Map<string, number>;
}

async function readAll(path: string, signal: AbortSignal): Promise<Content> {
  const { rows, ...file } = await openExamples(path, { signal });
  const content: Content = { file, examples: [], lines: [], unused: new Map() };
  for await (const { example, line, unused } of rows()) {
    content.examples.push(example);
    content.lines.push(line);
    for (const field of unused) content.unused.set(field, (content.unused.get(field) ?? 0) + 1);
  }
  return content;
}

function sequenceOf(file: string, place: RowPlace, example: TrainingExample, how: SequenceOptions) {
  try {
    return trainingSequence(example, how);
  } catch (cause) {
    throw new DataError("field", { file, ...place }, (cause as Error).message, { cause });
  }
}
