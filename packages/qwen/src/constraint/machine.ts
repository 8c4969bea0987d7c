import { type ByteAutomaton, NONE } from "./automaton.ts";
import { commonClasses } from "./combine.ts";
import { ConstraintError } from "./errors.ts";
import type { Grammar, GrammarState, Rule } from "./grammar.ts";
import { LIMITS } from "./limits.ts";

/** Where a text goes on when a rule that was called has ended, and what called that one. */
interface Frame {
  readonly id: number;
  readonly to: GrammarState;
  readonly below: Frame | undefined;
}

/** One way to read the text so far: within a terminal, and what comes behind it. */
interface Reading {
  readonly id: number;
  readonly automaton: ByteAutomaton;
  readonly state: number;
  readonly to: GrammarState;
  readonly frame: Frame | undefined;
}

/** What the machine knows after some bytes, independent of numbers that it may give anew. */
export interface Snapshot {
  readonly readings: readonly Reading[];
  readonly isComplete: boolean;
}

const UNKNOWN = -2;

/**
 * Reads a grammar's texts byte by byte, following all ways to read them at once. What follows a state is found when it is
 * first asked for and then kept in a table; a text that nests more deeply has states of its own.
 */
export class Machine {
  readonly #root: Rule;
  readonly #classOf: Uint8Array;
  readonly #classes: number;
  readonly #automata = new Map<ByteAutomaton, number>();
  #table = new Int32Array(0);
  #snapshots: Snapshot[] = [];
  readonly #ids = new Map<string, number>();
  readonly #frames = new Map<string, Frame>();
  readonly #readings = new Map<string, Reading>();
  /** What the mask or token that is being worked on may still cost. */
  #steps: number = LIMITS.maskSteps;
  /** Rises when all states were forgotten. */
  generation = 0;

  /** @param grammar trimmed, with texts of the root */
  constructor(grammar: Grammar, root: Rule) {
    this.#root = root;
    const terminals = grammar.terminals();
    for (const automaton of terminals) this.#automata.set(automaton, this.#automata.size);
    const { classOf, classes } = commonClasses(terminals);
    this.#classOf = classOf;
    this.#classes = classes;
  }

  get states(): number {
    return this.#snapshots.length;
  }

  start(): number {
    const readings = new Map<number, Reading>();
    const isComplete = this.#open(this.#root.start, undefined, readings);
    return this.#intern(readings, isComplete);
  }

  /** The state after one more byte, or NONE. */
  next(state: number, byte: number): number {
    const at = state * this.#classes + this.#classOf[byte];
    const known = this.#table[at];
    if (known !== UNKNOWN) return known;
    const before = this.#snapshots[state].readings;
    this.#steps -= before.length;
    if (this.#steps < 0) {
      throw new ConstraintError(
        `the text can be read in too many ways here: a mask takes more than ${LIMITS.maskSteps} steps; make the alternatives differ earlier`,
      );
    }
    const readings = new Map<number, Reading>();
    let isComplete = false;
    for (const { automaton, state: within, to, frame } of before) {
      const next = automaton.next(within, byte);
      if (next === NONE) continue;
      if (!automaton.isLast(next)) this.#read(automaton, next, to, frame, readings);
      if (automaton.accepts(next) && this.#open(to, frame, readings)) isComplete = true;
    }
    const found = readings.size === 0 && !isComplete ? NONE : this.#intern(readings, isComplete);
    this.#table[at] = found;
    return found;
  }

  /** Begins the work on another mask or token. */
  beginWork(): void {
    this.#steps = LIMITS.maskSteps;
  }

  /** May the text end here? */
  isComplete(state: number): boolean {
    return this.#snapshots[state].isComplete;
  }

  /** Characters of plain text that may follow, whichever they are. */
  plainCharacters(state: number): number {
    let most = 0;
    for (const { automaton, state: within } of this.#snapshots[state].readings) {
      most = Math.max(most, automaton.plainCharacters(within));
    }
    return most;
  }

  /** Is plain text of more than `plainCharacters` refused, whichever it is? */
  refusesLonger(state: number): boolean {
    return this.#snapshots[state].readings.every((reading) => reading.automaton.refusesLonger(reading.state));
  }

  snapshot(state: number): Snapshot {
    return this.#snapshots[state];
  }

  /** The number that a snapshot, perhaps of an older generation, has now. */
  restore({ readings, isComplete }: Snapshot): number {
    const found = new Map<number, Reading>();
    for (const { automaton, state, to, frame } of readings) this.#read(automaton, state, to, this.#again(frame), found);
    return this.#intern(found, isComplete);
  }

  /** Forgets all states, so that memory stays bounded. */
  forget(): void {
    this.generation++;
    this.#table = new Int32Array(0);
    this.#snapshots = [];
    this.#ids.clear();
    this.#frames.clear();
    this.#readings.clear();
  }

  #again(frame: Frame | undefined): Frame | undefined {
    const chain: GrammarState[] = [];
    for (let at = frame; at; at = at.below) chain.push(at.to);
    return chain.reduceRight<Frame | undefined>((below, to) => this.#frame(to, below), undefined);
  }

  #frame(to: GrammarState, below: Frame | undefined): Frame {
    const key = `${to.id},${below?.id ?? ""}`;
    let frame = this.#frames.get(key);
    if (!frame) this.#frames.set(key, (frame = { id: this.#frames.size, to, below }));
    return frame;
  }

