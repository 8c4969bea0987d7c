import { z } from "zod";
import type { ChatRequest, Message } from "./chat.ts";
import { ApiError } from "./errors.ts";

/** What a request may bring. */
export interface Limits {
  /** Bytes of a body. */
  bodyBytes: number;
  /** UTF-16 code units of a message. */
  messageLength: number;
  /** Messages of a history. */
  historyLength: number;
  /** Most tokens a client may ask for. */
  maxTokens: number;
  /** Brackets inside brackets of the JSON. */
  nesting: number;
}

export const DEFAULT_LIMITS: Limits = {
  bodyBytes: 1 << 20,
  messageLength: 32_768,
  historyLength: 200,
  maxTokens: 4096,
  nesting: 16,
};

/** What a request gets that does not say. */
export interface Defaults {
  adapter: string | null;
  maxTokens: number;
  seed: number;
}

type Issue = { readonly input?: unknown };

function show(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return typeof value === "string" ? "a text" : String(value);
}

const is = (want: string) => ({ error: ({ input }: Issue) => `must be ${want}, but is ${show(input)}` });

/** Other than texts in general, a role's name may be told back. */
const wrongRole = ({ input }: Issue): string => {
  const found = typeof input === "string" ? JSON.stringify(input.slice(0, 30)) : show(input);
  return `must be "system", "user" or "assistant", but is ${found}`;
};

function number(test: (x: number) => boolean, want: string) {
  return z.number(is(want)).refine(test, is(want));
}
function integer(least: number, most: number) {
  return number((x) => Number.isInteger(x) && x >= least && x <= most, `a whole number from ${least} to ${most}`);
}

function bodySchema(limits: Limits) {
  const content = z
    .string(is("a text"))
    .min(1, { error: "must not be empty" })
    .max(limits.messageLength, { error: `must not be longer than ${limits.messageLength} characters` })
    .refine((text) => text.isWellFormed(), { error: "holds half of a surrogate pair; send whole characters" });
  const message = z.strictObject(
    { role: z.enum(["system", "user", "assistant"], { error: wrongRole }), content },
    { error: unknownFieldsOr("an object {role, content}") },
  );
  return z.strictObject(
    {
      message: content,
      history: z
        .array(message, is("a list of {role, content}"))
        .max(limits.historyLength, { error: `must not have more than ${limits.historyLength} messages` })
        .optional(),
      adapter: z.string(is("the name of an adapter or null")).nullish(),
      max_tokens: integer(1, limits.maxTokens).optional(),
      temperature: number((x) => x >= 0 && x <= 2, "a number from 0 to 2").optional(),
      top_p: number((x) => x > 0 && x <= 1, "a number above 0 and at most 1").optional(),
      top_k: integer(0, 1_000_000).optional(),
      seed: integer(0, Number.MAX_SAFE_INTEGER).optional(),
      stream: z.boolean(is("true or false")).optional(),
    },
    { error: unknownFieldsOr("a JSON object with a message") },
  );
}

function unknownFieldsOr(want: string) {
  return (issue: Issue & { code?: string; keys?: readonly string[] }) =>
    issue.code === "unrecognized_keys"
      ? `has a field that is not known: ${JSON.stringify(issue.keys?.[0]).slice(0, 100)}`
      : is(want).error(issue);
}

/** Reads bodies of `POST /chat`; made once, because the schema depends on the limits. */
export function bodyReader(limits: Limits, defaults: Defaults) {
  const schema = bodySchema(limits);
  /** @throws ApiError "invalid_request" that names the field */
  return (bytes: Uint8Array): { request: ChatRequest; stream: boolean } => {
    const result = schema.safeParse(parseJson(bytes, limits.nesting));
    if (!result.success) {
      const issue = result.error.issues[0];
      const param = pathOf(issue.path, issue.code === "unrecognized_keys" ? issue.keys[0] : undefined);
      throw new ApiError("invalid_request", `${param ?? "the body"} ${issue.message}`, { param });
    }
    const body = result.data;
    const messages: Message[] = [...(body.history ?? []), { role: "user", content: body.message }];
    return {
      request: {
        messages,
        adapter: body.adapter === undefined ? defaults.adapter : body.adapter,
        maxTokens: body.max_tokens ?? Math.min(defaults.maxTokens, limits.maxTokens),
        temperature: body.temperature ?? 0,
        topP: body.top_p ?? 1,
        topK: body.top_k ?? 0,
        seed: body.seed ?? defaults.seed,
      },
      stream: body.stream ?? false,
    };
  };
}

/** `["history", 2, "role"]` as `history[2].role`. */
function pathOf(path: readonly PropertyKey[], key?: string): string | undefined {
  const parts = key === undefined ? path : [...path, key];
  if (parts.length === 0) return undefined;
  return parts
    .map((part, i) => (typeof part === "number" ? `[${part}]` : `${i > 0 ? "." : ""}${String(part).slice(0, 100)}`))
    .join("");
}

function parseJson(bytes: Uint8Array, nesting: number): unknown {
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
