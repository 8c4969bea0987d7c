import { type DataErrorCode, quoteName } from "../error.ts";
import { formatCount } from "../limits.ts";

/** One record of a CSV as it stands in the file, without its line break. */
export interface CsvRecord {
  text: string;
  /** Line of the file where it begins, counted from 1. */
  line: number;
}

/** What stopped the splitting, and where; the reader adds the names of file and column. */
export interface SplitProblem {
  code: DataErrorCode;
  message: string;
  line: number;
  /** Cell of the record, counted from 0. */
  cell: number;
}

const QUOTE = 34;
const LF = 10;
const CR = 13;
const SPACE = 32;
const TAB = 9;

/** Where in a cell the scan stands. */
type State = "start" | "unquoted" | "quoted" | "quote-in-quoted" | "closed";

/**
 * Finds the records of a CSV in text that comes in pieces, holding no more than the unfinished one. Papa Parse then takes
 * the records apart. Done before it because Papa fixes on one kind of line break for a whole file, reads a file to
 * its end when a quote is never closed, and names no line.
 *
 * Records end at CR, LF or CRLF, in any mixture, outside quotes. A quote opens a quoted cell only as its first
 * character; after the closing one only spaces may follow. Blank lines are no records.
 */
export class RecordSplitter {
  /** Set once the text cannot be split further; the records before it have been returned. */
  problem: SplitProblem | undefined;
  readonly #delimiter: number;
  readonly #maxCellLength: number;
  readonly #maxRowLength: number;
  #text = "";
  #at = 0;
  #state: State = "start";
  #line = 1;
  #previous = 0;
  #recordStart = 0;
  #recordLine = 1;
  #cellStart = 0;
  #cellLine = 1;
  #cell = 0;

  /** @param delimiter one character */
  constructor(delimiter: string, maxCellLength: number) {
    this.#delimiter = delimiter.charCodeAt(0);
    this.#maxCellLength = maxCellLength;
    this.#maxRowLength = 4 * maxCellLength;
  }

  /** The records that end in `text`. */
  push(text: string): CsvRecord[] {
    const records: CsvRecord[] = [];
    if (this.problem) return records;
    this.#text = this.#text.slice(this.#recordStart) + text;
    this.#at -= this.#recordStart;
    this.#cellStart -= this.#recordStart;
    this.#recordStart = 0;
    this.#scan(records);
    if (!this.problem) this.#checkLengths(this.#text.length);
    return records;
  }

  /** The last record, where the text does not end in a line break. */
  end(): CsvRecord[] {
    const records: CsvRecord[] = [];
    if (this.problem) return records;
    if (this.#state === "quoted") {
      this.#stop(
        "broken-quote",
        `the quote that opens this cell is never closed; add the closing " (a quote inside a cell is written "")`,
        this.#cellLine,
      );
    } else {
      this.#finishRecord(records);
    }
    return records;
  }

  #scan(records: CsvRecord[]): void {
    const text = this.#text;
    const delimiter = this.#delimiter;
    for (; this.#at < text.length; this.#at++) {
      const code = text.charCodeAt(this.#at);
      const isSecondOfCrLf = code === LF && this.#previous === CR;
      this.#previous = code;
      if (code === 0) {
        this.#stop(
          "not-text",
          "there is a zero byte, so this is no text file, or UTF-16 without a byte order mark; save it as UTF-8",
          this.#line,
        );
        return;
      }
      if (this.#state === "quoted") {
        if (code === QUOTE) this.#state = "quote-in-quoted";
        else if (code === CR || (code === LF && !isSecondOfCrLf)) this.#line++;
      } else if (this.#state === "quote-in-quoted" && code === QUOTE) {
        this.#state = "quoted";
      } else if (code === delimiter) {
        if (!this.#checkLengths(this.#at)) return;
        this.#cell++;
        this.#beginCell(this.#at + 1);
      } else if (code === LF || code === CR) {
        if (!isSecondOfCrLf) {
          if (!this.#finishRecord(records)) return;
          this.#line++;
        }
        this.#beginRecord(this.#at + 1);
      } else if (this.#state === "start") {
        this.#state = code === QUOTE ? "quoted" : "unquoted";
      } else if (this.#state !== "unquoted") {
        if (code !== SPACE && code !== TAB) {
          this.#stopAfterQuote();
          return;
        }
        this.#state = "closed";
      }
    }
  }

  #beginRecord(start: number): void {
    this.#recordStart = start;
    this.#recordLine = this.#line;
    this.#cell = 0;
    this.#beginCell(start);
  }

  #beginCell(start: number): void {
    this.#cellStart = start;
    this.#cellLine = this.#line;
    this.#state = "start";
  }

  #finishRecord(records: CsvRecord[]): boolean {
    if (!this.#checkLengths(this.#at)) return false;
    const text = this.#text.slice(this.#recordStart, this.#at);
    const isBlankLine = this.#cell === 0 && text.trim() === "";
    if (!isBlankLine) records.push({ text, line: this.#recordLine });
    return true;
  }

  #checkLengths(end: number): boolean {
    if (end - this.#cellStart > this.#maxCellLength) {
      const cure = this.#state === "quoted" ? "close the quote that opens it," : "shorten it";
      const limit = formatCount(this.#maxCellLength);
      this.#stop(
        "limit",
        `the cell is longer than ${limit} characters; ${cure} or raise maxCellLength`,
        this.#cellLine,
      );
    } else if (end - this.#recordStart > this.#maxRowLength) {
      const limit = formatCount(this.#maxRowLength);
      this.#stop(
        "limit",
        `the row is longer than ${limit} characters, four times the longest cell allowed; shorten it or raise maxCellLength`,
        this.#recordLine,
      );
    }
    return this.problem === undefined;
  }

  #stopAfterQuote(): void {
    const opened = this.#line === this.#cellLine ? "" : ` (it opened on line ${this.#cellLine})`;
    const found = quoteName(String.fromCodePoint(this.#text.codePointAt(this.#at)!));
    this.#stop(
      "broken-quote",
      `the closing quote of this cell${opened} is followed by ${found}; write a quote inside a cell as "", or close the cell before it`,
      this.#line,
    );
  }

  #stop(code: DataErrorCode, message: string, line: number): void {
    this.problem = { code, message, line, cell: this.#cell };
  }
}
