import { TableAutomaton } from "./automaton.ts";
import { Budget } from "./budget.ts";
import { type ByteRange, jsonSequences, utf8Sequences } from "./code-points.ts";
import { ConstraintError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import type { RegexNode } from "./regex-parse.ts";

/** How characters are written: as UTF-8, or as inside a JSON string. */
export type Encoding = "utf8" | "json";

interface NfaState {
  readonly bytes: { first: number; last: number; to: number }[];
  readonly free: number[];
  /** Free only before the first byte and behind the last one: `^` and `$`. */
  readonly atBegin: number[];
  readonly atEnd: number[];
}

const TOO_LARGE = `the pattern, or what it is combined with, needs more than`;

/** Thompson's construction: an automaton with free transitions from a regular expression. */
class Nfa {
  readonly states: NfaState[] = [];
  readonly #budget: Budget;
  readonly #encode: (ranges: readonly (readonly [number, number])[]) => ByteRange[][];

  constructor(encoding: Encoding, budget: Budget) {
    this.#budget = budget;
    this.#encode = encoding === "json" ? jsonSequences : utf8Sequences;
  }

  add(): number {
    if (this.states.length >= LIMITS.nfaStates) {
      throw new ConstraintError(`${TOO_LARGE} ${LIMITS.nfaStates} states; make it shorter, or its counts smaller`);
    }
    return this.states.push({ bytes: [], free: [], atBegin: [], atEnd: [] }) - 1;
  }

  /** Builds a node from a state on. @returns the state behind it */
  build(node: RegexNode, from: number): number {
    const { states } = this;
    // Counts multiply, also of parts that need no state.
    this.#budget.spend(1);
    switch (node.kind) {
      case "characters": {
        const to = this.add();
        this.#characters(this.#encode(node.ranges), from, to);
        return to;
      }
      case "bytes": {
        let at = from;
        for (const byte of node.bytes) {
          const to = this.add();
          states[at].bytes.push({ first: byte, last: byte, to });
          at = to;
        }
        return at;
      }
      case "sequence":
        return node.parts.reduce((at, part) => this.build(part, at), from);
      case "choice": {
        const to = this.add();
        for (const part of node.parts) {
          const begin = this.add();
          states[from].free.push(begin);
          states[this.build(part, begin)].free.push(to);
        }
        return to;
      }
      case "repeat":
        return this.#repeat(node.part, node.min, node.max, from);
      case "automaton":
        return this.#automaton(node.automaton, from);
      case "begin":
      case "end": {
        const to = this.add();
        states[from][node.kind === "begin" ? "atBegin" : "atEnd"].push(to);
        return to;
      }
    }
  }

  #repeat(part: RegexNode, min: number, max: number, from: number): number {
    const { states } = this;
    let at = from;
    for (let i = 0; i < min; i++) at = this.build(part, at);
    const to = this.add();
    if (max === Number.POSITIVE_INFINITY) {
      const loop = this.add();
      states[at].free.push(loop);
      states[this.build(part, loop)].free.push(loop);
      states[loop].free.push(to);
      return to;
    }
    states[at].free.push(to);
    for (let i = min; i < max; i++) {
      at = this.build(part, at);
      states[at].free.push(to);
    }
    return to;
  }

  #automaton(automaton: TableAutomaton, from: number): number {
    const { states } = this;
    const names = Array.from(automaton.accepting, () => this.add());
    const to = this.add();
    states[from].free.push(names[automaton.start]);
    names.forEach((name, state) => {
      for (let byte = 0; byte < 256; byte++) {
        const next = automaton.next(state, byte);
        if (next >= 0) states[name].bytes.push({ first: byte, last: byte, to: names[next] });
      }
      if (automaton.accepts(state)) states[name].free.push(to);
    });
    return to;
  }

  /** Sequences of bytes between two states; those that end alike share their end. */
  #characters(sequences: readonly ByteRange[][], from: number, to: number): void {
    const ends = new Map<string, number>([["", to]]);
    for (const bytes of sequences) {
      let next = to;
      let key = "";
      for (let i = bytes.length - 1; i > 0; i--) {
        const [first, last] = bytes[i];
        key += `${first}-${last},`;
        let state = ends.get(key);
        if (state === undefined) {
          state = this.add();
          this.states[state].bytes.push({ first, last, to: next });
          ends.set(key, state);
        }
        next = state;
      }
      this.states[from].bytes.push({ first: bytes[0][0], last: bytes[0][1], to: next });
    }
  }
}

/** Classes of bytes that all of the given ranges treat alike. */
function classesOf(ranges: Iterable<{ first: number; last: number }>): { classOf: Uint8Array; firsts: number[] } {
  const begins = new Uint8Array(257);
  begins[0] = 1;
  for (const { first, last } of ranges) {
    begins[first] = 1;
    begins[last + 1] = 1;
  }
  const classOf = new Uint8Array(256);
  const firsts: number[] = [];
  for (let byte = 0; byte < 256; byte++) {
    if (begins[byte]) firsts.push(byte);
    classOf[byte] = firsts.length - 1;
  }
  return { classOf, firsts };
}

