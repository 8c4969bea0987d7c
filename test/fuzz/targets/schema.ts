import Ajv from "ajv/dist/2020.js";
import { draw, smallTokenizer } from "../../../packages/qwen/src/constraint/testing.ts";
import { ConstraintError, jsonSchemaConstraint } from "../../../packages/qwen/src/index.ts";
import { allowing, check, type FuzzTarget, textOf } from "../target.ts";

const tokenizer = smallTokenizer();
const ajv = new Ajv({ strict: false, validateFormats: false, logger: false });

const SEEDS = [
  {
    type: "object",
    properties: { a: { type: "integer", minimum: 0, maximum: 9 }, b: { type: "string" } },
    required: ["a"],
  },
  { enum: ["x", 1, null, { y: [] }] },
  { anyOf: [{ type: "array", items: { type: "boolean" }, maxItems: 3 }, { const: "é" }] },
  { $ref: "#/$defs/node", $defs: { node: { type: "array", items: { $ref: "#/$defs/node" }, maxItems: 1 } } },
  { type: "string", pattern: "^a+$", minLength: 1, maxLength: 4 },
  { type: ["number", "null"], multipleOf: 0.5, exclusiveMinimum: -2, exclusiveMaximum: 2 },
  { allOf: [{ type: "object", additionalProperties: { type: "null" } }, { propertyNames: { maxLength: 2 } }] },
  { type: "array", prefixItems: [{ type: "string", format: "date" }], items: false, minItems: 1 },
];

/** JSON schemas for answers: what is written under one meets it, as Ajv sees it. */
export const target: FuzzTarget = {
  words: Object.keys(Object.assign({}, ...SEEDS)).map((word) => `"${word}":`),
  maxLength: 1024,
  seeds: () => SEEDS.map((schema) => JSON.stringify(schema)),
  fuzz(data) {
    const schema = allowing([SyntaxError], () => JSON.parse(textOf(data)));
    if (schema === undefined) return;
    const make = allowing([ConstraintError], () => jsonSchemaConstraint(schema, tokenizer));
    if (!make) return;
    let state = 1 + data.length;
    const random = (): number => (state = (state * 48271) % 2147483647) / 2147483647;
    const text = draw(make(), tokenizer, { length: 10, random });
    if (text === undefined) return;
    const value: unknown = JSON.parse(text);
    const validate = compiled(schema);
    check(validate?.(value) ?? true, () => `${text} does not meet ${JSON.stringify(schema)}`);
  },
};

/** Undefined where Ajv knows more of the schema than there is to know, such as an `$id` it has seen. */
function compiled(schema: unknown): ((value: unknown) => boolean) | undefined {
  ajv.removeSchema();
  try {
    return ajv.compile(schema as object) as (value: unknown) => boolean;
  } catch {
    return undefined;
  }
}
