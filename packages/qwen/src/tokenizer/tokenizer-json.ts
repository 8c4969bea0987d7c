import { z } from "zod";
import { checkShape } from "../check-shape.ts";
import { ModelFileError } from "../errors.ts";
import { BYTE_TO_CHAR, isByteLevel } from "./byte-level.ts";

/** A token with an id of its own that text is split at before BPE, such as `<|im_end|>`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Control tokens, which `skipSpecialTokens` leaves out of a text. */
  readonly special: boolean;
}

/** A `tokenizer.json` that passed `checkTokenizerJson`. */
export interface TokenizerJson {
  readonly model: { readonly vocab: Readonly<Record<string, number>> };
  readonly added_tokens: readonly AddedToken[];
  /** The token of each id, added ones too; not in the file. */
  readonly tokenOf: readonly (string | undefined)[];
}

/** More ids than any Qwen2 tokenizer has, few enough that tables by id stay small. */
const MAX_VOCAB = 1 << 22;
const MAX_TOKEN_LENGTH = 1024;
const MAX_PATTERN_LENGTH = 4096;
const MAX_ADDED_TOKENS = 65536;

const named = (what: string, names: readonly string[]) =>
  z.looseObject(
    {
      type: z.string().refine((type) => names.includes(type), {
        error: (issue) => `"${issue.input}" is not supported; a Qwen2 tokenizer has ${names.join(" or ")}`,
      }),
    },
    { error: `must be an object that describes the ${what}` },
  );
const absent = (what: string) => z.union([z.null(), z.literal(""), z.literal(0), z.literal(false)], { error: what });

const schema = z.looseObject(
  {
    normalizer: named("normalizer", ["NFC", "Sequence"]).nullish(),
    pre_tokenizer: named("pre-tokenizer", ["Sequence", "ByteLevel"]),
    post_processor: named("post-processor", ["ByteLevel", "TemplateProcessing", "Sequence"]).nullish(),
    decoder: named("decoder", ["ByteLevel"]),
    model: z.looseObject(
      {
        type: z.literal("BPE", {
          error: (issue) => `must be "BPE", but is ${JSON.stringify(issue.input) ?? "missing"}`,
        }),
        dropout: absent("dropout is not supported").nullish(),
        byte_fallback: absent("byte fallback is not supported").nullish(),
        continuing_subword_prefix: absent("must be empty").nullish(),
        end_of_word_suffix: absent("must be empty").nullish(),
        vocab: z.custom<Record<string, number>>((v) => typeof v === "object" && v !== null && !Array.isArray(v), {
          error: "must be an object of tokens and their ids",
        }),
        merges: z.custom<unknown[]>(Array.isArray, { error: "must be a list of merges; the file is incomplete" }),
      },
      { error: "must be an object that describes the BPE model" },
    ),
    added_tokens: z
      .array(
        z.looseObject({
          id: z.number({ error: "must be a number" }).int({ error: "must be a whole number" }),
          content: z.string({ error: "must be text" }).min(1, { error: "must not be empty" }).max(MAX_TOKEN_LENGTH),
          special: z.boolean({ error: "must be true or false" }).default(false),
          single_word: z.literal(false, { error: "single_word is not supported" }).nullish(),
          lstrip: z.boolean().nullish(),
          rstrip: z.boolean().nullish(),
          normalized: z.boolean().nullish(),
        }),
        { error: "must be a list of tokens" },
      )
      .max(MAX_ADDED_TOKENS, { error: `has more than ${MAX_ADDED_TOKENS} tokens` })
      .default([]),
  },
  { error: "must be a JSON object" },
);

/**
 * Checks the parsed content of a `tokenizer.json` of the Qwen2 kind (byte-level BPE) so that encoding can neither fail
 * nor drop text: every byte has a token, every merge makes one, and no id is used twice or lies
 * beyond the embedding.
 *
 * @param vocabSize rows of the model's embedding; ids from there on are refused
 * @throws ModelFileError that names the file, the field and what is wrong
 */
