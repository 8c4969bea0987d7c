import { alpacaReader, type Example } from "./alpaca.ts";
import { cleanText } from "./clean.ts";
import { checkInstructionOptions, exampleOf, type InstructionOptions } from "./convert.ts";
import { openCsv } from "./csv/read.ts";
import { isJsonFile, type JsonOptions, readJsonRows } from "./json/read.ts";
import { DEFAULT_MAX_ROWS } from "./limits.ts";

/**
 * `instruction` and `keepInstruction` mean the same as for `convertCsv`, except that JSON rows keep their own instruction
 * unless another is given.
 */
export interface ReadExamplesOptions extends InstructionOptions, JsonOptions {}

/**
 * Reads training examples one after another from a CSV, a JSON array of Alpaca rows, or JSON Lines of them. A CSV's
 * outputs are cleaned as `convertCsv` does; JSON is taken as it is. The format shows in the file's ending, and without a
 * known one in the first character.
 *
 * @throws DataError naming file, line, row and column or field
 */
export async function* streamExamples(path: string, options: ReadExamplesOptions = {}): AsyncGenerator<Example> {
  checkInstructionOptions(path, options);
  const { signal, keepInstruction } = options;
  if (await isJsonFile(path, signal)) {
    const toExample = alpacaReader(options);
    for await (const { value, row, line } of readJsonRows(path, options))
      yield toExample(value, { file: path, row, line });
    return;
  }
  const required = keepInstruction ? ["instruction", "input", "output"] : ["input", "output"];
  const csv = await openCsv(path, { maxRows: DEFAULT_MAX_ROWS, ...options, required });
  const toExample = exampleOf(csv, options);
  for await (const { cells } of csv.rows()) {
    const example = toExample(cells);
    yield { ...example, output: cleanText(example.output) };
  }
}

/** All examples of a file; see `streamExamples`. */
export async function readExamples(path: string, options: ReadExamplesOptions = {}): Promise<Example[]> {
  const examples: Example[] = [];
  for await (const example of streamExamples(path, options)) examples.push(example);
  return examples;
}
