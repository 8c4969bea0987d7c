import type { ByteAutomaton, TableAutomaton } from "../automaton.ts";
import { Budget } from "../budget.ts";
import { combine } from "../combine.ts";
import { ConstraintError } from "../errors.ts";
import { FORMATS, PATTERNS_OF_FORMATS } from "../formats.ts";
import { Grammar, type GrammarState, type Rule } from "../grammar.ts";
import { LIMITS } from "../limits.ts";
import { integers, numbers } from "../numbers.ts";
import { compileRegex } from "../regex-compile.ts";
import { ANY_TEXT, literal, parseRegex, type RegexNode, sequence } from "../regex-parse.ts";
import { ANY_STRING, oneOfTexts, quoted, StringAutomaton, textThen } from "../strings.ts";
import { SchemaDocument } from "./document.ts";
import { TYPES, type TypeName } from "./keywords.ts";
import { type Conjunction, canonical, type Plain, propertyOf } from "./plain.ts";

/**
 * White space between the parts of JSON. `flexible`: after `{ [ ,` and before `} ]` nothing, a space, or a line end with an
 * indentation of at most 32 spaces or tabs; after `:` nothing or a space. `compact`: none at all.
 */
export type JsonWhitespace = "flexible" | "compact";

export interface JsonOptions {
  /** Default `flexible`. */
  readonly whitespace?: JsonWhitespace;
}

/** How one of a value's alternatives is read. */
type Piece = { readonly automaton: ByteAutomaton } | { readonly rule: Rule };

const GAP = parseRegex("(?: |\\n[ \\t]{0,32})?");
const SPACE = parseRegex(" ?");
const NOTHING = literal("");

/**
 * A grammar of the JSON texts that meet a schema (draft 2020-12's usual part), written with the properties in the schema's
 * order.
 *
 * @throws ConstraintError naming what is not supported, contradicts itself or passes a limit, and where
 */
export function compileSchema(schema: unknown, options: JsonOptions = {}): { grammar: Grammar; root: Rule } {
  return new Compiler(schema, options).compile();
}

class Compiler {
  readonly #document: SchemaDocument;
  readonly #budget = new Budget();
  readonly #grammar = new Grammar();
  readonly #gap: RegexNode;
  readonly #space: RegexNode;
  readonly #automata = new Map<string, ByteAutomaton | undefined>();
  readonly #pieces = new Map<string, readonly Piece[]>();
  readonly #rules = new Map<string, Rule>();
  /** Rules that are referred to but not built: a list, so that deep schemas need no deep stack. */
  readonly #unbuilt: (() => void)[] = [];
  #tableBytes = 0;

  constructor(schema: unknown, { whitespace = "flexible" }: JsonOptions) {
    this.#document = new SchemaDocument(schema, { isEmpty: (plain) => this.#isEmpty(plain, 0), budget: this.#budget });
    this.#gap = whitespace === "flexible" ? GAP : NOTHING;
    this.#space = whitespace === "flexible" ? SPACE : NOTHING;
  }

  compile(): { grammar: Grammar; root: Rule } {
    const grammar = this.#grammar;
    const root = grammar.rule();
    const end = grammar.state(root);
    end.isFinal = true;
    this.#value(root.start, end, [this.#document.root]);
    for (let build = this.#unbuilt.pop(); build; build = this.#unbuilt.pop()) build();
    return { grammar, root };
  }

  /** Adds a value between two states. */
  #value(from: GrammarState, to: GrammarState, schemas: Conjunction): void {
    for (const piece of this.#piecesOf(schemas)) {
      if ("rule" in piece) from.edges.push({ kind: "rule", rule: piece.rule, to });
      else from.edges.push({ kind: "terminal", automaton: piece.automaton, to });
    }
  }

