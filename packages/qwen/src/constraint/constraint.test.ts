import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { loadTokenizer } from "../tokenizer/load.ts";
import {
  ConstraintError,
  choiceConstraint,
  jsonConstraint,
  jsonSchemaConstraint,
  prepareConstraints,
  regexConstraint,
} from "./index.ts";
import { draw, isSet, meets, smallTokenizer, tokensOf } from "./testing.ts";
import { tokenTries } from "./token-trie.ts";

const tokenizer = smallTokenizer();
const { end } = tokenizer;

const SCRIPTS =
  "Adlm Ahom Arab Armn Avst Bali Bamu Batk Beng Bopo Brah Brai Bugi Buhd Cari Cakm Cham Cher Copt Cprt Cyrl Dsrt Dupl Elba Ethi Geor Goth Gran Grek Gujr Guru Hani Hang Hano Hatr Hebr Hira Java Kthi Knda Kana Khar Khmr".split(
    " ",
  );

describe("regular expressions", () => {
  const matches = (pattern: string, text: string): boolean => meets(regexConstraint(pattern, tokenizer)(), text, end);
  test("by hand", () => {
    expect(matches("(?:ab|c)+\\d{2,3}", "abcab123")).toBe(true);
    expect(matches("(?:ab|c)+\\d{2,3}", "abcab1")).toBe(false);
    expect(matches("[一-龥]{2}\\p{L}?", "中文é")).toBe(true);
    expect(matches("[^\\w\\s]", "€")).toBe(true);
    expect(matches("\\p{sc=Grek}".repeat(60), "α".repeat(60))).toBe(true);
    expect(matches("^a$|^b$", "b")).toBe(true);
    expect(matches("(?<year>\\d{4})-\\x41\\u{1F600}\\ud83d\\ude00", "2026-A😀😀")).toBe(true);
    expect(matches("", "")).toBe(true);
    expect(matches("a^b|c", "c")).toBe(true);
  });

  test("as JavaScript's own, on texts near and far", () => {
    const characters = fc.constantFrom("a", "b", "é", "中", "😀", "1", "-", "\n", " ");
    const atom = fc.constantFrom(
      "a",
      "b",
      ".",
      "\\d",
      "\\w",
      "\\W",
      "\\s",
      "[ab1]",
      "[^a]",
      "[a-é]",
      "中",
      "😀",
      "\\p{L}",
      "-",
      "é",
    );
    const { regex } = fc.letrec<{ regex: string }>((tie) => ({
      regex: fc.oneof(
        { depthSize: "small" },
        atom,
        fc.array(tie("regex"), { maxLength: 3 }).map((parts) => parts.join("")),
        fc.tuple(tie("regex"), tie("regex")).map(([a, b]) => `(?:${a}|${b})`),
        fc
          .tuple(tie("regex"), fc.constantFrom("*", "+", "?", "{2}", "{1,2}", "{0,3}?", "{2,}"))
          .map(([a, count]) => `(${a})${count}`),
        tie("regex").map((a) => `^${a}`),
        tie("regex").map((a) => `${a}$`),
      ),
    }));
    let positive = 0;
    fc.assert(
      fc.property(
        regex,
        fc.array(fc.array(characters, { maxLength: 5 }), { minLength: 4, maxLength: 4 }),
        (pattern, texts) => {
          const own = new RegExp(`^(?:${pattern})$`, "u");
          let make: ReturnType<typeof regexConstraint> | undefined;
          try {
            make = regexConstraint(pattern, tokenizer);
          } catch (error) {
            expect((error as Error).message).toContain("no text matches");
          }
          for (const text of texts.map((parts) => parts.join(""))) {
            const ours = make ? meets(make(), text, end) : false;
            expect([pattern, text, ours]).toEqual([pattern, text, own.test(text)]);
            if (ours) positive++;
          }
          let state = 1;
          const drawn =
            make &&
            draw(make(), tokenizer, { length: 8, random: () => (state = (state * 48271) % 2147483647) / 2147483647 });
          if (drawn !== undefined) expect([pattern, drawn, own.test(drawn)]).toEqual([pattern, drawn, true]);
        },
      ),
      { numRuns: 300 },
    );
    expect(positive).toBeGreaterThan(60);
  });

  test.each(["[^你]*", "[^世é]*x?", ".{0,2}", "(?:[^a]|a$)*", "[^\\u2028]*", "\\p{L}*", "[^]*", "(?:..)*"])(
    "the mask of %p says what each token's bytes say",
    (pattern) => {
      const constraint = regexConstraint(pattern, tokenizer)();
      for (const first of [undefined, 0x78]) {
        if (first !== undefined && isSet(constraint.allowed(), first)) constraint.accept(first);
        const mask = constraint.allowed();
        for (let token = 0; token < end - 1; token++) {
          const copy = constraint.clone();
          const isAllowed = tokenizer.tokens[token].every((byte) => {
            const may = isSet(copy.allowed(), byte);
            if (may) copy.accept(byte);
            return may;
          });
          expect([token, isSet(mask, token)]).toEqual([token, isAllowed]);
        }
      }
    },
  );

  const wrong: [string, string][] = [
    ["(?=a)", "lookahead"],
    ["(?<!a)b", "lookbehind"],
    ["(a)\\1", "refers to a group"],
    ["\\bword", "edges of words"],
    ["(?<a\\t>b)", "not a word"],
    ["(", "( without its )"],
    ["a)", ") without its ("],
    ["[a", "[ without its ]"],
    ["[b-a]", "range in a class"],
    ["a{2,1}", "end lies before"],
    ["a{9999}", "count above 1000"],
    ["a**", "two counts"],
    ["*", "nothing before it"],
    ["\\", "ends with a \\"],
    ["\\p{Nothing}", "names no property"],
    ["\\q", "means nothing"],
    ["\ud800", "lone surrogate"],
    ["(".repeat(60), "levels deep"],
    ["a".repeat(3000), "at most 2000"],
    ["(?:a|b)*a(?:a|b){20}", "states as an automaton"],
    ["(?:(?:(?:a{100}){100}){100}){100}", "states"],
    ["(?:(?:(?:(?:){1000}){1000}){1000}){1000}", "steps"],
    // Each property asks for all of Unicode, and there are hundreds.
    [SCRIPTS.map((script) => `\\p{sc=${script}}`).join(""), "steps"],
    ["a$b", "no text matches"],
  ];
  test.each(wrong.map(([pattern, reason]) => [reason, pattern] as const))("refused: %s", (reason, pattern) => {
    expect(() => regexConstraint(pattern, tokenizer)).toThrow(ConstraintError);
    expect(() => regexConstraint(pattern, tokenizer)).toThrow(reason);
  });

  test("any text is a pattern or an error with a reason", () => {
    const part = fc.constantFrom(
      ..."()[]{}|*+?^$\\.-,ab019dwspPuxk<>=!:中\n".split(""),
      "\ud83d",
      "{2,",
      "\\p{L}",
      "(?:",
      "[^",
      "{1,99}",
    );
    fc.assert(
      fc.property(
        fc.array(part, { maxLength: 30 }).map((parts) => parts.join("")),
        (pattern) => {
          try {
            const constraint = regexConstraint(pattern, tokenizer)();
            expect(tokensOf(constraint.allowed()).length).toBeGreaterThan(0);
          } catch (error) {
            expect(error).toBeInstanceOf(ConstraintError);
          }
        },
      ),
      { numRuns: 1500 },
    );
  });
});

