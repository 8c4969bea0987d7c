import { z } from "zod";
import type { DataErrorPlace } from "./error.ts";
import { checkRow, nameType, textField } from "./field.ts";
import { WEIGHT, weightField } from "./weight.ts";

/** One example of Alpaca data. */
export interface Example {
  instruction: string;
  input: string;
  output: string;
  /** How much the row counts in training, above 0; 1 unless given. */
  weight?: number;
  /** Only a `Conversation` has messages. */
  messages?: undefined;
}

/** The instruction of every example, unless another is given or the data's own are kept. */
export const DEFAULT_INSTRUCTION = "回答以下关于特定领域的问题:";

/** The fields of a row that are used. */
export const ALPACA_FIELDS: readonly string[] = ["instruction", "input", "output", WEIGHT];

/**
 * A check of Alpaca rows that come from outside. `input` may be missing and is then empty; fields other than those used are
 * dropped. With `instruction` given, the rows' own are not looked at.
 */
export function alpacaReader(options: {
  instruction?: string;
  maxCellLength?: number;
}): (value: unknown, place: DataErrorPlace) => Example {
  const { instruction } = options;
  const text = textField(options.maxCellLength);
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
      weight: weightField,
    },
    {
      error: ({ input }) =>
        `the row is ${nameType(input)}; an object with "instruction", "input" and "output" is needed`,
    },
  );
  return (value, place) => checkRow(row, value, place);
}

/**
 * Examples as a JSON array, example by example: the same text, byte for byte, as `JSON.stringify(examples, null, 2)` and
 * as Python's `json.dump(examples, file, ensure_ascii=False, indent=2)`.
 */
export class AlpacaFormatter {
  #isEmpty = true;

  /** The text of one more example. */
  add({ instruction, input, output, weight }: Example): string {
    const object = JSON.stringify({ instruction, input, output, weight }, null, 2).replaceAll("\n", "\n  ");
    const before = this.#isEmpty ? "[\n  " : ",\n  ";
    this.#isEmpty = false;
    return before + object;
  }

  /** The text after the last example. */
  end(): string {
    return this.#isEmpty ? "[]" : "\n]";
  }
}
