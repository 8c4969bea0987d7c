import Papa from "papaparse";
import { type DetectedEncoding, decodeFile, detectEncoding, type Encoding } from "../encoding.ts";
import { DataError, quoteName } from "../error.ts";
import { checkInput } from "../files.ts";
import { DEFAULT_MAX_CELL_LENGTH, formatCount, type Limits } from "../limits.ts";
import { type CsvRecord, RecordSplitter } from "./split.ts";

/** What may separate cells; the first that yields the wanted columns is taken. */
export type Delimiter = "," | ";" | "\t";
const DELIMITERS: readonly Delimiter[] = [",", ";", "\t"];

/** The first line by which Excel is told what separates the cells: no row of the table. */
const DECLARATION = /^"?sep=(.)"? *$/i;

export interface CsvOptions extends Limits {
  /** Columns that the file must have. */
  required: readonly string[];
  signal?: AbortSignal;
}

export interface CsvRow {
  /** As many as the header has. */
  cells: string[];
  /** Data row, counted from 1. */
  row: number;
  /** Line of the file where the row begins, counted from 1. */
  line: number;
}

/** A CSV whose header has been read and whose rows are yet to come. */
export interface CsvFile {
  path: string;
  encoding: Encoding;
  delimiter: Delimiter;
  /** Names of the columns as they stand in the header. */
  columns: readonly string[];
  /** Size in bytes. */
  size: number;
  /** Where a column stands in `cells`; the column must have been among the required. */
  indexOf(column: string): number;
  /** Reads the rows, one after another, from the file's start each time; `onBytes` is told how far the reading is. */
  rows(onBytes?: (bytesRead: number) => void): AsyncGenerator<CsvRow>;
}

/**
 * Opens a CSV: detects encoding and delimiter, and checks the header. The file is then read row by row in bounded
 * memory.
 *
 * @throws DataError naming line, row and column: unreadable or empty file, unknown encoding, missing or doubled column;
 * while reading the rows also broken quotes, rows with too few or too many cells, no rows, and the limits.
 */
export async function openCsv(path: string, options: CsvOptions): Promise<CsvFile> {
  const size = await checkInput(path);
  const detected = await detectEncoding(path, options.signal);
  const maxCellLength = options.maxCellLength ?? DEFAULT_MAX_CELL_LENGTH;
  const { delimiter, columns, line, before } = await readHeader(path, detected, maxCellLength, options);
  const names = columns.map((column) => column.trim());
  for (const column of options.required) {
    const place = { file: path, line, column };
    const first = names.indexOf(column);
    if (first < 0) {
      const found = columns.slice(0, 20).map(quoteName).join(", ");
      throw new DataError("missing-column", place, `the column is missing: the header has ${found}; rename or add it`);
    }
    if (names.indexOf(column, first + 1) >= 0) {
      throw new DataError("duplicate-column", place, "the header has the column twice; rename or remove one of them");
    }
  }
  return {
    path,
    encoding: detected.encoding,
    delimiter,
    columns,
    size,
    indexOf: (column) => names.indexOf(column),
    rows: (onBytes) => readRows({ path, detected, delimiter, columns, before, maxCellLength, ...options, onBytes }),
  };
}

interface Header {
  delimiter: Delimiter;
  columns: string[];
  line: number;
  /** Records before it: 1 where Excel's `sep=;` stands there. */
  before: number;
}

/**
 * Reads the header with each delimiter, or only with the one that a first line `sep=;` declares, and takes the first under
 * which it has all required columns. Where none has, the error is about the likeliest: the one that gives most columns, or
 * a broken quote where no other gives even two.
 */
