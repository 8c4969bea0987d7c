import { z } from "zod";
import { ConstraintError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

export type SchemaNode = boolean | Readonly<Record<string, unknown>>;

export const TYPES = ["null", "boolean", "string", "number", "integer", "array", "object"] as const;
export type TypeName = (typeof TYPES)[number];

/** Keywords that say nothing about what is valid. */
const ANNOTATIONS = new Set([
  ..."$schema $id $comment $defs definitions title description default examples example deprecated".split(" "),
  ..."readOnly writeOnly contentEncoding contentMediaType discriminator externalDocs xml".split(" "),
]);

const child = z.custom<SchemaNode>(
  (value) => typeof value === "boolean" || (typeof value === "object" && value !== null && !Array.isArray(value)),
  { error: "must be a schema (an object, true or false)" },
);
const children = z.record(z.string(), child, { error: "must be an object of schemas" });
const list = z.array(child, { error: "must be a list of schemas" });
const alternatives = list.min(1, { error: "must have at least one schema" });
const text = z.string({ error: "must be text" });
const finite = z.number({ error: "must be a finite number" });
const count = z
  .int({ error: "must be a whole number of at least 0" })
  .min(0, { error: "must be a whole number of at least 0" });
const items = count.max(LIMITS.items, { error: `may be at most ${LIMITS.items}` });
const type = z.enum(TYPES, { error: `must be one of ${TYPES.join(", ")}` });
const closed = z.literal(false, { error: "is supported as false only" });

/** Keywords that are followed, and what they must look like. */
const keywords = z.strictObject({
  $ref: text.optional(),
  type: z
    .union([type, z.array(type).min(1)], { error: `must be one of ${TYPES.join(", ")}, or a list of these` })
    .optional(),
  nullable: z.boolean({ error: "must be true or false" }).optional(),
  enum: z
    .array(z.unknown(), { error: "must be a list" })
    .min(1, { error: "must have at least one value" })
    .max(LIMITS.choices, { error: `may have at most ${LIMITS.choices} values` })
    .optional(),
  const: z.unknown().optional(),
  allOf: alternatives.optional(),
  anyOf: alternatives.optional(),
  oneOf: alternatives.optional(),
  minLength: count.optional(),
  maxLength: count.optional(),
  pattern: text.optional(),
  format: text.optional(),
  minimum: finite.optional(),
  maximum: finite.optional(),
  exclusiveMinimum: finite.optional(),
  exclusiveMaximum: finite.optional(),
  multipleOf: z
    .int({ error: "is supported for whole numbers only" })
    .min(1, { error: "must be at least 1" })
    .max(LIMITS.multipleOf, { error: `may be at most ${LIMITS.multipleOf}` })
    .optional(),
  properties: children.optional(),
  required: z.array(text, { error: "must be a list of names" }).optional(),
  additionalProperties: child.optional(),
  propertyNames: child.optional(),
  unevaluatedProperties: closed.optional(),
  items: child.optional(),
  prefixItems: list.optional(),
  minItems: items.optional(),
  maxItems: count.optional(),
  unevaluatedItems: closed.optional(),
  uniqueItems: closed.optional(),
});
export type Keywords = z.output<typeof keywords>;

/**
 * The keywords of one schema, its sub-schemas as they are.
 *
 * @param path where it stands, as a JSON pointer
 * @throws ConstraintError naming the place: a keyword that is not supported or not what it must be
 */
export function readKeywords(node: Readonly<Record<string, unknown>>, path: string): Keywords {
  const followed: Record<string, unknown> = {};
  for (const [keyword, value] of Object.entries(node)) {
    if (!ANNOTATIONS.has(keyword) && !keyword.startsWith("x-")) followed[keyword] = value;
  }
  const result = keywords.safeParse(followed);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue.code === "unrecognized_keys") {
    const known = Object.keys(keywords.shape).join(", ");
    throw new ConstraintError(
      `the schema at ${path} has ${JSON.stringify(issue.keys[0])}, which is not supported; supported are ${known}`,
    );
  }
  throw new ConstraintError(`the schema at ${[path, ...issue.path.map(String)].join("/")} ${issue.message}`);
}

/** Refuses a schema that is too large or too deep, before anything else looks at it. */
export function checkSize(schema: unknown): void {
  let size = 0;
  const open: { value: unknown; depth: number }[] = [{ value: schema, depth: 0 }];
  while (open.length > 0) {
    const { value, depth } = open.pop()!;
    if (depth > LIMITS.schemaDepth) {
      throw new ConstraintError(`the schema is nested more than ${LIMITS.schemaDepth} levels deep`);
    }
    size += typeof value === "string" ? value.length + 2 : 1;
    if (typeof value === "object" && value !== null) {
      for (const [key, inner] of Object.entries(value)) {
        size += Array.isArray(value) ? 1 : key.length + 4;
        open.push({ value: inner, depth: depth + 1 });
      }
    }
    if (size > LIMITS.schemaLength) {
      throw new ConstraintError(`the schema has more than ${LIMITS.schemaLength} characters`);
    }
  }
}