describe("choices", () => {
  test("one of them, whole", () => {
    const make = choiceConstraint(["yes", "yes, sir", "不"], tokenizer);
    expect(["yes", "yes, sir", "不", "ye", "yes,", "no"].map((text) => meets(make(), text, end))).toEqual([
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
  });
  test("none or too many are refused", () => {
    expect(() => choiceConstraint([], tokenizer)).toThrow("at least one");
    expect(() => choiceConstraint(Array(10_001).fill("a"), tokenizer)).toThrow("at most 10000");
    expect(() => choiceConstraint(["a".repeat(200_000)], tokenizer)).toThrow("32768 bytes");
  });
});

describe("schemas that cannot be followed", () => {
  const deep = (levels: number): unknown => (levels === 0 ? {} : { type: "array", items: deep(levels - 1) });
  /** Each level refers to the next one twice. */
  const doubling = (last: unknown): unknown => ({
    $ref: "#/$defs/0",
    $defs: Object.fromEntries(
      Array.from({ length: 61 }, (_, i) => [
        i,
        i === 60 ? last : { anyOf: [1, 2].map(() => ({ $ref: `#/$defs/${i + 1}` })) },
      ]),
    ),
  });
  const refused: [unknown, string][] = [
    [
      { type: "object", properties: { a: { uniqueItems: true } } },
      "#/properties/a/uniqueItems is supported as false only",
    ],
    [{ items: { not: {} } }, '#/items has "not", which is not supported'],
    [{ if: {} }, '"if"'],
    [{ patternProperties: {} }, '"patternProperties"'],
    [{ minProperties: 1 }, '"minProperties"'],
    [{ type: "strin" }, "#/type must be one of null, boolean"],
    [{ minLength: -1 }, "#/minLength must be a whole number"],
    [{ multipleOf: 0.1 }, "#/multipleOf is supported for whole numbers only"],
    [{ exclusiveMinimum: true }, "#/exclusiveMinimum must be a finite number"],
    [{ items: [{}] }, "#/items must be a schema"],
    [{ $ref: "https://example.com/x" }, "lies outside the schema"],
    [{ $ref: "#/$defs/none" }, "does not exist"],
    [{ $ref: "#/__proto__" }, "does not exist"],
    [{ $ref: "#" }, "contradicts itself"],
    [{ type: "object", properties: { a: { $ref: "#" } }, required: ["a"] }, "contradicts itself"],
    [{ type: "integer", minimum: 2, maximum: 1 }, "contradicts itself"],
    [{ type: "string", pattern: "^a{3}$", maxLength: 2 }, "contradicts itself"],
    [{ enum: [1, 2], type: "string" }, "contradicts itself"],
    [{ type: "object", required: ["a"], additionalProperties: false }, "contradicts itself"],
    [false, "contradicts itself"],
    [{ type: "string", pattern: "(?=a)" }, "#/pattern: the pattern"],
    [{ type: "string", format: "regex" }, 'format "regex", which is not supported'],
    [{ oneOf: [{ type: "number" }, { type: "integer" }] }, "may both be met"],
    [{ type: "array", maxItems: 100_000 }, "maxItems may be at most 4096"],
    [deep(200), "levels deep"],
    [{ description: "x".repeat(300_000) }, "more than 262144 characters"],
    [{ anyOf: Array.from({ length: 300 }, (_, i) => ({ const: i })) }, "more than 256 alternatives"],
    [
      { allOf: Array.from({ length: 20 }, () => ({ anyOf: [{ minLength: 1 }, { maxLength: 5 }] })) },
      "more than 256 alternatives",
    ],
    [doubling({ type: "string" }), "more than 256 alternatives"],
    [doubling(false), "steps"],
    [
      { anyOf: Array.from({ length: 200 }, (_, i) => ({ type: "string", pattern: `${i}.{0,400}a.{0,400}b` })) },
      "states",
    ],
    [
      {
        type: "object",
        properties: Object.fromEntries(
          Array.from({ length: 500 }, (_, i) => [
            `p${i}`,
            { type: "string", pattern: `^[a-z${i}]{0,300}${i}[^x]{0,9}$` },
          ]),
        ),
      },
      "steps",
    ],
    [{ enum: Array.from({ length: 20_000 }, (_, i) => i) }, "at most 10000 values"],
    [null, "must be an object, true or false"],
    [[], "must be an object, true or false"],
  ];
  test.each(refused.map(([schema, reason]) => [reason, schema] as const))("%s", (reason, schema) => {
    expect(() => jsonSchemaConstraint(schema, tokenizer)).toThrow(ConstraintError);
    expect(() => jsonSchemaConstraint(schema, tokenizer)).toThrow(reason);
  });

  test("whatever JSON it is, there is a constraint or an error with a reason", () => {
    const names =
      "type enum const anyOf oneOf allOf $ref $defs properties required items prefixItems minItems maxItems minLength maxLength pattern format minimum maximum multipleOf additionalProperties nullable title not".split(
        " ",
      );
    const types = ["string", "object", "array", "number", "integer", "null", "boolean"];
    const { value } = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { depthSize: "medium", maxDepth: 7 },
        fc.constantFrom(
          ...types,
          "#",
          "#/$defs/a",
          "#/properties/a",
          "date",
          "[a-z]+",
          "a|b",
          "",
          null,
          true,
          false,
          0,
          1,
          7,
          1e9,
          -3.5,
        ),
        fc.dictionary(fc.constantFrom(...names), tie("value"), { maxKeys: 5 }),
        fc.dictionary(fc.constantFrom("a", "b", "type"), tie("value"), { maxKeys: 3 }),
        fc.array(tie("value"), { maxLength: 4 }),
        tie("value").map((properties) => ({ type: "object", properties: { a: properties } })),
        tie("value").map((items) => ({ type: "array", items })),
        fc.array(tie("value"), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
      ),
    }));
    let compiled = 0;
    fc.assert(
      fc.property(value, (schema) => {
        try {
          const constraint = jsonSchemaConstraint(schema, tokenizer)();
          expect(tokensOf(constraint.allowed()).length).toBeGreaterThan(0);
          compiled++;
        } catch (error) {
          if (!(error instanceof ConstraintError)) throw error;
        }
      }),
      { numRuns: 1500 },
    );
    expect(compiled).toBeGreaterThan(150);
  });
});

