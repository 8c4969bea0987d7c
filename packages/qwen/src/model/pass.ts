import type { Device, Segment, Tensor } from "@tslm/tensor";
import type { CacheShape, CacheStore, KeyBiases } from "./cache.ts";
import type { AdapterRows, LayerPass } from "./layers.ts";

/** What passes, caches, generation and scoring need to know of a model: what another family's model has to offer. */
export interface LanguageModel {
  readonly config: CacheShape & { readonly vocabSize: number };
  readonly device: Device;
  /** For a cache of blocks; undefined where keys have no bias. */
  readonly keyBiases?: KeyBiases;
  /** Hidden states after the final norm [rows, hidden]. */
  hidden(pass: Pass): Tensor;
  /** A pass whose lists lie on the device; with {@link placedHidden} what {@link hidden} does. Optional: it serves speed. */
  place?(pass: Pass): PlacedPass;
  placedHidden?(placed: PlacedPass): Tensor;
  /** Scores of every token [rows, vocabSize] from hidden states [rows, hidden]. */
  logits(hidden: Tensor): Tensor;
  /** −log P(target) of each row, f32 [rows], 0 where the target is negative. */
  tokenLosses(hidden: Tensor, targets: Int32Array): Tensor;
}

/**
 * What goes through the model at once: the tokens of one or more sequences laid end to end, one row each. A row's
 * result depends on its own sequence alone.
 */
export interface Pass {
  /** Token ids [rows]. */
  readonly tokens: Int32Array;
  /** Place of each token in its sequence, from 0 [rows]. */
  readonly positions: Int32Array;
  /** Where each sequence's queries lie in the rows, and its keys in the rows or, with a cache, in the cache. */
  readonly segments: readonly Segment[];
  /** The token to predict at each row [rows]; negative: none, the row carries no loss. */
  readonly targets?: Int32Array;
  /** Factor of each row's loss [rows]; 1 / (number of targets), which gives the mean, unless given. */
  readonly scale?: Float32Array;
  /** f32 [number of targets], overwritten: 1 where no token is likelier than the target, else 0, in the rows' order. */
  readonly correct?: Tensor;
  /** Share of each target that goes to all tokens evenly, 0 … 1: label smoothing. */
  readonly labelSmoothing?: number;
  /** Changes the embeddings [rows, hidden] on their way into the first layer: noise in training. */
  readonly perturb?: (embeddings: Tensor) => Tensor;
  /**
   * Keys and values of earlier tokens, and where this pass's go: `slots[i]` is the cache row of row i. With `keyRows` the
   * segments' keys are counted there, key j being cache row `keyRows[j]`: sequences that lie in pages.
   */
  readonly cache?: { readonly store: CacheStore; readonly slots: Int32Array; readonly keyRows?: Int32Array };
  /** Rows that go through an adapter each; the others are the base model's. Without a gradient. */
  readonly adapters?: readonly AdapterRows[];
}

/** A pass as a model's layers take it. */
export interface PlacedPass extends LayerPass {
  /** i32 [rows] */
  readonly tokens: Tensor;
  readonly perturb?: Pass["perturb"];
}

/**
 * A pass over whole sequences, without a cache. `targets` gives each sequence's tokens to predict, row by row.
 *
 * @example passOf([[5, 6, 7], [8, 9]]) // five rows, positions 0 1 2 0 1
 */
export function passOf(
  sequences: readonly ArrayLike<number>[],
  targets?: readonly ArrayLike<number>[],
  scale?: Float32Array,
): Pass {
  const rows = sequences.reduce((n, s) => n + s.length, 0);
  const tokens = new Int32Array(rows);
  const positions = new Int32Array(rows);
  const wanted = targets && new Int32Array(rows);
  const segments: Segment[] = [];
  let at = 0;
  sequences.forEach((sequence, s) => {
    if (targets && targets[s]?.length !== sequence.length) {
      throw new RangeError(`sequence ${s} has ${sequence.length} tokens but ${targets[s]?.length ?? 0} targets`);
    }
    tokens.set(sequence, at);
    if (wanted && targets) wanted.set(targets[s]!, at);
    for (let i = 0; i < sequence.length; i++) positions[at + i] = i;
    segments.push({ query: at, queries: sequence.length, key: at, keys: sequence.length });
    at += sequence.length;
  });
  return { tokens, positions, segments, targets: wanted, scale };
}

/** What the last tokens of a sequence predict: token i+1 at row i, nothing at the last row. */
export function nextTokens(sequence: ArrayLike<number>): Int32Array {
  const targets = new Int32Array(sequence.length).fill(-1);
  for (let i = 0; i + 1 < sequence.length; i++) targets[i] = sequence[i + 1]!;
  return targets;
}

/** More tokens than the model has positions for. */
export class ContextLengthError extends RangeError {
  override readonly name = "ContextLengthError";
  /** Tokens that were to be held, prompt included. */
  readonly length: number;
  /** The most that fit. */
  readonly limit: number;

  constructor(length: number, limit: number, of: string) {
    super(`${length} tokens do not fit into the ${limit} of ${of}; shorten the text`);
    this.length = length;
    this.limit = limit;
  }
}

/**
 * Devices trust indices, so they are checked here.
 *
 * @throws RangeError naming the row, or ContextLengthError
 */
export function checkPass(pass: Pass, config: LanguageModel["config"]): void {
  const { tokens, positions, targets, scale, cache } = pass;
  const rows = tokens.length;
  const lengths = { positions, targets, scale, slots: cache?.slots };
  for (const [name, values] of Object.entries(lengths)) {
    if (values && values.length !== rows) throw new RangeError(`${rows} tokens but ${values.length} ${name} in a pass`);
  }
  if (rows === 0) throw new RangeError("a pass needs at least one token");
  for (let i = 0; i < rows; i++) {
    checkToken("token", tokens[i]!, i, config.vocabSize);
    if (targets && targets[i]! >= 0) checkToken("target", targets[i]!, i, config.vocabSize);
    const position = positions[i]!;
    if (position < 0) throw new RangeError(`position ${position} of row ${i} is negative`);
    if (position >= config.maxPositionEmbeddings) {
      throw new ContextLengthError(position + 1, config.maxPositionEmbeddings, "the model (max_position_embeddings)");
    }
    if (cache) checkSlot("slot", cache.slots[i]!, i, cache.store);
  }
  for (const { query, queries, keys } of cache?.store.addsToKeys ? pass.segments : []) {
    if (queries > 0 && positions[query + queries - 1] !== keys - 1) {
      throw new RangeError(`with this cache a sequence of ${keys} keys ends at position ${keys - 1}, not elsewhere`);
    }
  }
  cache?.keyRows?.forEach((slot, i) => {
    checkSlot("key", slot, i, cache.store);
  });
}

function checkSlot(what: string, slot: number, row: number, { capacity }: CacheStore): void {
  if (slot >= 0 && slot < capacity) return;
  throw new RangeError(`${what} ${slot} of row ${row} lies outside of a cache of ${capacity} rows`);
}

function checkToken(what: string, id: number, row: number, vocabSize: number): void {
  if (id >= 0 && id < vocabSize) return;
  throw new RangeError(`${what} ${id} of row ${row} lies outside of the model's vocabulary of ${vocabSize}`);
}
