import { type ByteAutomaton, NONE, type TableAutomaton } from "./automaton.ts";
import { Budget } from "./budget.ts";
import { ConstraintError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { trim } from "./regex-compile.ts";

/** The classes of bytes that all automata treat alike. */
export function commonClasses(automata: Iterable<ByteAutomaton>): { classOf: Uint8Array; classes: number } {
  let classOf = new Uint8Array(256);
  let classes = 1;
  for (const automaton of automata) {
    const ids = new Map<number, number>();
    const refined = new Uint8Array(256);
    for (let byte = 0; byte < 256; byte++) {
      const key = classOf[byte] * 256 + automaton.classOf[byte];
      let id = ids.get(key);
      if (id === undefined) ids.set(key, (id = ids.size));
      refined[byte] = id;
    }
    classOf = refined;
    classes = ids.size;
  }
  return { classOf, classes };
}

/**
 * The texts of `a` that are also in `b`, or that are not.
 *
 * @returns undefined where there are none
 * @throws ConstraintError where they need too many states
 */
export function combine(
  a: ByteAutomaton,
  b: ByteAutomaton,
  operation: "and" | "without",
  budget = new Budget(),
): TableAutomaton | undefined {
  const { classOf, classes } = commonClasses([a, b]);
  const bytes = new Uint8Array(classes);
  for (let byte = 255; byte >= 0; byte--) bytes[classOf[byte]] = byte;
  const pairs: [number, number][] = [];
  const ids = new Map<string, number>();
  const table: number[] = [];
  const intern = (x: number, y: number): number => {
    const key = `${x},${y}`;
    const known = ids.get(key);
    if (known !== undefined) return known;
    if (pairs.length >= LIMITS.dfaStates) {
      const limit = `${LIMITS.dfaStates} states as an automaton`;
      throw new ConstraintError(
        `a pattern, format or length combined with others needs more than ${limit}; simplify it`,
      );
    }
    ids.set(key, pairs.length);
    return pairs.push([x, y]) - 1;
  };
  intern(a.start, b.start);
  for (let id = 0; id < pairs.length; id++) {
    const [x, y] = pairs[id];
    budget.spend(classes);
    for (let c = 0; c < classes; c++) {
      const toX = a.next(x, bytes[c]);
      const toY = y === NONE ? NONE : b.next(y, bytes[c]);
      const isDead = toX === NONE || (operation === "and" && toY === NONE);
      table.push(isDead ? NONE : intern(toX, toY));
    }
  }
  const accepting = Uint8Array.from(pairs, ([x, y]) => {
    const inB = y !== NONE && b.accepts(y);
    return a.accepts(x) && inB === (operation === "and") ? 1 : 0;
  });
  return trim({ classOf, classes, table: Int32Array.from(table), accepting });
}