describe("one answer's constraint", () => {
  test("refuses what was not allowed and goes on from where it was", () => {
    const constraint = regexConstraint("ab", tokenizer)();
    expect(() => constraint.accept(0x62)).toThrow(RangeError);
    expect(() => constraint.accept(end)).toThrow("is not allowed here");
    expect(() => constraint.accept(1e9)).toThrow(RangeError);
    constraint.accept(0x61);
    const copy = constraint.clone();
    constraint.accept(0x62);
    expect(tokensOf(constraint.allowed())).toEqual([end]);
    expect(tokensOf(copy.allowed())).toEqual([0x62]);
    constraint.accept(end);
  });
  test("end tokens can be named, and must exist", () => {
    const make = regexConstraint("a?", tokenizer, { endTokens: [end, end - 1] });
    expect(tokensOf(make().allowed())).toEqual([0x61, end - 1, end]);
    expect(() => regexConstraint("a", { ...tokenizer, eosTokenId: undefined })).toThrow("no end token");
  });
  test("control tokens and rows without a token are never allowed", () => {
    const mask = regexConstraint("[^]*|.*", tokenizer)().allowed();
    expect(isSet(mask, end)).toBe(true);
    expect(isSet(mask, end - 1)).toBe(false);
    for (let token = end + 1; token < tokenizer.size; token++) expect(isSet(mask, token)).toBe(false);
  });
  test("deep nesting is followed without deep recursion, and forgotten where it becomes too much", () => {
    const make = jsonConstraint(tokenizer, { top: "any" });
    const constraint = make();
    const other = make();
    other.accept(0x5b);
    const levels = 12_000;
    for (let i = 0; i < levels; i++) constraint.accept(0x5b);
    for (let i = 0; i < levels; i++) constraint.accept(0x5d);
    expect(isSet(constraint.allowed(), end)).toBe(true);
    other.accept(0x5d);
    expect(tokensOf(other.allowed())).toEqual([end]);
  });
});

