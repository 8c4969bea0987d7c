import { type ByteAutomaton, NONE, TableAutomaton } from "./automaton.ts";
import { ConstraintError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { compileRegex } from "./regex-compile.ts";
import { EVERYTHING, literal, type RegexNode, sequence } from "./regex-parse.ts";

const QUOTE = 0x22;
/** One character as it stands in a JSON string. State 0 is before it. */
const CHARACTER = compileRegex(EVERYTHING, "json")!;

/**
 * JSON strings of `min` to `max` characters (code points, as JSON Schema counts them), without a table: a place is computed,
 * so that lengths cost nothing. Characters are escaped where they must be, in the one way of `JSON.stringify`.
 */
export class StringAutomaton implements ByteAutomaton {
  readonly classOf = CHARACTER.classOf;
  readonly start = 0;
  readonly #min: number;
  readonly #max: number;

  constructor(min = 0, max = Number.POSITIVE_INFINITY) {
    this.#min = min;
    this.#max = max;
  }

  // State 0: before the first quote. 1: behind the last. Others: 2 + characters so far · states of a character + its state.
  next(state: number, byte: number): number {
    if (state === 0) return byte === QUOTE ? 2 : NONE;
    if (state === 1) return NONE;
    const inner = (state - 2) % CHARACTER.states;
    const count = (state - 2 - inner) / CHARACTER.states;
    if (inner === 0) {
      if (byte === QUOTE) return count >= this.#min ? 1 : NONE;
      if (count === this.#max) return NONE;
    }
    const next = CHARACTER.next(inner, byte);
    if (next === NONE) return NONE;
    if (!CHARACTER.accepts(next)) return state - inner + next;
    // Where there is no end to the length, characters count up to the least one only.
    const after = this.#max === Number.POSITIVE_INFINITY ? Math.min(count + 1, this.#min) : count + 1;
    return 2 + after * CHARACTER.states;
  }
  accepts(state: number): boolean {
    return state === 1;
  }
  isLast(state: number): boolean {
    return state === 1;
  }
  plainCharacters(state: number): number {
    if (state < 2 || (state - 2) % CHARACTER.states !== 0) return 0;
    return this.#max - (state - 2) / CHARACTER.states;
  }
  refusesLonger(state: number): boolean {
    return state >= 2 && (state - 2) % CHARACTER.states === 0;
  }
}

export const ANY_STRING: ByteAutomaton = new StringAutomaton();

/** Puts an automaton of what stands in a JSON string between quotes. */
export function quoted({ classOf, classes, table, accepting, states, start }: TableAutomaton): TableAutomaton {
  const width = classes + 1;
  // The quote gets a class of its own. In a string it stands behind a backslash only, where no string may end.
  const wider = classOf.slice();
  wider[QUOTE] = classes;
  const out = new Int32Array((states + 2) * width).fill(NONE);
  const final = states + 1;
  out[classes] = start + 1;
  for (let state = 0; state < states; state++) {
    for (let c = 0; c < classes; c++) {
      const to = table[state * classes + c];
      if (to !== NONE) out[(state + 1) * width + c] = to + 1;
    }
    const escaped = table[state * classes + classOf[QUOTE]];
    out[(state + 1) * width + classes] = escaped !== NONE ? escaped + 1 : accepting[state] ? final : NONE;
  }
  const ends = new Uint8Array(states + 2);
  ends[final] = 1;
  return new TableAutomaton({ classOf: wider, classes: width, table: out, accepting: ends });
}

/**
 * Any of these texts, at least one.
 *
 * @throws ConstraintError where they are too many or too long
 */
export function oneOfTexts(texts: readonly string[]): TableAutomaton {
  const encoded = texts.map((text) => new TextEncoder().encode(text));
  const length = encoded.reduce((sum, bytes) => sum + bytes.length, 0);
  if (texts.length > LIMITS.choices || length > LIMITS.choiceBytes) {
    throw new ConstraintError(
      `there may be at most ${LIMITS.choices} choices or values of an enum, of ${LIMITS.choiceBytes} bytes together`,
    );
  }
  const classOf = new Uint8Array(256);
  // Class 0: bytes that are in none.
  let classes = 1;
  for (const bytes of encoded) for (const byte of bytes) if (classOf[byte] === 0) classOf[byte] = classes++;
  let table = new Int32Array((length + 1) * classes).fill(NONE);
  const accepting = new Uint8Array(length + 1);
  let states = 1;
  for (const bytes of encoded) {
    let at = 0;
    for (const byte of bytes) {
      const place = at * classes + classOf[byte];
      if (table[place] === NONE) table[place] = states++;
      at = table[place];
    }
    accepting[at] = 1;
  }
  table = table.slice(0, states * classes);
  return new TableAutomaton({ classOf, classes, table, accepting: accepting.slice(0, states) });
}

/** A text, and behind it what a regular expression says. */
export function textThen(text: string, after: RegexNode): TableAutomaton {
  return compileRegex(sequence(literal(text), after), "utf8")!;
}
