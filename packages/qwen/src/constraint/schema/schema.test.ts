import { describe, expect, test } from "bun:test";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import fc from "fast-check";
import { z } from "zod";
import { FORMATS } from "../formats.ts";
import { jsonConstraint, jsonSchemaConstraint } from "../index.ts";
import { draw, isSet, meets, smallTokenizer } from "../testing.ts";

const tokenizer = smallTokenizer();
const { end } = tokenizer;
const ajv = addFormats(new Ajv({ strict: false, allErrors: false }));

function accepts(schema: unknown, text: string, options = {}): boolean {
  return meets(jsonSchemaConstraint(schema, tokenizer, options)(), text, end);
}

/** Draws texts and holds each against ajv. */
function drawAll(
  schema: object | boolean,
  { count, seed, length = 40 }: { count: number; seed: number; length?: number },
): string[] {
  const validate = ajv.compile(schema);
  const make = jsonSchemaConstraint(schema, tokenizer);
  let state = seed >>> 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const texts: string[] = [];
  for (let i = 0; i < count; i++) {
    const text = draw(make(), tokenizer, { length, random });
    if (text === undefined) continue;
    const value: unknown = JSON.parse(text);
    if (!validate(value)) {
      throw new Error(`${ajv.errorsText(validate.errors)}: ${text} does not meet ${JSON.stringify(schema)}`);
    }
    texts.push(text);
  }
  return texts;
}

