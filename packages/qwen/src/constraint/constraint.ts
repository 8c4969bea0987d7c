import type { TokenConstraint } from "../engine/types.ts";
import { NONE } from "./automaton.ts";
import { ConstraintError } from "./errors.ts";
import type { Grammar, Rule } from "./grammar.ts";
import { LIMITS } from "./limits.ts";
import { Machine, type Snapshot } from "./machine.ts";
import { type ConstraintTokenizer, type TokenTries, type Trie, tokenTries } from "./token-trie.ts";

/** What all kinds of constraints take. */
export interface ConstraintOptions {
  /** Tokens that end an answer: allowed where the text is complete. Default: the tokenizer's `eosTokenId`. */
  readonly endTokens?: readonly number[];
}

/** A grammar for a tokenizer's tokens: what its answers share. */
export class CompiledConstraint {
  readonly #machine: Machine;
  readonly #tries: TokenTries;
  readonly #endTokens: readonly number[];
  /** By state, the least recently used first. */
  readonly #masks = new Map<number, Uint32Array>();
  readonly #path: Int32Array;

  /** @throws ConstraintError where the grammar has no text or there is no end token */
  constructor(
    { grammar, root }: { grammar: Grammar; root: Rule },
    tokenizer: ConstraintTokenizer,
    { endTokens }: ConstraintOptions = {},
  ) {
    if (!grammar.trim(root)) throw new ConstraintError("no text meets the constraint; it contradicts itself");
    this.#endTokens = endTokens ?? (tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId]);
    if (this.#endTokens.length === 0) {
      throw new ConstraintError("the tokenizer has no end token, so no answer could end; name endTokens");
    }
    this.#tries = tokenTries(tokenizer);
    this.#machine = new Machine(grammar, root);
    this.#path = new Int32Array(Math.max(this.#tries.plain.deepest, this.#tries.other.deepest) + 1);
  }

  begin(): TokenConstraint {
    this.#tidy();
    return new Following(this, this.#machine.snapshot(this.#machine.start()));
  }

  get generation(): number {
    return this.#machine.generation;
  }
  restore(snapshot: Snapshot): number {
    return this.#machine.restore(snapshot);
  }
  snapshot(state: number): Snapshot {
    return this.#machine.snapshot(state);
  }

  /** The state after a token, or NONE. */
  next(state: number, token: number): number {
    const bytes = this.#tries.bytes(token);
    if (!bytes) return NONE;
    this.#machine.beginWork();
    let at = state;
    for (const byte of bytes) {
      at = this.#machine.next(at, byte);
      if (at === NONE) break;
    }
    return at;
  }

  isEnd(state: number, token: number): boolean {
    return this.#endTokens.includes(token) && this.#machine.isComplete(state);
  }

  mask(state: number): Uint32Array {
    const known = this.#masks.get(state);
    if (known) {
      this.#masks.delete(state);
      this.#masks.set(state, known);
      return known;
    }
    this.#machine.beginWork();
    const plain = this.#machine.plainCharacters(state);
    const mask = plain > 0 ? this.#tries.plainMask(plain).slice() : new Uint32Array(this.#tries.words);
    this.#walk(this.#tries.other, state, 0, mask);
    if (!this.#machine.refusesLonger(state)) this.#walk(this.#tries.plain, state, plain, mask);
    if (this.#machine.isComplete(state)) {
      for (const token of this.#endTokens) mask[token >> 5] |= 1 << (token & 31);
    }
    if (this.#masks.size >= LIMITS.keptMasks) this.#masks.delete(this.#masks.keys().next().value!);
    this.#masks.set(state, mask);
    return mask;
  }

  /** Forgets what was learned where it has become too much. */
  tidy(snapshot: Snapshot): number {
    this.#tidy();
    return this.restore(snapshot);
  }
  get isFull(): boolean {
    return this.#machine.states > LIMITS.keptStates;
  }
  #tidy(): void {
    if (!this.isFull) return;
    this.#machine.forget();
    this.#masks.clear();
  }

  /** Sets the tokens of a tree that a state allows, but those of at most `known` characters, which are set already. */
  #walk({ byte, depth, end, token, most }: Trie, state: number, known: number, mask: Uint32Array): void {
    const machine = this.#machine;
    const path = this.#path;
    path[0] = state;
    for (let node = 1; node < byte.length; ) {
      if (most[node] <= known && known > 0) {
        node = end[node];
        continue;
      }
      const next = machine.next(path[depth[node] - 1], byte[node]);
      if (next === NONE) {
        node = end[node];
        continue;
      }
      path[depth[node]] = next;
      const id = token[node];
      if (id >= 0) mask[id >> 5] |= 1 << (id & 31);
      node++;
    }
  }
}

/** One answer's way through a compiled constraint. */
class Following implements TokenConstraint {
  readonly #compiled: CompiledConstraint;
  #snapshot: Snapshot;
  #state = NONE;
  #generation = -1;
  #isEnded = false;

  constructor(compiled: CompiledConstraint, snapshot: Snapshot) {
    this.#compiled = compiled;
    this.#snapshot = snapshot;
  }

  allowed(): Uint32Array {
    return this.#compiled.mask(this.#now());
  }

  accept(token: number): void {
    const state = this.#now();
    // Behind an end token nothing is read; engines need not tell of it at all.
    if (this.#isEnded || this.#compiled.isEnd(state, token)) {
      this.#isEnded = true;
      return;
    }
    const next = this.#compiled.next(state, token);
    if (next === NONE) throw new RangeError(`token ${token} is not allowed here by the constraint`);
    this.#state = next;
    this.#snapshot = this.#compiled.snapshot(next);
  }

  clone(): TokenConstraint {
    const copy = new Following(this.#compiled, this.#snapshot);
    copy.#isEnded = this.#isEnded;
    return copy;
  }

  /** The number of the state, which others' answers may have changed. */
  #now(): number {
    if (this.#compiled.isFull) this.#state = this.#compiled.tidy(this.#snapshot);
    else if (this.#generation !== this.#compiled.generation) this.#state = this.#compiled.restore(this.#snapshot);
    this.#generation = this.#compiled.generation;
    return this.#state;
  }
}