export function checkTokenizerJson(value: unknown, file: string, vocabSize = MAX_VOCAB): TokenizerJson {
  const json = checkShape(schema, value, file);
  const fail = (field: string, problem: string): never => {
    throw new ModelFileError(file, problem, { field });
  };
  const checkId = (field: () => string, id: unknown): number => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0) {
      fail(field(), `is ${JSON.stringify(id)}, which is no token id`);
    }
    if ((id as number) >= vocabSize) {
      fail(
        field(),
        `is ${id}, beyond the model's vocabulary of ${vocabSize}; tokenizer and model do not belong together`,
      );
    }
    return id as number;
  };

  const { vocab, merges } = json.model;
  const added = new Set(json.added_tokens.map((token) => token.content));
  const tokenOf: string[] = [];
  for (const token in vocab) {
    const given = vocab[token];
    const field = () => `model.vocab[${JSON.stringify(token.slice(0, 40))}]`;
    if (token.length === 0 || token.length > MAX_TOKEN_LENGTH) {
      fail(field(), `has ${token.length} characters; 1 to ${MAX_TOKEN_LENGTH} are allowed`);
    }
    if (!isByteLevel(token) && !added.has(token)) {
      fail(field(), "has a character outside the byte-level alphabet; this is not a byte-level tokenizer");
    }
    const id = checkId(field, given);
    if (tokenOf[id] !== undefined) fail(field(), `has id ${id}, as has ${JSON.stringify(tokenOf[id])}`);
    tokenOf[id] = token;
  }
  const missing = BYTE_TO_CHAR.findIndex((char) => !Object.hasOwn(vocab, char));
  if (missing >= 0) {
    fail(
      "model.vocab",
      `has no token for byte 0x${missing.toString(16).padStart(2, "0")}, so some text cannot be encoded`,
    );
  }

  for (let i = 0; i < merges.length; i++) {
    const merge = merges[i];
    // A part that is no token is never seen: what encoding meets are single bytes and what merges make.
    if (typeof merge === "string") {
      const space = merge.indexOf(" ");
      const whole = merge.slice(0, space) + merge.slice(space + 1);
      if (space > 0 && space < merge.length - 1 && Object.hasOwn(vocab, whole)) continue;
    }
    const parts = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(parts) || parts.length !== 2 || typeof parts[0] !== "string" || typeof parts[1] !== "string") {
      fail(`model.merges[${i}]`, `must be two tokens, but is ${JSON.stringify(merge)?.slice(0, 60)}`);
    }
    const whole = (parts as string[]).join("");
    if (!Object.hasOwn(vocab, whole)) {
      fail(`model.merges[${i}]`, `${JSON.stringify(whole.slice(0, 40))} is not in the vocabulary`);
    }
  }

  if (added.size < json.added_tokens.length) fail("added_tokens", "lists a token twice");
  json.added_tokens.forEach(({ id, content }, i) => {
    const field = `added_tokens[${i}]`;
    checkId(() => `${field}.id`, id);
    if (tokenOf[id] !== undefined && tokenOf[id] !== content) {
      fail(`${field}.id`, `is ${id}, the id of ${JSON.stringify(tokenOf[id])} already`);
    }
    if (Object.hasOwn(vocab, content) && vocab[content] !== id) {
      fail(`${field}.id`, `is ${id}, but the vocabulary gives ${JSON.stringify(content)} the id ${vocab[content]}`);
    }
    tokenOf[id] = content;
  });

  checkPatterns(json.pre_tokenizer, "pre_tokenizer", fail);
  return { ...json, tokenOf };
}

/** A pattern is compiled and run on users' text; one of unreasonable length is not a tokenizer's. */
function checkPatterns(
  value: unknown,
  field: string,
  fail: (field: string, problem: string) => never,
  depth = 0,
): void {
  if (depth > 8) fail(field, "is nested too deeply");
  if (typeof value === "string" && value.length > MAX_PATTERN_LENGTH) {
    fail(field, `has ${value.length} characters; at most ${MAX_PATTERN_LENGTH} are allowed`);
  }
  if (typeof value !== "object" || value === null) return;
  const entries = Object.entries(value);
  if (entries.length > 64) fail(field, "has more than 64 entries");
  for (const [key, child] of entries) checkPatterns(child, `${field}.${key}`, fail, depth + 1);
}
