import { extname } from "node:path";
import { decodeFile, detectEncoding } from "../encoding.ts";
import { DataError } from "../error.ts";
import { checkInput } from "../files.ts";
import {
  DEFAULT_MAX_CELL_LENGTH,
  DEFAULT_MAX_FILE_BYTES,
  DEFAULT_MAX_ROWS,
  formatCount,
  type Limits,
} from "../limits.ts";
import { JsonArraySplitter, JsonLineSplitter, type JsonSplitter, type JsonText } from "./split.ts";

export interface JsonOptions extends Limits {
  /** Largest file in bytes. Default 1 GiB. */
  maxFileBytes?: number;
  signal?: AbortSignal;
}

/** One element of a JSON array or one line of JSON Lines: any JSON value. */
export interface JsonRow {
  value: unknown;
  /** Counted from 1. */
  row: number;
  /** Line of the file where it begins, counted from 1. */
  line: number;
}

/**
 * Reads the elements of a JSON array, or the lines of JSON Lines, one after another in bounded memory. Which of the two
 * it is shows in the first character.
 *
 * @throws DataError naming line and row: unreadable or empty file, JSON that is cut off or wrong, no rows, the limits
 */
export async function* readJsonRows(path: string, options: JsonOptions = {}): AsyncGenerator<JsonRow> {
  const { signal, maxRows = DEFAULT_MAX_ROWS, maxFileBytes = DEFAULT_MAX_FILE_BYTES } = options;
  const size = await checkInput(path);
  if (size > maxFileBytes) {
    throw new DataError(
      "limit",
      { file: path },
      `the file has ${formatCount(size)} bytes, more than the ${formatCount(maxFileBytes)} allowed; split it or raise maxFileBytes`,
    );
  }
  // Room for a row's few fields, each as long as allowed, and for some escapes.
  const maxRowLength = 8 * (options.maxCellLength ?? DEFAULT_MAX_CELL_LENGTH);
  let splitter: JsonSplitter | undefined;
  let row = 0;

  function* take(texts: JsonText[]): Generator<JsonRow> {
    for (const { text, line } of texts) {
      row++;
      if (row > maxRows) {
        const limit = formatCount(maxRows);
        throw new DataError("limit", { file: path, line, row }, `the file has more than ${limit} rows; raise maxRows`);
      }
      yield { value: parse(path, text, line, row), row, line };
    }
    const problem = splitter?.problem;
    if (problem) throw new DataError(problem.code, { file: path, line: problem.line, row: row + 1 }, problem.message);
  }

  let blanks = "";
  for await (const text of decodeFile(path, await detectEncoding(path, signal), signal)) {
    if (splitter) {
      yield* take(splitter.push(text));
      continue;
    }
    // Line feeds before the first character count for the lines named later.
    blanks += text;
    const first = firstCharacter(text);
    if (first === undefined) {
      if (blanks.length > maxRowLength) break;
      continue;
    }
    splitter = first === "[" ? new JsonArraySplitter(maxRowLength) : new JsonLineSplitter(maxRowLength);
    yield* take(splitter.push(blanks));
  }
  if (splitter) yield* take(splitter.end());
  if (row === 0) throw new DataError("empty", { file: path }, "the file has no rows; give a list or lines of rows");
}

/** Whether a file holds JSON: by its name, or where that says nothing, by its first character. */
export async function isJsonFile(path: string, signal?: AbortSignal): Promise<boolean> {
  const extension = extname(path).toLowerCase();
  if ([".json", ".jsonl", ".ndjson"].includes(extension)) return true;
  if ([".csv", ".tsv"].includes(extension)) return false;
  await checkInput(path);
  for await (const text of decodeFile(path, await detectEncoding(path, signal), signal)) {
    const first = firstCharacter(text);
    if (first !== undefined) return first === "[" || first === "{";
  }
  return false;
}

function firstCharacter(text: string): string | undefined {
  return /[^ \t\r\n]/.exec(text)?.[0];
}

function parse(path: string, text: string, line: number, row: number): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const detail = error instanceof Error ? error.message.replace(/^JSON Parse error: /, "") : String(error);
    throw new DataError("json", { file: path, line, row }, `this is not valid JSON: ${detail}; correct the row`, {
      cause: error,
    });
  }
}