/**
 * Compiles a regular expression to a deterministic automaton, all of whose states lead to an accepting one. The expression
 * must match the whole text. Never backtracks; states and steps are bounded.
 *
 * @returns undefined where no text matches
 * @throws ConstraintError where a limit is passed
 */
export function compileRegex(node: RegexNode, encoding: Encoding, budget = new Budget()): TableAutomaton | undefined {
  const nfa = new Nfa(encoding, budget);
  const start = nfa.add();
  const final = nfa.build(node, start);
  const { states } = nfa;
  const { classOf, firsts } = classesOf(states.flatMap((state) => state.bytes));
  const classes = firsts.length;
  const marks = new Int32Array(states.length);
  let mark = 0;

  /** The states reached freely, those with byte transitions or an end only. */
  const closure = (from: Iterable<number>, begin: boolean, end: boolean): { states: number[]; isFinal: boolean } => {
    mark++;
    let isFinal = false;
    const reached: number[] = [];
    const open: number[] = [];
    let seen = 1;
    const push = (state: number): void => {
      if (marks[state] === mark) return;
      marks[state] = mark;
      open.push(state);
      seen++;
    };
    for (const state of from) push(state);
    while (open.length > 0) {
      const state = open.pop()!;
      const { bytes, free, atBegin, atEnd } = states[state];
      if (state === final) isFinal = true;
      if (bytes.length > 0 || atEnd.length > 0 || state === final) reached.push(state);
      for (const to of free) push(to);
      if (begin) for (const to of atBegin) push(to);
      if (end) for (const to of atEnd) push(to);
    }
    budget.spend(seen);
    return { states: reached.sort((a, b) => a - b), isFinal };
  };

  const sets: number[][] = [];
  const ids = new Map<string, number>();
  const accepting: number[] = [];
  const table: number[] = [];
  const intern = (from: Iterable<number>, begin: boolean): number => {
    const { states: set } = closure(from, begin, false);
    // What `^` leads to before the first byte is another state than the same set later, as `^$` shows.
    const key = `${begin ? "^" : ""}${set.join()}`;
    const known = ids.get(key);
    if (known !== undefined) return known;
    if (sets.length >= LIMITS.dfaStates) {
      throw new ConstraintError(`${TOO_LARGE} ${LIMITS.dfaStates} states as an automaton; make it simpler`);
    }
    const id = sets.push(set) - 1;
    ids.set(key, id);
    accepting.push(closure(set, begin, true).isFinal ? 1 : 0);
    return id;
  };
  intern([start], true);
  const targets: number[][] = Array.from({ length: classes }, () => []);
  for (let id = 0; id < sets.length; id++) {
    for (const list of targets) list.length = 0;
    for (const state of sets[id]) {
      for (const { first, last, to } of states[state].bytes) {
        for (let c = classOf[first]; c <= classOf[last]; c++) targets[c].push(to);
        budget.spend(classOf[last] - classOf[first] + 1);
      }
    }
    for (let c = 0; c < classes; c++) table.push(targets[c].length === 0 ? -1 : intern(targets[c], false));
  }
  return trim({ classOf, classes, table: Int32Array.from(table), accepting: Uint8Array.from(accepting) });
}

/** Leaves out states from which no accepting one is reached. State 0 is the start. @returns undefined where none is left */
export function trim(parts: {
  classOf: Uint8Array;
  classes: number;
  table: Int32Array;
  accepting: Uint8Array;
}): TableAutomaton | undefined {
  const { classOf, classes, table, accepting } = parts;
  const before: number[][] = Array.from(accepting, () => []);
  for (let i = 0; i < table.length; i++) if (table[i] >= 0) before[table[i]].push(Math.floor(i / classes));
  const alive = new Uint8Array(accepting.length);
  const open: number[] = [];
  const reach = (state: number): void => {
    if (alive[state]) return;
    alive[state] = 1;
    open.push(state);
  };
  accepting.forEach((is, state) => {
    if (is) reach(state);
  });
  while (open.length > 0) for (const state of before[open.pop()!]) reach(state);
  if (!alive[0]) return undefined;
  const names = new Int32Array(accepting.length).fill(-1);
  let count = 0;
  for (let state = 0; state < names.length; state++) if (alive[state]) names[state] = count++;
  const kept = new Int32Array(count * classes);
  const keptAccepting = new Uint8Array(count);
  for (let state = 0; state < names.length; state++) {
    if (!alive[state]) continue;
    keptAccepting[names[state]] = accepting[state];
    for (let c = 0; c < classes; c++) {
      const to = table[state * classes + c];
      kept[names[state] * classes + c] = to < 0 ? -1 : names[to];
    }
  }
  return new TableAutomaton({ classOf, classes, table: kept, accepting: keptAccepting });
}
