import { AlpacaFormatter, DEFAULT_INSTRUCTION, type Example } from "./alpaca.ts";
import { writeAtomically } from "./atomic.ts";
import { cleanText } from "./clean.ts";
import { type CsvFile, type Delimiter, openCsv } from "./csv/read.ts";
import { formatCsvRow } from "./csv/write.ts";
import type { Encoding } from "./encoding.ts";
import { DataError, type DataErrorPlace } from "./error.ts";
import { explainSystemError, statIfThere } from "./files.ts";
import type { Limits } from "./limits.ts";
import { weightOf } from "./weight.ts";

export interface InstructionOptions {
  /** Instruction of every example. Default: `DEFAULT_INSTRUCTION`. */
  instruction?: string;
  /** Take each row's own instruction instead, from the column `instruction`. */
  keepInstruction?: boolean;
}

export interface ConvertProgress {
  bytesRead: number;
  totalBytes: number;
  /** Rows written so far. */
  rows: number;
}

export interface ConvertOptions extends InstructionOptions, Limits {
  /** Path of the CSV; it needs the columns `input` and `output`, for `rag` only `output`. */
  input: string;
  /** Path of the file to write; its folder is made. */
  output: string;
  /** Write the cleaned CSV, with all its columns, instead of Alpaca JSON. */
  rag?: boolean;
  /** Told after every 64 KiB or so of the input. */
  onProgress?: (progress: ConvertProgress) => void;
  signal?: AbortSignal;
}

export interface ConvertReport {
  /** Rows written. */
  rows: number;
  /** Numbers (from 1) of the rows that the cleaning left without an output: the first 1,000 of them. */
  emptied: number[];
  /** How many such rows there are in all. */
  emptiedCount: number;
  encoding: Encoding;
  delimiter: Delimiter;
  output: string;
}

/** Most row numbers that a report lists. */
const MAX_EMPTIED_LISTED = 1000;

/**
 * Cleans the column `output` of a CSV (see `cleanText`) and writes Alpaca JSON, or with `rag` the CSV itself (UTF-8, commas, line
 * feeds). Row by row: memory does not grow with the file. The output appears whole or not at all.
 *
 * @throws DataError naming file, line, row and column; the signal's reason when it aborts. Nothing is written then.
 */
export async function convertCsv(options: ConvertOptions): Promise<ConvertReport> {
  const { input, output, rag = false, keepInstruction, signal, maxCellLength, maxRows, onProgress } = options;
  checkInstructionOptions(input, options);
  const required = rag ? ["output"] : keepInstruction ? ["instruction", "input", "output"] : ["input", "output"];
  const csv = await openCsv(input, { required, signal, maxCellLength, maxRows });
  await checkDiffer(input, output);

  const outputIndex = csv.indexOf("output");
  const formatter = rag ? csvFormatter(csv) : alpacaFormatter(csv, options);
  const report: ConvertReport = {
    rows: 0,
    emptied: [],
    emptiedCount: 0,
    encoding: csv.encoding,
    delimiter: csv.delimiter,
    output,
  };
  const onBytes = (bytesRead: number) => onProgress?.({ bytesRead, totalBytes: csv.size, rows: report.rows });
  return writeAtomically(
    output,
    async (write) => {
      await write(formatter.begin);
      for await (const { cells, row, line } of csv.rows(onBytes)) {
        cells[outputIndex] = cleanText(cells[outputIndex]);
        if (cells[outputIndex].trim() === "") {
          report.emptiedCount++;
          if (report.emptied.length < MAX_EMPTIED_LISTED) report.emptied.push(row);
        }
        await write(formatter.add(cells, { file: input, row, line }));
        report.rows++;
      }
      await write(formatter.end());
      return report;
    },
    signal,
  );
}

interface Formatter {
  begin: string;
  add(cells: string[], place: DataErrorPlace): string;
  end(): string;
}

function csvFormatter(csv: CsvFile): Formatter {
  return { begin: formatCsvRow(csv.columns), add: formatCsvRow, end: () => "" };
}

function alpacaFormatter(csv: CsvFile, options: InstructionOptions): Formatter {
  const alpaca = new AlpacaFormatter();
  const toExample = exampleOf(csv, options);
  return { begin: "", add: (cells, place) => alpaca.add(toExample(cells, place)), end: () => alpaca.end() };
}

/** How a row's cells become an example, with the column `weight` if there is one; the output is taken as it is. */
export function exampleOf(csv: CsvFile, { instruction, keepInstruction }: InstructionOptions) {
  const [instructionAt, inputAt, outputAt] = ["instruction", "input", "output"].map((column) => csv.indexOf(column));
  const fixed = instruction ?? DEFAULT_INSTRUCTION;
  const weigh = weightOf(csv);
  return (cells: readonly string[], place: DataErrorPlace): Example => {
    const weight = weigh(cells, place);
    return {
      instruction: keepInstruction ? cells[instructionAt] : fixed,
      input: cells[inputAt],
      output: cells[outputAt],
      ...(weight !== undefined && { weight }),
    };
  };
}

export function checkInstructionOptions(file: string, { instruction, keepInstruction }: InstructionOptions): void {
  if (instruction === undefined || !keepInstruction) return;
  throw new DataError(
    "options",
    { file },
    "an instruction is given and the rows' own are to be kept; choose one of the two",
  );
}

async function checkDiffer(input: string, output: string): Promise<void> {
  try {
    const [from, to] = await Promise.all([statIfThere(input), statIfThere(output)]);
    if (!from || !to || from.dev !== to.dev || from.ino !== to.ino) return;
  } catch (error) {
    throw explainSystemError(error, "output", output, "cannot be written");
  }
  throw new DataError("output", { file: output }, "input and output are the same file; choose another output");
}