/** Texts that can be read in many ways, and by what stands in them in others. */
const ambiguous = {
  anyOf: Array.from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,;.:+", (char) => ({
    type: "string",
    pattern: `^[^${char}]*$`,
  })),
};

const REAL = process.env.QWEN_REAL_MODEL ?? join(homedir(), ".cache/qwen-real/hf");
const isThere = existsSync(join(REAL, "tokenizer.json"));
if (!isThere) console.warn("skipped: no Qwen tokenizer in $QWEN_REAL_MODEL or ~/.cache/qwen-real/hf");

test.skipIf(!isThere)(
  "on Qwen's vocabulary every mask equals what each token's bytes say, and its own writing is allowed",
  async () => {
    const qwen = await loadTokenizer(REAL);
    const schema = {
      type: "object",
      properties: {
        name: { type: "string", maxLength: 12 },
        price: { type: "number", minimum: 0, maximum: 99.5 },
        tags: { type: "array", items: { enum: ["云", "存储", "free"] } },
        note: { type: "string", pattern: "^[a-z ]+$" },
      },
      required: ["name", "price", "tags", "note"],
    };
    const constraint = jsonSchemaConstraint(schema, qwen)();
    const text = JSON.stringify(
      { name: '飞跃云 "15GB"', price: 12.5, tags: ["云", "free"], note: "for all users" },
      null,
      2,
    );
    const steps = qwen.encode(text);
    for (const [i, token] of steps.entries()) {
      const mask = constraint.allowed();
      expect([qwen.decode([token]), isSet(mask, token)]).toEqual([qwen.decode([token]), true]);
      if (i % 9 === 0) {
        // The byte tokens alone decide what the others may do.
        for (let other = i; other < qwen.size; other += 61) {
          if (qwen.isSpecial(other)) continue;
          const copy = constraint.clone();
          let isAllowed = qwen.tokenBytes(other).length > 0;
          for (const byte of qwen.tokenBytes(other)) {
            if (!isAllowed) break;
            try {
              copy.accept(byteTokens(qwen)[byte]);
            } catch {
              isAllowed = false;
            }
          }
          if (isSet(mask, other) !== isAllowed)
            throw new Error(`${JSON.stringify(qwen.idToToken(other))} at token ${i}: ${isAllowed}`);
        }
      }
      constraint.accept(token);
    }
    expect(tokensOf(constraint.allowed())).toEqual([qwen.eosTokenId!]);
    expect(tokenTries(qwen).plainMask(2)).toBe(tokenTries(qwen).plainMask(2));
  },
);

test.skipIf(!isThere)("a mask that would take minutes is an error instead", async () => {
  const qwen = await loadTokenizer(REAL);
  const constraint = jsonSchemaConstraint(ambiguous, qwen)();
  constraint.accept(qwen.encode('"')[0]);
  expect(() => constraint.allowed()).toThrow("can be read in too many ways");
});

test("what was prepared is not made again for the first constraint", () => {
  const fresh = smallTokenizer();
  let read = 0;
  const counting = Object.assign(Object.create(fresh) as typeof fresh, {
    tokenBytes: (id: number) => {
      read++;
      return fresh.tokenBytes(id);
    },
  });
  prepareConstraints(counting);
  expect(read).toBeGreaterThanOrEqual(fresh.size);
  read = 0;
  jsonConstraint(counting)().allowed();
  expect(read).toBeLessThan(fresh.size);
});

let found: number[] | undefined;
function byteTokens(tokenizer: { size: number; tokenBytes(id: number): Uint8Array }): number[] {
  if (!found) {
    found = [];
    for (let id = tokenizer.size - 1; id >= 0; id--) {
      const bytes = tokenizer.tokenBytes(id);
      if (bytes.length === 1) found[bytes[0]] = id;
    }
  }
  return found;
}