describe("what is allowed", () => {
  const person = {
    type: "object",
    properties: { name: { type: "string" }, age: { type: "integer" }, mail: { type: ["string", "null"] } },
    required: ["name", "mail"],
  };
  test("properties stand in the schema's order, optional ones may be left out", () => {
    expect(accepts(person, '{"name": "A", "age": 3, "mail": null}')).toBe(true);
    expect(accepts(person, '{"name":"A","mail":"x"}')).toBe(true);
    expect(accepts(person, '{\n  "name": "中",\n  "mail": ""\n}')).toBe(true);
    expect(accepts(person, '{"mail":"x","name":"A"}')).toBe(false);
    expect(accepts(person, '{"name":"A"}')).toBe(false);
    expect(accepts(person, '{"name":"A","mail":"x","more":1}')).toBe(false);
    expect(accepts(person, '{"name":"A","mail":"x",}')).toBe(false);
    expect(accepts(person, ' {"name":"A","mail":"x"}')).toBe(false);
    expect(accepts(person, '{"name":"A","mail":"x"} ')).toBe(false);
  });
  test("compact writing has no white space", () => {
    expect(accepts(person, '{"name":"A","mail":"x"}', { whitespace: "compact" })).toBe(true);
    expect(accepts(person, '{"name": "A","mail":"x"}', { whitespace: "compact" })).toBe(false);
  });
  test("additional properties are others than the named ones", () => {
    const schema = { type: "object", properties: { a: { type: "null" } }, additionalProperties: { type: "integer" } };
    expect(accepts(schema, '{"a":null,"b":1,"ab":2}')).toBe(true);
    expect(accepts(schema, '{"b":1}')).toBe(true);
    expect(accepts(schema, '{"b":1,"a":1}')).toBe(false);
    // One way to write a name, so an escape cannot hide one.
    expect(accepts(schema, '{"\\u0061":1}')).toBe(false);
    expect(accepts({ ...schema, additionalProperties: false }, '{"b":1}')).toBe(false);
  });
  test("lists", () => {
    const schema = { type: "array", items: { type: "boolean" }, minItems: 1, maxItems: 3 };
    expect(
      ["[]", "[true]", "[true, false,true]", "[true,true,true,true]", "[1]"].map((text) => accepts(schema, text)),
    ).toEqual([false, true, true, false, false]);
    const tuple = { type: "array", prefixItems: [{ type: "integer" }, { type: "string" }] };
    expect(['[1,"a"]', "[1]", '[1,"a",2]'].map((text) => accepts(tuple, text))).toEqual([true, false, false]);
    expect(accepts({ ...tuple, items: { type: "null" } }, '[1,"a",null,null]')).toBe(true);
    expect(accepts({ type: "array", items: { type: "null" } }, "[]")).toBe(true);
  });
  test("strings: length in characters, pattern anywhere unless anchored, escapes", () => {
    const length = { type: "string", minLength: 2, maxLength: 3 };
    expect(['"a"', '"中文"', '"😀😀😀"', '"abcd"', '"\\n\\""'].map((text) => accepts(length, text))).toEqual([
      false,
      true,
      true,
      false,
      true,
    ]);
    expect(accepts({ type: "string", pattern: "b+" }, '"abc"')).toBe(true);
    expect(accepts({ type: "string", pattern: "^b+$" }, '"abc"')).toBe(false);
    expect(accepts({ type: "string", pattern: '^"$' }, '"\\""')).toBe(true);
    expect(accepts({ type: "string", pattern: "^a", maxLength: 2 }, '"abc"')).toBe(false);
    expect(accepts({ type: "string" }, '"\\u0001"')).toBe(true);
    expect(accepts({ type: "string" }, '"\\u0041"')).toBe(false);
    expect(accepts({ type: "string" }, '"\n"')).toBe(false);
  });
  test("references, also to itself", () => {
    const tree = {
      $ref: "#/$defs/node",
      $defs: {
        node: {
          type: "object",
          properties: { value: { type: "integer" }, children: { type: "array", items: { $ref: "#/$defs/node" } } },
          required: ["value"],
        },
      },
    };
    expect(accepts(tree, '{"value":1,"children":[{"value":2,"children":[]},{"value":3}]}')).toBe(true);
    expect(accepts(tree, '{"value":1,"children":[{"children":[]}]}')).toBe(false);
  });
  test("alternatives, nullable, const, keywords beside each other", () => {
    const shape = {
      oneOf: [
        { type: "object", properties: { kind: { const: "circle" }, r: { type: "number" } }, required: ["kind", "r"] },
        { type: "object", properties: { kind: { const: "square" }, a: { type: "number" } }, required: ["kind", "a"] },
      ],
    };
    expect(accepts(shape, '{"kind":"circle","r":1.5}')).toBe(true);
    expect(accepts(shape, '{"kind":"square","r":1.5}')).toBe(false);
    expect(accepts({ type: "string", nullable: true }, "null")).toBe(true);
    expect(accepts({ const: { a: [1, "中"] } }, '{"a":[1,"中"]}')).toBe(true);
    expect(accepts({ enum: ["a", 1, null], type: ["string", "null"] }, "1")).toBe(false);
    const base = { type: "object", properties: { a: {}, b: {} }, anyOf: [{ required: ["a"] }, { required: ["b"] }] };
    expect(['{"a":1}', '{"b":[]}', "{}"].map((text) => accepts(base, text))).toEqual([true, true, false]);
    const all = {
      allOf: [{ type: "object", properties: { a: { type: "number" } } }, { properties: { a: { minimum: 3 } } }],
    };
    expect([accepts(all, '{"a":3}'), accepts(all, '{"a":2}')]).toEqual([true, false]);
  });
  test("names of properties", () => {
    const record = {
      type: "object",
      propertyNames: { pattern: "^[a-z]+$" },
      additionalProperties: { type: "integer" },
    };
    expect(['{"ab":1,"c":2}', '{"A":1}', "{}"].map((text) => accepts(record, text))).toEqual([true, false, true]);
    const few = { ...record, propertyNames: { enum: ["a", "b", 1] }, properties: { a: { const: 0 }, z: {} } };
    expect(['{"a":0,"b":2}', '{"b":2}', '{"z":0}', '{"a":1}'].map((text) => accepts(few, text))).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect(() => jsonSchemaConstraint({ ...few, required: ["z"] }, tokenizer)).toThrow("contradicts itself");
  });
  test("any JSON, and any JSON object", () => {
    const text = '{"a": [1, -2.5e3, "x\\\\", {"b": {}, "c": []}], "": null}';
    expect(meets(jsonConstraint(tokenizer)(), text, end)).toBe(true);
    expect(meets(jsonConstraint(tokenizer)(), "[1]", end)).toBe(false);
    expect(meets(jsonConstraint(tokenizer, { top: "any" })(), "[1]", end)).toBe(true);
    for (const wrong of ["{a:1}", '{"a":01}', '{"a":1.}', '{"a":tru}', '{"a":1', '{"a":"\\x"}', '{"a":+1}']) {
      expect(meets(jsonConstraint(tokenizer)(), wrong, end)).toBe(false);
    }
  });
});