  /** Adds a reading within a terminal. Beyond the limit it is left out: what the others allow can still be completed. */
  #read(
    automaton: ByteAutomaton,
    state: number,
    to: GrammarState,
    frame: Frame | undefined,
    readings: Map<number, Reading>,
  ): void {
    if (readings.size >= LIMITS.readings) return;
    const key = `${this.#automata.get(automaton)},${state},${to.id},${frame?.id ?? ""}`;
    let reading = this.#readings.get(key);
    if (!reading) this.#readings.set(key, (reading = { id: this.#readings.size, automaton, state, to, frame }));
    readings.set(reading.id, reading);
  }

  /** Adds the readings that begin at a state of the grammar. @returns whether the whole text may end there */
  #open(from: GrammarState, under: Frame | undefined, readings: Map<number, Reading>): boolean {
    let isComplete = false;
    const seen = new Set<string>();
    const open: [GrammarState, Frame | undefined][] = [];
    const push = (state: GrammarState, frame: Frame | undefined): void => {
      const key = `${state.id},${frame?.id ?? ""}`;
      if (seen.has(key) || seen.size > 64 * LIMITS.readings) return;
      seen.add(key);
      open.push([state, frame]);
    };
    push(from, under);
    for (let i = 0; i < open.length; i++) {
      const [state, frame] = open[i];
      if (state.isFinal) {
        if (frame) push(frame.to, frame.below);
        else isComplete = true;
      }
      for (const edge of state.edges) {
        if (edge.kind === "empty") push(edge.to, frame);
        else if (edge.kind === "terminal") {
          this.#read(edge.automaton, edge.automaton.start, edge.to, frame, readings);
          if (edge.automaton.accepts(edge.automaton.start)) push(edge.to, frame);
        } else {
          // A call at a rule's end needs no place to return to.
          const isTail = edge.to.isFinal && edge.to.edges.length === 0;
          push(edge.rule.start, isTail ? frame : this.#frame(edge.to, frame));
        }
      }
    }
    return isComplete;
  }

  #intern(readings: Map<number, Reading>, isComplete: boolean): number {
    const key = `${isComplete}${[...readings.keys()].sort((a, b) => a - b).join()}`;
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const id = this.#snapshots.push({ readings: [...readings.values()], isComplete }) - 1;
    this.#ids.set(key, id);
    const end = (id + 1) * this.#classes;
    if (end > this.#table.length) {
      const larger = new Int32Array(Math.max(end, 2 * this.#table.length, 64 * this.#classes)).fill(UNKNOWN);
      larger.set(this.#table);
      this.#table = larger;
    }
    return id;
  }
}
