import { formatCount } from "../limits.ts";

/** One row of a JSON file as it stands there. */
export interface JsonText {
  text: string;
  /** Line of the file where it begins, counted from 1. */
  line: number;
}

/** What stopped the splitting: in the row after those returned, where `line` is known on that line. */
export interface JsonProblem {
  code: "json" | "limit";
  message: string;
  line: number;
}

/** Takes text in pieces and gives rows; holds no more than the unfinished one. */
export interface JsonSplitter {
  /** Set once the text cannot be split further; the rows before it have been returned. */
  problem: JsonProblem | undefined;
  push(text: string): JsonText[];
  end(): JsonText[];
}

/** Splits JSON Lines: a row a line; blank lines are none. */
export class JsonLineSplitter implements JsonSplitter {
  problem: JsonProblem | undefined;
  readonly #maxRowLength: number;
  #line = 1;
  #rest = "";

  constructor(maxRowLength: number) {
    this.#maxRowLength = maxRowLength;
  }

  push(text: string): JsonText[] {
    return this.#split(text, false);
  }

  end(): JsonText[] {
    return this.#split("", true);
  }

  #split(text: string, isEnd: boolean): JsonText[] {
    const rows: JsonText[] = [];
    if (this.problem) return rows;
    const lines = (this.#rest + text).split("\n");
    this.#rest = isEnd ? "" : lines.pop()!;
    for (const line of lines) {
      if (this.#refuse(line)) return rows;
      if (line.trim() !== "") rows.push({ text: line, line: this.#line });
      this.#line++;
    }
    this.#refuse(this.#rest);
    return rows;
  }

  #refuse(text: string): boolean {
    if (text.length > this.#maxRowLength) this.problem = tooLong(this.#maxRowLength, this.#line);
    return this.problem !== undefined;
  }
}

/** Splits a JSON array into its elements, whatever they are; only brackets, strings and commas are looked at. */
export class JsonArraySplitter implements JsonSplitter {
  problem: JsonProblem | undefined;
  readonly #maxRowLength: number;
  #text = "";
  #at = 0;
  #line = 1;
  #previous = "";
  #place: "before" | "in-array" | "after" = "before";
  #rowStart = 0;
  /** Line of the row's first character that is no white space; 0 while there is none. */
  #rowLine = 0;
  #rows = 0;
  #closers: string[] = [];
  #isInString = false;
  #isEscaped = false;

  constructor(maxRowLength: number) {
    this.#maxRowLength = maxRowLength;
  }

  push(text: string): JsonText[] {
    const rows: JsonText[] = [];
    if (this.problem) return rows;
    this.#text = this.#text.slice(this.#rowStart) + text;
    this.#at -= this.#rowStart;
    this.#rowStart = 0;
    for (; this.#at < this.#text.length && !this.problem; this.#at++) this.#step(this.#text[this.#at], rows);
    if (this.#text.length - this.#rowStart > this.#maxRowLength) {
      this.problem ??= tooLong(this.#maxRowLength, this.#rowLine || this.#line);
    }
    return rows;
  }

  end(): JsonText[] {
    if (this.#place !== "after") {
      this.problem ??= {
        code: "json",
        message: 'the file ends before the "]" that closes the list; it may have been cut off: write or fetch it again',
        line: this.#rowLine || this.#line,
      };
    }
    return [];
  }

  #step(character: string, rows: JsonText[]): void {
    if (character === "\r" || (character === "\n" && this.#previous !== "\r")) this.#line++;
    this.#previous = character;
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (character === "\\") this.#isEscaped = true;
      else if (character === '"') this.#isInString = false;
      return;
    }
    if (isWhiteSpace(character)) return;
    if (this.#place !== "in-array") {
      if (this.#place === "before" && character === "[") {
        this.#place = "in-array";
        this.#rowStart = this.#at + 1;
      } else {
        this.#stop(`${JSON.stringify(character)} follows the "]" that closes the list; remove what comes after it`);
      }
      return;
    }
    const isTopLevel = this.#closers.length === 0;
    if (isTopLevel && (character === "," || character === "]")) {
      this.#finishRow(character === "]", rows);
      return;
    }
    this.#rowLine ||= this.#line;
    if (character === '"') {
      this.#isInString = true;
    } else if (character === "{" || character === "[") {
      this.#closers.push(character === "{" ? "}" : "]");
    } else if (character === "}" || character === "]") {
      const closer = this.#closers.pop();
      if (closer !== character) {
        const need = closer ? `where a "${closer}" is needed` : "without its opening one";
        this.#stop(`this is not valid JSON: "${character}" stands ${need}; correct the row`);
      }
    }
  }

  #finishRow(isLast: boolean, rows: JsonText[]): void {
    if (this.#at - this.#rowStart > this.#maxRowLength) {
      this.problem = tooLong(this.#maxRowLength, this.#rowLine || this.#line);
      return;
    }
    if (this.#rowLine > 0) {
      rows.push({ text: this.#text.slice(this.#rowStart, this.#at), line: this.#rowLine });
      this.#rows++;
    } else if (!isLast || this.#rows > 0) {
      this.#stop("a row is missing around this comma; remove the comma");
      return;
    }
    this.#rowStart = this.#at + 1;
    this.#rowLine = 0;
    if (isLast) this.#place = "after";
  }

  #stop(message: string): void {
    this.problem = { code: "json", message, line: this.#line };
  }
}

function isWhiteSpace(character: string): boolean {
  return character === " " || character === "\n" || character === "\r" || character === "\t";
}

function tooLong(maxRowLength: number, line: number): JsonProblem {
  const message = `the row is longer than ${formatCount(maxRowLength)} characters; shorten it or raise maxCellLength`;
  return { code: "limit", message, line };
}