describe("properties", () => {
  const small = fc.integer({ min: -60, max: 60 });
  const bounds = fc.record(
    { minimum: small.map((x) => x / 4), maximum: small.map((x) => x / 4 + 40) },
    { requiredKeys: [] },
  );
  const scalar = fc.oneof(
    fc.constantFrom({ type: "null" }, { type: "boolean" }, { type: "string" }, { type: "number" }, { type: "integer" }),
    fc.record(
      { type: fc.constant("string"), minLength: fc.nat(3), maxLength: fc.integer({ min: 3, max: 9 }) },
      { requiredKeys: ["type"] },
    ),
    fc.record({
      type: fc.constant("string"),
      pattern: fc.constantFrom(
        "^[a-z]{2,4}$",
        "a|b",
        "^\\d+(\\.\\d)?$",
        "[一-龥]+",
        "^(?:foo|bar)-",
        "\\s$",
        '["\\\\]',
        "^.{2}$",
        "^[^a]*$",
      ),
    }),
    fc.record({
      type: fc.constant("string"),
      format: fc.constantFrom(
        "date",
        "time",
        "date-time",
        "uuid",
        "email",
        "ipv4",
        "ipv6",
        "hostname",
        "duration",
        "uri",
      ),
    }),
    bounds.map((b) => ({ type: "integer", ...b })),
    bounds.map((b) => ({ type: "number", ...b })),
    small.map((x) => ({ type: "number", exclusiveMinimum: x / 8, exclusiveMaximum: x / 8 + 0.5 })),
    fc.integer({ min: 1, max: 12 }).map((multipleOf) => ({ type: "integer", multipleOf, minimum: 5 })),
    fc
      .array(fc.oneof(fc.string(), fc.integer(), fc.constant(null), fc.constant([1, { a: "b" }])), {
        minLength: 1,
        maxLength: 4,
      })
      .map((values) => ({ enum: values })),
    fc.oneof(fc.string({ unit: "grapheme" }), fc.boolean()).map((value) => ({ const: value })),
  );
  const { schema } = fc.letrec<{ schema: object; object: object; array: object; either: object }>((tie) => ({
    schema: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      scalar,
      tie("object"),
      tie("array"),
      tie("either"),
      fc.constant({ $ref: "#/$defs/list" }),
      fc.constant({}),
    ),
    object: fc
      .tuple(
        fc.dictionary(fc.oneof(fc.constantFrom("name", "type", "a"), fc.string({ maxLength: 5 })), tie("schema"), {
          maxKeys: 4,
        }),
        fc.option(fc.oneof(fc.boolean(), tie("schema")), { nil: undefined }),
        fc.nat(15),
      )
      .map(([properties, additional, needed]) => ({
        type: "object",
        properties,
        required: Object.keys(properties).filter((_, i) => needed & (1 << i)),
        ...(additional === undefined ? {} : { additionalProperties: additional }),
      })),
    array: fc
      .tuple(
        tie("schema"),
        fc.nat(2),
        fc.option(fc.integer({ min: 2, max: 4 }), { nil: undefined }),
        fc.array(tie("schema"), { maxLength: 2 }),
      )
      .map(([items, minItems, maxItems, prefixItems]) => ({
        type: "array",
        items,
        minItems,
        ...(maxItems === undefined ? {} : { maxItems }),
        ...(prefixItems.length === 0 ? {} : { prefixItems }),
      })),
    either: fc.array(tie("schema"), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
  }));
  const document = schema.map((root) => ({
    ...root,
    $defs: {
      list: {
        type: "object",
        properties: { value: { type: "integer" }, next: { anyOf: [{ $ref: "#/$defs/list" }, { type: "null" }] } },
        required: ["value", "next"],
      },
    },
  }));

  test("what is drawn parses and validates, and there is always a way on", () => {
    let drawn = 0;
    fc.assert(
      fc.property(document, fc.nat(), (root, seed) => {
        drawn += drawAll(root, { count: 3, seed }).length;
      }),
      { numRuns: 250 },
    );
    expect(drawn).toBeGreaterThan(600);
  });

  test.each(Object.keys(FORMATS))("texts of the format %s", (format) => {
    expect(drawAll({ type: "string", format }, { count: 25, seed: 11 }).length).toBeGreaterThan(12);
  });

  test("bounds of numbers, to the last digit", () => {
    const bound = fc.oneof(
      fc.double({ min: -1e6, max: 1e6, noNaN: true }),
      fc.double({ min: -1e-6, max: 1e-6, noNaN: true }),
      fc.integer({ min: -2000, max: 2000 }),
      fc.integer({ min: -2000, max: 2000 }).map((n) => n / 100),
    );
    fc.assert(
      fc.property(
        bound,
        bound,
        fc.nat(3),
        fc.nat(),
        fc.constantFrom("number", "integer"),
        (a, b, kinds, seed, type) => {
          const [low, high] = [Math.min(a, b), Math.max(a, b)];
          const schema = {
            type,
            [kinds & 1 ? "exclusiveMinimum" : "minimum"]: low,
            [kinds & 2 ? "exclusiveMaximum" : "maximum"]: high,
          };
          const isValid = ajv.compile(schema);
          let make: ReturnType<typeof jsonSchemaConstraint>;
          try {
            make = jsonSchemaConstraint(schema, tokenizer);
          } catch {
            // Nothing of 15 digits lies between them.
            expect(high - low).toBeLessThan(1);
            return;
          }
          drawAll(schema, { count: 2, seed, length: 6 });
          for (const x of [low, high, (low + high) / 2, Math.ceil(low), Math.floor(high), low - 1, high + 1, 0]) {
            const text = JSON.stringify(Number(x.toPrecision(9)));
            if (/e/.test(text) || /\.\d{9}/.test(text)) continue;
            expect([schema, text, meets(make(), text, end)]).toEqual([schema, text, isValid(JSON.parse(text))]);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test("schemas that zod writes, and what is drawn is accepted by zod itself", () => {
    const schema = z.object({
      id: z.uuid(),
      mail: z.email(),
      at: z.iso.datetime(),
      day: z.iso.date().optional(),
      site: z.url().nullable(),
      count: z.int().min(1).max(20),
      share: z.number().gt(0).lt(1),
      kind: z.enum(["a", "b"]),
      scores: z.record(z.string().max(5), z.number()),
      pair: z.tuple([z.string().max(5), z.boolean()]),
      shape: z.discriminatedUnion("type", [
        z.object({ type: z.literal("circle"), r: z.number().positive() }),
        z.object({ type: z.literal("square"), a: z.number().nonnegative() }),
      ]),
      get children() {
        return z
          .array(schema.pick({ kind: true, count: true }))
          .min(1)
          .max(2);
      },
    });
    for (const text of drawAll(z.toJSONSchema(schema), { count: 30, seed: 3, length: 120 })) {
      expect(schema.safeParse(JSON.parse(text)).error?.message).toBeUndefined();
    }
  });

  test("what JSON.stringify writes of a valid value is allowed", () => {
    const schema = {
      type: "object",
      additionalProperties: false,
      properties: {
        text: { type: "string" },
        count: { type: "integer", minimum: -1000, maximum: 1000 },
        share: { type: "number", minimum: 0, maximum: 1 },
        any: {},
        words: { type: "array", items: { type: "string", maxLength: 8 } },
      },
      required: ["text", "count", "share", "any", "words"],
    };
    const make = jsonSchemaConstraint(schema, tokenizer);
    const value = fc.record({
      text: fc.string({ unit: "binary" }),
      count: fc.integer({ min: -1000, max: 1000 }),
      share: fc.integer({ min: 0, max: 10_000 }).map((n) => n / 10_000),
      any: fc
        .jsonValue({ noUnicodeString: false, maxDepth: 3 })
        .filter((v) => !/\d{16}|e[+-]\d{3}|\.\d{15}/.test(JSON.stringify(v))),
      words: fc.array(fc.string({ unit: "binary", maxLength: 8 })),
    });
    fc.assert(
      fc.property(value, (v) => {
        const text = JSON.stringify(v);
        // No lone surrogates: they are no characters.
        fc.pre(text.isWellFormed() && !/\\ud[89a-f]/.test(text));
        expect(meets(make(), text, end)).toBe(true);
        expect(meets(make(), JSON.stringify(v, null, 2), end)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  test("no mask says more or less than the bytes do", () => {
    fc.assert(
      fc.property(document, fc.nat(), (root, seed) => {
        const constraint = jsonSchemaConstraint(root, tokenizer)();
        let state = seed;
        for (let step = 0; step < 12; step++) {
          const mask = constraint.allowed().slice();
          const allowed: number[] = [];
          for (let token = 0; token < tokenizer.size; token++) {
            const copy = constraint.clone();
            let isAllowed = tokenizer.tokenBytes(token).length > 0 && !tokenizer.isSpecial(token);
            for (const byte of isAllowed ? tokenizer.tokenBytes(token) : []) {
              try {
                copy.accept(byte);
              } catch {
                isAllowed = false;
                break;
              }
            }
            if (token !== end) expect([token, isSet(mask, token)]).toEqual([token, isAllowed]);
            if (isAllowed) allowed.push(token);
          }
          if (allowed.length === 0) return;
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          constraint.accept(allowed[state % allowed.length]);
        }
      }),
      { numRuns: 40 },
    );
  });
});
