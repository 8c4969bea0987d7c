import type { TableAutomaton } from "./automaton.ts";
import { Budget } from "./budget.ts";
import { type CodeRange, invert, LAST_CODE_POINT, normalize } from "./code-points.ts";
import { ConstraintError } from "./errors.ts";
import { LIMITS } from "./limits.ts";

/** What a regular expression says. Groups have no node: nothing is captured. */
export type RegexNode =
  | { readonly kind: "characters"; readonly ranges: readonly CodeRange[] }
  /** These bytes as they are, whatever the encoding of characters. */
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "sequence"; readonly parts: readonly RegexNode[] }
  | { readonly kind: "choice"; readonly parts: readonly RegexNode[] }
  | { readonly kind: "repeat"; readonly part: RegexNode; readonly min: number; readonly max: number }
  | { readonly kind: "begin" | "end" }
  /** A text of an automaton that is there already. */
  | { readonly kind: "automaton"; readonly automaton: TableAutomaton };

const DIGIT: readonly CodeRange[] = [[0x30, 0x39]];
const WORD: readonly CodeRange[] = normalize([...DIGIT, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]]);
/** White space and line ends of ECMAScript. */
const SPACE: readonly CodeRange[] = normalize([
  [9, 13],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
]);
const LINE_END: readonly CodeRange[] = [
  [10, 10],
  [13, 13],
  [0x2028, 0x2029],
];
const CLASSES: Readonly<Record<string, readonly CodeRange[]>> = {
  d: DIGIT,
  D: invert(DIGIT),
  w: WORD,
  W: invert(WORD),
  s: SPACE,
  S: invert(SPACE),
};
const CONTROLS: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, "0": 0 };

export const EVERYTHING: RegexNode = { kind: "characters", ranges: [[0, LAST_CODE_POINT]] };
export const ANY_TEXT: RegexNode = repeat(EVERYTHING, 0, Number.POSITIVE_INFINITY);

export function sequence(...parts: RegexNode[]): RegexNode {
  return parts.length === 1 ? parts[0] : { kind: "sequence", parts };
}
export function choice(...parts: RegexNode[]): RegexNode {
  return parts.length === 1 ? parts[0] : { kind: "choice", parts };
}
export function repeat(part: RegexNode, min: number, max: number): RegexNode {
  return { kind: "repeat", part, min, max };
}
export function literal(text: string): RegexNode {
  return { kind: "bytes", bytes: new TextEncoder().encode(text) };
}

/**
 * Reads a regular expression of the regular part of ECMAScript's syntax with the `u` flag: characters and escapes, classes,
 * `\p{…}`, groups, `|`, `* + ? {m,n}` (lazy ones mean the same), `^` and `$`. Backreferences, lookaround and `\b` are
 * refused.
 *
 * @throws ConstraintError naming the place
 */
export function parseRegex(pattern: string, budget = new Budget()): RegexNode {
  if (pattern.length > LIMITS.patternLength) {
    throw new ConstraintError(
      `the pattern has ${pattern.length} characters; at most ${LIMITS.patternLength} are allowed`,
    );
  }
  return new Parser(pattern, budget).parse();
}

/** Names of groups are those of variables. */
const GROUP_NAME = /^[$_\p{ID_Start}][$\p{ID_Continue}]*$/u;

class Parser {
  readonly #pattern: string;
  readonly #chars: readonly string[];
  readonly #budget: Budget;
  #at = 0;
  #depth = 0;

  constructor(pattern: string, budget: Budget) {
    this.#pattern = pattern;
    this.#budget = budget;
    this.#chars = Array.from(pattern);
  }

