import { z } from "zod";
import { DataError, type DataErrorPlace } from "./error.ts";
import { DEFAULT_MAX_CELL_LENGTH, formatCount } from "./limits.ts";

/** One example of Alpaca data. */
export interface Example {
  instruction: string;
  input: string;
  output: string;
}

/** The instruction of every example, unless another is given or the data's own are kept. */
export const DEFAULT_INSTRUCTION = "回答以下关于特定领域的问题:";

/**
 * A check of Alpaca rows that come from outside. `input` may be missing and is then empty; fields other than the three are
 * dropped. With `instruction` given, the rows' own are not looked at.
 */
export function alpacaReader(options: {
  instruction?: string;
  maxCellLength?: number;
}): (value: unknown, place: DataErrorPlace) => Example {
  const { instruction, maxCellLength = DEFAULT_MAX_CELL_LENGTH } = options;
  const text = z
    .string({ error: ({ input }) => (input === undefined ? "the field is missing; add it" : describeType(input)) })
    .max(maxCellLength, {
      error: `the text is longer than ${formatCount(maxCellLength)} characters; shorten it or raise maxCellLength`,
    })
    .refine((value) => value.isWellFormed(), {
      error: "the text holds half of a surrogate pair (a broken \\ud800 to \\udfff escape); correct it",
    });
  const row = z.object(
    {
      instruction:
        instruction === undefined
          ? text
          : z
              .unknown()
              .optional()
              .transform(() => instruction),
      input: text.default(""),
      output: text,
    },
    {
      error: ({ input }) =>
        `the row is ${nameType(input)}; an object with "instruction", "input" and "output" is needed`,
    },
  );
  return (value, place) => {
    const result = row.safeParse(value);
    if (result.success) return result.data;
    const issue = result.error.issues[0];
    const field = issue.path[0];
    const code = issue.code === "too_big" ? "limit" : "field";
    throw new DataError(code, { ...place, field: field === undefined ? undefined : String(field) }, issue.message);
  };
}

function describeType(value: unknown): string {
  return `the value is ${nameType(value)} where text is needed; put it in double quotes`;
}

function nameType(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return value === undefined ? "missing" : `a ${typeof value}`;
}

/**
 * Examples as a JSON array, example by example: the same text, byte for byte, as `JSON.stringify(examples, null, 2)` and
 * as Python's `json.dump(examples, file, ensure_ascii=False, indent=2)`.
 */
export class AlpacaFormatter {
  #isEmpty = true;

  /** The text of one more example. */
  add({ instruction, input, output }: Example): string {
    const object = JSON.stringify({ instruction, input, output }, null, 2).replaceAll("\n", "\n  ");
    const before = this.#isEmpty ? "[\n  " : ",\n  ";
    this.#isEmpty = false;
    return before + object;
  }

  /** The text after the last example. */
  end(): string {
    return this.#isEmpty ? "[]" : "\n]";
  }
}