  #terminal(from: GrammarState, to: GrammarState, automaton: ByteAutomaton): void {
    from.edges.push({ kind: "terminal", automaton, to });
  }

  #piecesOf(schemas: Conjunction): readonly Piece[] {
    const key = this.#document.key(schemas);
    let pieces = this.#pieces.get(key);
    if (!pieces) {
      pieces = unique(
        this.#document.alternatives(schemas).flatMap((plain, i) => this.#piecesOfPlain(plain, `${key}/${i}`)),
      );
      this.#pieces.set(key, pieces);
    }
    return pieces;
  }

  #piecesOfPlain(plain: Plain, key: string): Piece[] {
    const pieces: Piece[] = [];
    const add = (automaton: ByteAutomaton | undefined): void => {
      if (automaton) pieces.push({ automaton });
    };
    if (plain.values) {
      const texts = this.#values(plain).map((value) => JSON.stringify(value));
      if (texts.length > 0) add(this.#texts(texts));
      return pieces;
    }
    for (const type of typesOf(plain)) {
      if (type === "null") add(this.#texts(["null"]));
      else if (type === "boolean") add(this.#texts(["false", "true"]));
      else if (type === "string") add(this.#string(plain));
      else if (type === "number" || type === "integer") add(this.#number(plain, type));
      else if (type === "object") pieces.push({ rule: this.#rule(`${key}o`, (rule) => this.#object(rule, plain)) });
      else pieces.push({ rule: this.#rule(`${key}a`, (rule) => this.#array(rule, plain)) });
    }
    return pieces;
  }

  #rule(key: string, build: (rule: Rule) => void): Rule {
    let rule = this.#rules.get(key);
    if (!rule) {
      const made = this.#grammar.rule();
      this.#rules.set(key, (rule = made));
      this.#unbuilt.push(() => build(made));
    }
    return rule;
  }

  /** An automaton by what makes it: each is made once, and their tables are counted. */
  #automaton(key: string, make: () => ByteAutomaton | undefined): ByteAutomaton | undefined {
    if (this.#automata.has(key)) return this.#automata.get(key);
    const made = make();
    this.#automata.set(key, made);
    this.#tableBytes += made && "table" in made ? (made as TableAutomaton).table.byteLength : 0;
    if (this.#tableBytes > LIMITS.tableBytes) {
      throw new ConstraintError(
        `the schema's patterns need more than ${LIMITS.tableBytes >> 20} MB; make them simpler`,
      );
    }
    return made;
  }

  #texts(texts: readonly string[]): ByteAutomaton {
    return this.#automaton(JSON.stringify(texts), () => oneOfTexts(texts))!;
  }
  /** A text with the white space that may be behind it. */
  #mark(text: string, space: "gap" | "space"): ByteAutomaton {
    const after = space === "gap" ? this.#gap : this.#space;
    return this.#automaton(`${space} behind ${text}`, () => textThen(text, after))!;
  }
  #closing(bracket: "}" | "]"): ByteAutomaton {
    return this.#automaton(bracket, () => compileRegex(sequence(this.#gap, literal(bracket)), "utf8", this.#budget))!;
  }

  #object(rule: Rule, plain: Plain): void {
    const grammar = this.#grammar;
    const { required, additional, isClosed } = plain;
    const mayBe = this.#names(plain);
    const names = [...new Set([...plain.properties.keys(), ...required])].filter(
      (name) => required.has(name) || accepts(mayBe, JSON.stringify(name)),
    );
    // A required name that may not be: the rule has no end, and goes.
    if ([...required].some((name) => !accepts(mayBe, JSON.stringify(name)))) return;
    const end = grammar.state(rule);
    end.isFinal = true;
    // `first`: no property is written yet. `later`: the next one needs a comma.
    let first = grammar.state(rule);
    let later = grammar.state(rule);
    this.#terminal(rule.start, first, this.#mark("{", "gap"));
    const comma = this.#mark(",", "gap");
    for (const name of names) {
      const [value, afterComma] = [grammar.state(rule), grammar.state(rule)];
      const [nextFirst, nextLater] = [grammar.state(rule), grammar.state(rule)];
      const written = this.#mark(`${JSON.stringify(name)}:`, "space");
      this.#terminal(first, value, written);
      this.#terminal(later, afterComma, comma);
      this.#terminal(afterComma, value, written);
      this.#value(value, nextLater, propertyOf(plain, name));
      if (!required.has(name)) {
        first.edges.push({ kind: "empty", to: nextFirst });
        later.edges.push({ kind: "empty", to: nextLater });
      }
      first = nextFirst;
      later = nextLater;
    }
    this.#terminal(first, end, this.#texts(["}"]));
    this.#terminal(later, end, this.#closing("}"));
    const others = additional ?? (plain.properties.size + required.size > 0 || isClosed ? undefined : []);
    if (!others || !mayBe) return;
    const [key, colon, value] = [grammar.state(rule), grammar.state(rule), grammar.state(rule)];
    const written = this.#otherNames(mayBe, names);
    if (!written) return;
    this.#terminal(first, colon, written);
    this.#terminal(later, key, comma);
    this.#terminal(key, colon, written);
    this.#terminal(colon, value, this.#mark(":", "space"));
    this.#value(value, later, others);
  }

  /** The names that properties may have. */
  #names({ names, path }: Plain): ByteAutomaton | undefined {
    if (names.length === 0) return ANY_STRING;
    const plains = this.#document.alternatives(names).filter((plain) => typesOf(plain).includes("string"));
    if (plains.length > 1) {
      throw new ConstraintError(`the schema at ${path}/propertyNames has alternatives, which is not supported there`);
    }
    const [plain] = plains;
    if (!plain?.values) return plain && this.#string(plain);
    const texts = this.#values({ ...plain, types: ["string"] }).map((value) => JSON.stringify(value));
    return texts.length > 0 ? this.#texts(texts) : undefined;
  }

  /** Names but these. */
  #otherNames(mayBe: ByteAutomaton, names: readonly string[]): ByteAutomaton | undefined {
    if (names.length === 0) return mayBe;
    const others = oneOfTexts(names.map((name) => JSON.stringify(name)));
    if (mayBe !== ANY_STRING) return combine(mayBe, others, "without", this.#budget);
    const key = `not${JSON.stringify([...names].sort())}`;
    return this.#automaton(key, () => combine(mayBe, others, "without", this.#budget));
  }

  #array(rule: Rule, plain: Plain): void {
    const grammar = this.#grammar;
    const { prefix, items, isClosed } = plain;
    // A tuple is written whole unless told otherwise.
    const max = Math.min(
      plain.maxItems,
      items || !(prefix.length > 0 || isClosed) ? plain.maxItems : Math.max(prefix.length, plain.minItems),
    );
    const min = Math.max(plain.minItems, Math.min(prefix.length, max));
    const end = grammar.state(rule);
    end.isFinal = true;
    const begin = grammar.state(rule);
    this.#terminal(rule.start, begin, this.#mark("[", "gap"));
    if (min === 0) this.#terminal(begin, end, this.#texts(["]"]));
    if (max < 1 || max < min) return;
    const last = Number.isFinite(max) ? max : Math.max(min, prefix.length, 1);
    if (last > LIMITS.items) {
      throw new ConstraintError(`the schema at ${plain.path}/maxItems may be at most ${LIMITS.items}`);
    }
    let value = begin;
    for (let count = 1; count <= last; count++) {
      const behind = grammar.state(rule);
      this.#value(value, behind, prefix[count - 1] ?? items ?? []);
      if (count >= min) this.#terminal(behind, end, this.#closing("]"));
      value = grammar.state(rule);
      if (count < max) this.#terminal(behind, value, this.#mark(",", "gap"));
      if (count === last && count < max) this.#value(value, behind, items ?? []);
    }
  }

  #string(plain: Plain): ByteAutomaton | undefined {
    const { patterns, formats, minLength, maxLength } = plain;
    if (minLength > maxLength) return undefined;
    const key = `string${JSON.stringify([patterns, formats, minLength, String(maxLength)])}`;
    return this.#automaton(key, () => {
      const length =
        minLength === 0 && maxLength === Number.POSITIVE_INFINITY
          ? ANY_STRING
          : new StringAutomaton(minLength, maxLength);
      const nodes = [
        ...formats.map((format) => formatOf(format, plain.path)),
        ...patterns
          .filter((p) => !formats.includes(PATTERNS_OF_FORMATS[p]))
          .map((p) => patternOf(p, plain.path, this.#budget)),
      ];
      let found: ByteAutomaton | undefined = length;
      for (const node of nodes) {
        const content = compileRegex(node, "json", this.#budget);
        if (!content || !found) return undefined;
        found = found === ANY_STRING ? quoted(content) : combine(quoted(content), found, "and", this.#budget);
      }
      return found;
    });
  }

  #number({ min, max, multiples }: Plain, type: "number" | "integer"): ByteAutomaton | undefined {
    const key = `number${JSON.stringify([type, min, max, multiples])}`;
    // All supported multiples are whole.
    const isWhole = type === "integer" || multiples.length > 0;
    return this.#automaton(key, () =>
      isWhole ? integers(min, max, multiples, this.#budget) : numbers(min, max, this.#budget),
    );
  }

  /** The values of an enum that meet the other keywords too. */
  #values(plain: Plain): unknown[] {
    const { values: _, ...others } = plain;
    const seen = new Set<string>();
    return plain.values!.filter((value) => {
      const key = canonical(value);
      if (seen.has(key)) return false;
      seen.add(key);
      const type = typesOf(others).find((name) => isOfType(value, name));
      if (!type) return false;
      if (type === "string") return accepts(this.#string(others), JSON.stringify(value));
      if (type === "number" || type === "integer") {
        return others.min || others.max || others.multiples.length > 0 ? isWithin(value as number, others) : true;
      }
      if (type === "object" || type === "array") {
        const asks = others.properties.size + others.required.size + others.prefix.length + others.minItems;
        if (asks > 0 || others.additional || others.items || others.maxItems !== Number.POSITIVE_INFINITY) {
          throw new ConstraintError(
            `the schema at ${plain.path} has enum or const of objects or lists beside other keywords for them, which is not supported`,
          );
        }
      }
      return true;
    });
  }

  /** Is it certain that no value meets it? */
  #isEmpty(plain: Plain, depth: number): boolean {
    if (plain.values) return this.#values(plain).length === 0;
    const isNone = (schemas: Conjunction): boolean =>
      depth < 4 && this.#document.alternatives(schemas).every((inner) => this.#isEmpty(inner, depth + 1));
    return typesOf(plain).every((type) => {
      if (type === "string") return this.#string(plain) === undefined;
      if (type === "number" || type === "integer") return this.#number(plain, type) === undefined;
      if (type === "object") return [...plain.required].some((name) => isNone(propertyOf(plain, name)));
      if (type === "array") return plain.minItems > plain.maxItems;
      return false;
    });
  }
}

