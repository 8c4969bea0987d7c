/** What kind of thing went wrong, for callers that need to tell errors apart. */
export type DataErrorCode =
  | "missing-file"
  | "not-a-file"
  | "unreadable"
  | "encoding"
  | "not-text"
  | "empty"
  | "missing-column"
  | "duplicate-column"
  | "delimiter"
  | "ragged-row"
  | "broken-quote"
  | "json"
  | "field"
  | "limit"
  | "output"
  | "options";

/** Where it went wrong: as much of it as is known. */
export interface DataErrorPlace {
  file: string;
  /** Line of the file, counted from 1; of a row that spans lines, the one named is where the trouble lies. */
  line?: number;
  /** Data row, counted from 1; a CSV's header and blank lines do not count. */
  row?: number;
  /** Column of a CSV. */
  column?: string;
  /** Field of a JSON object. */
  field?: string;
}

/**
 * Anything wrong with an input file, an output path or the options given. The message is one sentence that names the
 * file, the line, the row and the column or field as far as they apply, and what to do.
 */
export class DataError extends Error {
  override readonly name = "DataError";
  readonly code: DataErrorCode;
  readonly file: string;
  readonly line: number | undefined;
  readonly row: number | undefined;
  readonly column: string | undefined;
  readonly field: string | undefined;

  constructor(code: DataErrorCode, place: DataErrorPlace, problem: string, options?: ErrorOptions) {
    super(`${describePlace(place)}: ${problem}`, options);
    this.code = code;
    this.file = place.file;
    this.line = place.line;
    this.row = place.row;
    this.column = place.column;
    this.field = place.field;
  }
}

function describePlace({ file, line, row, column, field }: DataErrorPlace): string {
  let place = file;
  if (line !== undefined) place += `, line ${line}`;
  if (row !== undefined) place += line === undefined ? `, row ${row}` : ` (row ${row})`;
  if (column !== undefined) place += `, column ${quoteName(column)}`;
  if (field !== undefined) place += `, field ${quoteName(field)}`;
  return place;
}

/** A name or a piece of text from the file, quoted, and cut where it would drown the sentence. */
export function quoteName(text: string): string {
  const characters = [...text.slice(0, 100)];
  const shown = characters.length > 40 ? `${characters.slice(0, 40).join("")}…` : text;
  return JSON.stringify(shown);
}
