import type { TokenConstraint } from "../engine/types.ts";
import { Budget } from "./budget.ts";
import { CompiledConstraint, type ConstraintOptions } from "./constraint.ts";
import { ConstraintError } from "./errors.ts";
import { grammarOf } from "./grammar.ts";
import { compileRegex } from "./regex-compile.ts";
import { parseRegex } from "./regex-parse.ts";
import { compileSchema, type JsonOptions } from "./schema/compile.ts";
import { oneOfTexts } from "./strings.ts";
import { type ConstraintTokenizer, tokenTries } from "./token-trie.ts";

export type { ConstraintOptions } from "./constraint.ts";
export { ConstraintError } from "./errors.ts";
export { LIMITS as CONSTRAINT_LIMITS } from "./limits.ts";
export type { JsonOptions, JsonWhitespace } from "./schema/compile.ts";
export type { ConstraintTokenizer } from "./token-trie.ts";

/** Makes the constraint of one answer. Keep it: what is learned about states is shared by all that it makes. */
export type ConstraintFactory = () => TokenConstraint;

/**
 * Does ahead of time what the first constraint over a tokenizer would have to wait for: the tree of its tokens, which is kept.
 * Some 0.1 s for 150,000 tokens.
 */
export function prepareConstraints(tokenizer: ConstraintTokenizer): void {
  tokenTries(tokenizer);
}

/**
 * Answers that are JSON and meet a schema: draft 2020-12's `type enum const allOf anyOf oneOf $ref $defs properties required
 * additionalProperties propertyNames items prefixItems minItems maxItems minLength maxLength pattern format minimum maximum
 * exclusiveMinimum exclusiveMaximum multipleOf`, and OpenAPI's `nullable`. Other keywords that ask for something are
 * refused, never ignored.
 *
 * What is written is a part of what the schema allows: properties stand in the schema's order; objects with `properties`
 * have no others unless `additionalProperties` says so, and tuples no more items than `prefixItems` unless `items` does;
 * strings escape only what must be escaped; numbers have at most 15 digits on each side of the point. `oneOf` is followed
 * where its alternatives exclude each other.
 *
 * @throws ConstraintError naming what is not supported, contradicts itself or passes a limit, and where
 *
 * @example
 * const constraint = jsonSchemaConstraint({ type: "object", properties: { name: { type: "string" } } }, qwen.tokenizer);
 * engine.generate({ tokens, constraint });
 */
export function jsonSchemaConstraint(
  schema: unknown,
  tokenizer: ConstraintTokenizer,
  options: ConstraintOptions & JsonOptions = {},
): ConstraintFactory {
  const compiled = new CompiledConstraint(compileSchema(schema, options), tokenizer, options);
  return () => compiled.begin();
}

/** Answers that are a JSON object, whatever is in it; or, with `top: "any"`, any JSON value. */
export function jsonConstraint(
  tokenizer: ConstraintTokenizer,
  { top = "object", ...options }: ConstraintOptions & JsonOptions & { readonly top?: "object" | "any" } = {},
): ConstraintFactory {
  return jsonSchemaConstraint(top === "object" ? { type: "object" } : true, tokenizer, options);
}

/**
 * Answers that a regular expression matches as a whole: the regular part of ECMAScript's syntax with the `u` flag, without
 * backreferences, lookaround and `\b`. It becomes an automaton; nothing backtracks.
 *
 * @throws ConstraintError naming the place in the pattern, or the limit
 */
export function regexConstraint(
  pattern: string,
  tokenizer: ConstraintTokenizer,
  options: ConstraintOptions = {},
): ConstraintFactory {
  const budget = new Budget();
  const automaton = compileRegex(parseRegex(pattern, budget), "utf8", budget);
  if (!automaton) throw new ConstraintError(`no text matches the pattern ${JSON.stringify(pattern)}`);
  const compiled = new CompiledConstraint(grammarOf(automaton), tokenizer, options);
  return () => compiled.begin();
}

/** Answers that are one of the given texts. @throws ConstraintError where there are none or too many */
export function choiceConstraint(
  choices: readonly string[],
  tokenizer: ConstraintTokenizer,
  options: ConstraintOptions = {},
): ConstraintFactory {
  if (choices.length === 0) throw new ConstraintError("there must be at least one choice");
  const compiled = new CompiledConstraint(grammarOf(oneOfTexts(choices)), tokenizer, options);
  return () => compiled.begin();
}
