import type { z } from "@hono/zod-openapi";
import { ApiError } from "../errors.ts";

/** JSON out of a body's bytes. @throws ApiError "invalid_request" */
export function parseJson(bytes: Uint8Array, nesting: number): unknown {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ApiError("invalid_request", "the body is not UTF-8 text", { cause });
  }
  checkNesting(text, nesting);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ApiError("invalid_request", `the body is not valid JSON: ${(cause as Error).message.slice(0, 200)}`, {
      cause,
    });
  }
}

/** Refuses JSON that nests deeper than `limit`, before a parser recurses into it. */
function checkNesting(text: string, limit: number): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (inString) {
      if (char === "\\") i++;
      else if (char === '"') inString = false;
    } else if (char === '"') inString = true;
    else if (char === "[" || char === "{") depth++;
    else if (char === "]" || char === "}") depth--;
    if (depth > limit) {
      throw new ApiError("invalid_request", `the body nests lists and objects more than ${limit} deep`);
    }
  }
}

/** A value as a schema has it. @throws ApiError "invalid_request" that names the field */
export function checkValue<Schema extends z.ZodType>(schema: Schema, value: unknown, what = "the body") {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = innermost(result.error.issues[0]);
  const unknown = issue.code === "unrecognized_keys" ? issue.keys[0] : undefined;
  const param = pathOf(issue.path, unknown);
  throw new ApiError("invalid_request", `${param ?? what} ${issue.message}`, {
    param,
    code: unknown === undefined ? undefined : "unknown_parameter",
  });
}

/** Of a union, what the branch says that came furthest: the one whose first problem lies deepest. */
function innermost(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const found = issue.errors
    .flatMap((issues) => issues.slice(0, 1))
    .map((inner) => ({ ...innermost(inner), path: [...issue.path, ...innermost(inner).path] }) as z.core.$ZodIssue)
    .filter(({ path }) => path.length > issue.path.length)
    .sort((a, b) => b.path.length - a.path.length);
  return found[0] ?? issue;
}

/** `["history", 2, "role"]` as `history[2].role`. */
function pathOf(path: readonly PropertyKey[], key?: string): string | undefined {
  const parts = key === undefined ? path : [...path, key];
  if (parts.length === 0) return undefined;
  return parts
    .map((part, i) => (typeof part === "number" ? `[${part}]` : `${i > 0 ? "." : ""}${String(part).slice(0, 100)}`))
    .join("");
}
