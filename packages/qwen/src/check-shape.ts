import type { z } from "zod";
import { ModelFileError } from "./errors.ts";

/** Checks a value against a schema; the first problem becomes a `ModelFileError` that names file and field. */
export function checkShape<T extends z.ZodType>(schema: T, value: unknown, file: string): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.map(String).join(".");
  throw new ModelFileError(file, issue.message, { field: field === "" ? undefined : field, cause: result.error });
}
