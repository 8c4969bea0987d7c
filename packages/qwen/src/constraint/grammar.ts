import type { ByteAutomaton } from "./automaton.ts";
import { ConstraintError } from "./errors.ts";
import { LIMITS } from "./limits.ts";

/** A step from one state of a rule to another: a terminal, a text of another rule, or nothing. */
export type Edge = { readonly to: GrammarState } & (
  | { readonly kind: "terminal"; readonly automaton: ByteAutomaton }
  | { readonly kind: "rule"; readonly rule: Rule }
  | { readonly kind: "empty" }
);

export interface GrammarState {
  readonly id: number;
  readonly rule: Rule;
  edges: Edge[];
  /** May the rule end here? */
  isFinal: boolean;
}

/** A part of a grammar with a name of its own, which others, and itself, may refer to. */
export interface Rule {
  readonly start: GrammarState;
  readonly states: GrammarState[];
}

/**
 * A context-free grammar over bytes as a network of automata that call each other. No rule may begin with itself before a
 * terminal (left recursion).
 */
export class Grammar {
  readonly rules: Rule[] = [];
  #states = 0;

  rule(): Rule {
    const states: GrammarState[] = [];
    const rule = { states } as { states: GrammarState[]; start: GrammarState };
    rule.start = this.state(rule);
    this.rules.push(rule);
    return rule;
  }

  state(rule: Rule): GrammarState {
    if (this.#states >= LIMITS.grammarStates) {
      throw new ConstraintError(`the schema needs more than ${LIMITS.grammarStates} states; make it smaller`);
    }
    const state: GrammarState = { id: this.#states++, rule, edges: [], isFinal: false };
    rule.states.push(state);
    return state;
  }

  /**
   * Leaves out what cannot come to an end: rules that call themselves for ever, and states from which no end is reached.
   * After it, every state leads to an end.
   *
   * @returns whether the rule has any text
   */
  trim(root: Rule): boolean {
    const endable = new Set<Rule>();
    let living = new Set<GrammarState>();
    for (let before = -1; before !== endable.size + living.size; ) {
      before = endable.size + living.size;
      living = livingStates(this.rules, endable);
      for (const rule of this.rules) if (living.has(rule.start)) endable.add(rule);
    }
    for (const rule of this.rules) {
      for (const state of rule.states) {
        state.edges = state.edges.filter(
          (edge) => living.has(edge.to) && (edge.kind !== "rule" || endable.has(edge.rule)),
        );
      }
    }
    return endable.has(root);
  }

  /** The terminals that are in use. */
  terminals(): Set<ByteAutomaton> {
    const found = new Set<ByteAutomaton>();
    for (const rule of this.rules) {
      for (const { edges } of rule.states)
        for (const edge of edges) if (edge.kind === "terminal") found.add(edge.automaton);
    }
    return found;
  }
}

/** States that reach an end of their rule by way of terminals and rules that are known to end. */
function livingStates(rules: readonly Rule[], endable: ReadonlySet<Rule>): Set<GrammarState> {
  const before = new Map<GrammarState, GrammarState[]>();
  const living = new Set<GrammarState>();
  const open: GrammarState[] = [];
  for (const rule of rules) {
    for (const state of rule.states) {
      if (state.isFinal) {
        living.add(state);
        open.push(state);
      }
      for (const edge of state.edges) {
        if (edge.kind === "rule" && !endable.has(edge.rule)) continue;
        const list = before.get(edge.to);
        if (list) list.push(state);
        else before.set(edge.to, [state]);
      }
    }
  }
  while (open.length > 0) {
    for (const state of before.get(open.pop()!) ?? []) {
      if (living.has(state)) continue;
      living.add(state);
      open.push(state);
    }
  }
  return living;
}

/** A grammar of one terminal. */
export function grammarOf(automaton: ByteAutomaton): { grammar: Grammar; root: Rule } {
  const grammar = new Grammar();
  const root = grammar.rule();
  const to = grammar.state(root);
  root.start.edges.push({ kind: "terminal", automaton, to });
  root.start.isFinal = automaton.accepts(automaton.start);
  to.isFinal = true;
  return { grammar, root };
}
