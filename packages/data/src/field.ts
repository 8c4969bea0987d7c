import { z } from "zod";
import { DataError, type DataErrorPlace } from "./error.ts";
import { DEFAULT_MAX_CELL_LENGTH, formatCount } from "./limits.ts";

/** A field that must be text, of at most `maxCellLength` characters, in whole characters. */
export function textField(maxCellLength = DEFAULT_MAX_CELL_LENGTH) {
  return z
    .string({ error: ({ input }) => (input === undefined ? "the field is missing; add it" : describeType(input)) })
    .max(maxCellLength, {
      error: `the text is longer than ${formatCount(maxCellLength)} characters; shorten it or raise maxCellLength`,
    })
    .refine((value) => value.isWellFormed(), {
      error: "the text holds half of a surrogate pair (a broken \\ud800 to \\udfff escape); correct it",
    });
}

/** Checks a value from outside. @throws DataError about the first field that is wrong, such as `messages[2].content` */
export function checkRow<T>(schema: z.ZodType<T>, value: unknown, place: DataErrorPlace): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const field = issue.path.length === 0 ? undefined : formatPath(issue.path);
  throw new DataError(issue.code === "too_big" ? "limit" : "field", { ...place, field }, issue.message);
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) => (typeof key === "number" ? `${text}[${key}]` : text === "" ? String(key) : `${text}.${String(key)}`),
    "",
  );
}

function describeType(value: unknown): string {
  return `the value is ${nameType(value)} where text is needed; put it in double quotes`;
}

/** A JSON value's type in a sentence. */
export function nameType(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return value === undefined ? "missing" : `a ${typeof value}`;
}