  parse(): RegexNode {
    const node = this.#choice();
    if (this.#at < this.#chars.length) this.#fail("has a ) without its (");
    return node;
  }

  #fail(problem: string): never {
    const shown = this.#pattern.length > 60 ? `${this.#pattern.slice(0, 60)}…` : this.#pattern;
    throw new ConstraintError(`the pattern ${JSON.stringify(shown)} ${problem}, at character ${this.#at + 1}`);
  }
  #peek(ahead = 0): string | undefined {
    return this.#chars[this.#at + ahead];
  }
  #eat(char: string): boolean {
    if (this.#peek() !== char) return false;
    this.#at++;
    return true;
  }

  #choice(): RegexNode {
    if (++this.#depth > LIMITS.patternDepth)
      this.#fail(`has groups more than ${LIMITS.patternDepth} levels deep, which is not supported`);
    const parts = [this.#sequence()];
    while (this.#eat("|")) parts.push(this.#sequence());
    this.#depth--;
    return choice(...parts);
  }

  #sequence(): RegexNode {
    const parts: RegexNode[] = [];
    for (let next = this.#peek(); next !== undefined && next !== "|" && next !== ")"; next = this.#peek()) {
      parts.push(this.#repeated());
    }
    return sequence(...parts);
  }

  #repeated(): RegexNode {
    if (this.#eat("^")) return { kind: "begin" };
    if (this.#eat("$")) return { kind: "end" };
    const part = this.#single();
    let counts: readonly [number, number] | undefined;
    if (this.#eat("*")) counts = [0, Number.POSITIVE_INFINITY];
    else if (this.#eat("+")) counts = [1, Number.POSITIVE_INFINITY];
    else if (this.#eat("?")) counts = [0, 1];
    else if (this.#peek() === "{") counts = this.#counts();
    if (!counts) return part;
    this.#eat("?");
    if (["*", "+", "?", "{"].includes(this.#peek() ?? "")) this.#fail("has two counts after each other");
    return repeat(part, counts[0], counts[1]);
  }

  #counts(): readonly [number, number] {
    const rest = this.#chars.slice(this.#at, this.#at + 24).join("");
    const found = /^\{(\d+)(?:(,)(\d*))?\}/.exec(rest);
    if (!found) this.#fail("has a { that is no count {m,n}; write \\{ for the character");
    const [all, first, comma, last] = found;
    const min = Number(first);
    const max = comma === undefined ? min : last === "" ? Number.POSITIVE_INFINITY : Number(last);
    if (min > LIMITS.repeat || (max > LIMITS.repeat && max !== Number.POSITIVE_INFINITY)) {
      this.#fail(`has a count above ${LIMITS.repeat}, which is not supported`);
    }
    if (max < min) this.#fail("has a count whose end lies before its beginning");
    this.#at += all.length;
    return [min, max];
  }

  #single(): RegexNode {
    const char = this.#peek()!;
    if (char === "(") return this.#group();
    if (char === "[") return { kind: "characters", ranges: this.#set() };
    if (char === "\\") return { kind: "characters", ranges: this.#escape(false) };
    if (char === ".") {
      this.#at++;
      return { kind: "characters", ranges: invert(LINE_END) };
    }
    if ("*+?{}]".includes(char)) this.#fail(`has a ${char} with nothing before it; write \\${char} for the character`);
    this.#at++;
    return { kind: "characters", ranges: [this.#one(char)] };
  }

  #one(char: string): CodeRange {
    const code = char.codePointAt(0)!;
    if (code >= 0xd800 && code <= 0xdfff) this.#fail("has half a character (a lone surrogate)");
    return [code, code];
  }

  #group(): RegexNode {
    this.#at++;
    if (this.#eat("?")) {
      const kind = this.#peek();
      if (kind === "<" && this.#peek(1) !== "=" && this.#peek(1) !== "!") {
        this.#at++;
        let name = "";
        for (let char = this.#peek(); char !== ">"; char = this.#peek()) {
          if (char === undefined) this.#fail("has a name of a group without its end");
          name += char;
          this.#at++;
        }
        if (!GROUP_NAME.test(name)) this.#fail("has a group whose name is not a word");
        this.#at++;
      } else if (!this.#eat(":")) {
        this.#fail("has a lookahead, a lookbehind or flags, which are not supported");
      }
    }
    const node = this.#choice();
    if (!this.#eat(")")) this.#fail("has a ( without its )");
    return node;
  }

  /** A class in brackets. */
  #set(): readonly CodeRange[] {
    this.#at++;
    const isInverted = this.#eat("^");
    const ranges: CodeRange[] = [];
    while (!this.#eat("]")) {
      const first = this.#member();
      const isRange = this.#peek() === "-" && this.#peek(1) !== "]" && this.#peek(1) !== undefined;
      if (!isRange) {
        ranges.push(...first);
        continue;
      }
      this.#at++;
      const last = this.#member();
      if (!isSingle(first) || !isSingle(last) || last[0][0] < first[0][0]) {
        this.#fail("has a range in a class that does not go from one character to a later one");
      }
      ranges.push([first[0][0], last[0][0]]);
    }
    return isInverted ? invert(ranges) : normalize(ranges);
  }

  #member(): readonly CodeRange[] {
    const char = this.#peek();
    if (char === undefined) this.#fail("has a [ without its ]");
    if (char === "\\") return this.#escape(true);
    this.#at++;
    return [this.#one(char)];
  }

  #escape(inSet: boolean): readonly CodeRange[] {
    this.#at++;
    const char = this.#peek();
    if (char === undefined) this.#fail("ends with a \\");
    if (CLASSES[char]) {
      this.#at++;
      return CLASSES[char];
    }
    if (char === "p" || char === "P") return this.#property(char === "P");
    if (char === "b" && inSet) {
      this.#at++;
      return [[8, 8]];
    }
    if (char === "b" || char === "B") this.#fail("has \\b or \\B (edges of words), which are not supported");
    if (char === "k" || /[1-9]/.test(char)) this.#fail("refers to a group, which is not supported");
    if (char === "x") return this.#code(/^x([0-9a-fA-F]{2})/);
    if (char === "u") {
      const pair = this.#surrogates();
      return pair ?? this.#code(/^u(?:([0-9a-fA-F]{4})|\{([0-9a-fA-F]{1,6})\})/);
    }
    if (char === "c") {
      const letter = this.#peek(1) ?? "";
      if (!/^[a-zA-Z]$/.test(letter)) this.#fail("has a \\c without a letter");
      this.#at += 2;
      return [[letter.charCodeAt(0) & 31, letter.charCodeAt(0) & 31]];
    }
    if (Object.hasOwn(CONTROLS, char)) {
      if (char === "0" && /[0-9]/.test(this.#peek(1) ?? "")) this.#fail("has an octal escape");
      this.#at++;
      return [[CONTROLS[char], CONTROLS[char]]];
    }
    if (/[a-zA-Z0-9]/.test(char)) this.#fail(`has \\${char}, which means nothing`);
    this.#at++;
    return [this.#one(char)];
  }

  #surrogates(): readonly CodeRange[] | undefined {
    const rest = this.#chars.slice(this.#at, this.#at + 11).join("");
    const found = /^u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})/.exec(rest);
    if (!found) return undefined;
    this.#at += found[0].length;
    const code = String.fromCharCode(Number.parseInt(found[1], 16), Number.parseInt(found[2], 16)).codePointAt(0)!;
    return [[code, code]];
  }

  #code(syntax: RegExp): readonly CodeRange[] {
    const found = syntax.exec(this.#chars.slice(this.#at, this.#at + 10).join(""));
    if (!found) this.#fail("has an escape \\x or \\u without its digits");
    const code = Number.parseInt(found[1] ?? found[2], 16);
    if (code > LAST_CODE_POINT) this.#fail("has a code beyond Unicode");
    if (code >= 0xd800 && code <= 0xdfff) this.#fail("has half a character (a lone surrogate)");
    this.#at += found[0].length;
    return [[code, code]];
  }

  #property(isInverted: boolean): readonly CodeRange[] {
    const rest = this.#chars.slice(this.#at, this.#at + 60).join("");
    const found = /^[pP]\{([A-Za-z0-9_]+(?:=[A-Za-z0-9_]+)?)\}/.exec(rest);
    if (found) this.#budget.spendOnce(found[1], PROPERTY_STEPS);
    const ranges = found && unicodeProperty(found[1]);
    if (!ranges) this.#fail("has a \\p{…} that names no property of Unicode");
    this.#at += found[0].length;
    return isInverted ? invert(ranges) : ranges;
  }
}

function isSingle(ranges: readonly CodeRange[]): boolean {
  return ranges.length === 1 && ranges[0][0] === ranges[0][1];
}

const properties = new Map<string, readonly CodeRange[]>();
const KEPT_PROPERTIES = 64;
/** What a property counts: a fortieth of what one schema or pattern may cost. */
const PROPERTY_STEPS = LIMITS.steps / 40;

/** The code points that `\p{name}` means, asked of the JavaScript engine one by one (some 20 ms), or undefined. */
function unicodeProperty(name: string): readonly CodeRange[] | undefined {
  const known = properties.get(name);
  if (known) return known;
  let regex: RegExp;
  try {
    regex = new RegExp(`^\\p{${name}}$`, "u");
  } catch {
    return undefined;
  }
  const ranges: CodeRange[] = [];
  let first = -1;
  for (let code = 0; code <= LAST_CODE_POINT + 1; code++) {
    const isIn = code <= LAST_CODE_POINT && regex.test(String.fromCodePoint(code));
    if (isIn && first < 0) first = code;
    if (!isIn && first >= 0) {
      ranges.push([first, code - 1]);
      first = -1;
    }
  }
  if (properties.size >= KEPT_PROPERTIES) properties.clear();
  properties.set(name, ranges);
  return ranges;
}