function typesOf({ types }: Plain): readonly TypeName[] {
  const all = types ?? TYPES;
  // Every integer is a number.
  return all.includes("number") ? all.filter((type) => type !== "integer") : all;
}

function isOfType(value: unknown, type: TypeName): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}

function isWithin(value: number, { min, max, multiples }: Plain): boolean {
  if (min && (value < min.value || (value === min.value && min.isExclusive))) return false;
  if (max && (value > max.value || (value === max.value && max.isExclusive))) return false;
  return multiples.every((multiple) => value % multiple === 0);
}

function accepts(automaton: ByteAutomaton | undefined, text: string): boolean {
  if (!automaton) return false;
  let state = automaton.start;
  for (const byte of new TextEncoder().encode(text)) {
    state = automaton.next(state, byte);
    if (state < 0) return false;
  }
  return automaton.accepts(state);
}

function unique(pieces: readonly Piece[]): Piece[] {
  const seen = new Set<unknown>();
  return pieces.filter((piece) => {
    const what = "rule" in piece ? piece.rule : piece.automaton;
    return !seen.has(what) && seen.add(what);
  });
}

function formatOf(format: string, path: string): RegexNode {
  if (!Object.hasOwn(FORMATS, format)) {
    const known = Object.keys(FORMATS).join(", ");
    throw new ConstraintError(
      `the schema at ${path} has format ${JSON.stringify(format)}, which is not supported; supported are ${known}`,
    );
  }
  return parseRegex(FORMATS[format]);
}

/** A pattern may match anywhere in the text. */
function patternOf(pattern: string, path: string, budget: Budget): RegexNode {
  try {
    return sequence(
      ANY_TEXT,
      parseRegex(PATTERNS_OF_FORMATS[pattern] ? `^(?:${FORMATS[PATTERNS_OF_FORMATS[pattern]]})$` : pattern, budget),
      ANY_TEXT,
    );
  } catch (error) {
    if (!(error instanceof ConstraintError)) throw error;
    throw new ConstraintError(`the schema at ${path}/pattern: ${error.message}`);
  }
}