async function readHeader(
  path: string,
  detected: DetectedEncoding,
  maxCellLength: number,
  { required, signal }: CsvOptions,
): Promise<Header> {
  const splitters = DELIMITERS.map((delimiter) => new RecordSplitter(delimiter, maxCellLength));
  const records: CsvRecord[][] = DELIMITERS.map(() => []);
  let declared: string | undefined;
  const isOpen = (i: number) =>
    records[i].length < (declared === undefined ? 1 : 2) &&
    splitters[i].problem === undefined &&
    (declared === undefined || declared === DELIMITERS[i]);
  const add = (i: number, found: CsvRecord[]) => {
    records[i].push(...found.slice(0, 2));
    declared ??= records[i][0] && DECLARATION.exec(records[i][0].text)?.[1];
  };
  for await (const text of decodeFile(path, detected, signal)) {
    for (let i = 0; i < splitters.length; i++) if (isOpen(i)) add(i, splitters[i].push(text));
    if (!splitters.some((_, i) => isOpen(i))) break;
  }
  for (let i = 0; i < splitters.length; i++) if (isOpen(i)) add(i, splitters[i].end());
  if (declared !== undefined && !DELIMITERS.some((delimiter) => delimiter === declared)) {
    throw new DataError(
      "delimiter",
      { file: path, line: records[0][0].line },
      `the line says that ${quoteName(declared)} separates the cells; save the table with commas, semicolons or tabs`,
    );
  }
  const before = declared === undefined ? 0 : 1;
  const headers: Header[] = [];
  DELIMITERS.forEach((delimiter, i) => {
    const record = records[i][before];
    if (record === undefined || (declared !== undefined && delimiter !== declared)) return;
    headers.push({ delimiter, columns: parse([record], delimiter)[0], line: record.line, before });
  });

  const fitting = headers.find(({ columns }) => {
    const names = columns.map((column) => column.trim());
    return required.every((column) => names.includes(column));
  });
  if (fitting) return fitting;
  const likeliest = headers.sort((a, b) => b.columns.length - a.columns.length)[0];
  const problem = splitters.find((splitter, i) => splitter.problem && records[i].length <= before)?.problem;
  if (problem && !(likeliest?.columns.length > 1)) {
    throw new DataError(problem.code, { file: path, line: problem.line }, `in the header, ${problem.message}`);
  }
  if (!likeliest) {
    throw new DataError("empty", { file: path }, "the file has only blank lines; give one with a header and rows");
  }
  return likeliest;
}

interface RowSource extends CsvOptions, Pick<CsvFile, "path" | "delimiter" | "columns"> {
  detected: DetectedEncoding;
  before: number;
  maxCellLength: number;
  onBytes?: (bytesRead: number) => void;
}

async function* readRows(source: RowSource): AsyncGenerator<CsvRow> {
  const { path, delimiter, columns, signal, maxRows = Number.POSITIVE_INFINITY } = source;
  const splitter = new RecordSplitter(delimiter, source.maxCellLength);
  // The header, and what stands before it.
  let skipped = -1 - source.before;
  let row = 0;

  function* take(records: CsvRecord[]): Generator<CsvRow> {
    for (; skipped < 0 && records.length > 0; skipped++) records.shift();
    const rows = parse(records, delimiter);
    for (let i = 0; i < records.length; i++) {
      const { line } = records[i];
      row++;
      if (row > maxRows) {
        const limit = formatCount(maxRows);
        throw new DataError("limit", { file: path, line, row }, `the file has more than ${limit} rows; raise maxRows`);
      }
      checkRowLength(source, rows[i], line, row);
      yield { cells: rows[i], row, line };
    }
    const problem = splitter.problem;
    if (problem) {
      const column = columns[problem.cell] ?? columns[columns.length - 1];
      throw new DataError(problem.code, { file: path, line: problem.line, row: row + 1, column }, problem.message);
    }
  }

  for await (const text of decodeFile(path, source.detected, signal, source.onBytes)) yield* take(splitter.push(text));
  yield* take(splitter.end());
  if (row === 0) {
    throw new DataError("empty", { file: path }, "the file has a header but no rows; add a row for each question");
  }
}

function checkRowLength({ path, columns, delimiter }: RowSource, cells: string[], line: number, row: number): void {
  if (cells.length === columns.length) return;
  const counts = `the row has ${plural(cells.length, "cell")} where the header has ${plural(columns.length, "column")}`;
  if (cells.length < columns.length) {
    throw new DataError(
      "ragged-row",
      { file: path, line, row, column: columns[cells.length] },
      `${counts}, so this one is missing; add the cell, or an empty one`,
    );
  }
  const sign = delimiter === "\t" ? "tab" : quoteName(delimiter);
  throw new DataError(
    "ragged-row",
    { file: path, line, row, column: columns[columns.length - 1] },
    `${counts}: ${quoteName(cells[columns.length])} follows the last column; put double quotes around a cell that holds a ${sign}`,
  );
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** The cells of whole records. */
function parse(records: readonly CsvRecord[], delimiter: Delimiter): string[][] {
  if (records.length === 0) return [];
  // Papa drops one byte order mark at the start: it gets one, so that a cell's own stays. The line break at the end lets
  // it accept spaces after the last closing quote; it costs an empty row.
  const text = `\ufeff${records.map((record) => record.text).join("\n")}\n`;
  const { data, errors } = Papa.parse<string[]>(text, { delimiter, newline: "\n" });
  data.pop();
  if (errors.length > 0 || data.length !== records.length) {
    const detail = errors[0]?.message ?? `${data.length} rows from ${records.length} records`;
    throw new Error(`Papa Parse disagrees on the rows from line ${records[0].line} on: ${detail}`);
  }
  return data;
}
