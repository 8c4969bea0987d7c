import { ALPACA_FIELDS, alpacaReader, type Example } from "./alpaca.ts";
import { cleanText } from "./clean.ts";
import { type Conversation, type ConversationFormat, conversationShape } from "./conversation.ts";
import { checkInstructionOptions, exampleOf, type InstructionOptions } from "./convert.ts";
import { type Delimiter, openCsv } from "./csv/read.ts";
import type { Encoding } from "./encoding.ts";
import { DataError, type DataErrorPlace } from "./error.ts";
import { isJsonFile, type JsonOptions, readJsonRows } from "./json/read.ts";
import { DEFAULT_MAX_ROWS } from "./limits.ts";
import { WEIGHT } from "./weight.ts";

/**
 * `instruction` and `keepInstruction` mean the same as for `convertCsv`, except that JSON rows keep their own instruction
 * unless another is given. Conversations have none.
 */
export interface ReadExamplesOptions extends InstructionOptions, JsonOptions {}

/** One row of training data: a question with its answer, or a conversation. */
export type TrainingExample =
  | Example
  | (Conversation & { [Field in keyof Omit<Example, "messages" | "weight">]?: undefined });

/** How a file holds its rows. */
export type ExampleFormat = "csv" | "alpaca" | ConversationFormat;

/** A row of training data and where it stands. */
export interface ExampleRow {
  example: TrainingExample;
  /** Counted from 1. */
  row: number;
  /** Line of the file where it begins, counted from 1. */
  line: number;
  /** Fields or columns of it that are not used. */
  unused: readonly string[];
}

/** A file of training data whose format is known and whose rows are yet to come. */
export interface ExampleFile {
  path: string;
  format: ExampleFormat;
  /** Of a CSV. */
  encoding?: Encoding;
  /** Of a CSV. */
  delimiter?: Delimiter;
  /** Reads the rows, one after another, from the file's start each time. */
  rows(): AsyncGenerator<ExampleRow>;
}

/**
 * Finds out what a file of training data holds: a CSV, or JSON (an array or lines) of Alpaca rows, of chat `messages`, of
 * ShareGPT's `conversations`, or of `prompt` and `completion`. A CSV shows in the file's ending, and without a known one in the
 * first character; the rest in the fields of the first row, and all rows must be alike.
 *
 * @throws DataError naming file, line, row and column or field
 */
export async function openExamples(path: string, options: ReadExamplesOptions = {}): Promise<ExampleFile> {
  checkInstructionOptions(path, options);
  if (await isJsonFile(path, options.signal)) return openJson(path, options);
  return openTable(path, options);
}

async function openTable(path: string, options: ReadExamplesOptions): Promise<ExampleFile> {
  const required = options.keepInstruction ? ["instruction", "input", "output"] : ["input", "output"];
  const csv = await openCsv(path, { maxRows: DEFAULT_MAX_ROWS, ...options, required });
  const toExample = exampleOf(csv, options);
  const unused = csv.columns.map((column) => column.trim()).filter((column) => ![...required, WEIGHT].includes(column));
  async function* rows(): AsyncGenerator<ExampleRow> {
    for await (const { cells, row, line } of csv.rows()) {
      const example = toExample(cells, { file: path, row, line });
      yield { example: { ...example, output: cleanText(example.output) }, row, line, unused };
    }
  }
  return { path, format: "csv", encoding: csv.encoding, delimiter: csv.delimiter, rows };
}

async function openJson(path: string, options: ReadExamplesOptions): Promise<ExampleFile> {
  let first: unknown;
  for await (const { value } of readJsonRows(path, options)) {
    first = value;
    break;
  }
  const shape = conversationShape(first, options);
  if (shape !== undefined && options.instruction !== undefined) {
    const problem = "an instruction is given, but the rows are conversations, which have none; leave it out";
    throw new DataError("options", { file: path }, problem);
  }
  const read: (value: unknown, place: DataErrorPlace) => TrainingExample = shape?.read ?? alpacaReader(options);
  const used = new Set(shape?.fields ?? ALPACA_FIELDS);
  async function* rows(): AsyncGenerator<ExampleRow> {
    for await (const { value, row, line } of readJsonRows(path, options)) {
      const example = read(value, { file: path, row, line });
      yield { example, row, line, unused: Object.keys(value as object).filter((field) => !used.has(field)) };
    }
  }
  return { path, format: shape?.format ?? "alpaca", rows };
}

/**
 * Reads training examples one after another; see `openExamples` for what a file may hold. A CSV's outputs are cleaned as
 * `convertCsv` does; JSON is taken as it is.
 *
 * @throws DataError naming file, line, row and column or field
 */
export async function* streamExamples(
  path: string,
  options: ReadExamplesOptions = {},
): AsyncGenerator<TrainingExample> {
  const file = await openExamples(path, options);
  for await (const { example } of file.rows()) yield example;
}

/** All examples of a file; see `streamExamples`. */
export async function readExamples(path: string, options: ReadExamplesOptions = {}): Promise<TrainingExample[]> {
  const examples: TrainingExample[] = [];
  for await (const example of streamExamples(path, options)) examples.push(example);
  return examples;
}
