import { rand, reference } from "@tslm/tensor";

/** How the next token is chosen. What is left out changes nothing: no options at all is greedy decoding. */
export interface SamplingOptions {
  /** Divides the scores; 0, the default, takes the likeliest token every time. */
  readonly temperature?: number;
  /** Only the k likeliest tokens; 0, the default, keeps all. */
  readonly topK?: number;
  /** Only the likeliest tokens that together have this probability; 1, the default, keeps all. */
  readonly topP?: number;
  /** Only tokens at least this times as likely as the likeliest; 0, the default, keeps all. */
  readonly minP?: number;
  /** Above 1, tokens that stand in the prompt or the answer already become less likely. Default 1. */
  readonly repetitionPenalty?: number;
  /** The same seed gives the same answer. A new one each time unless given. */
  readonly seed?: number;
}

/** Tokens that may come next, by rising id, and their log-probabilities relative to the likeliest's. */
export interface Candidates {
  readonly tokens: Int32Array;
  readonly scores: Float64Array;
}

/** @throws RangeError naming the option */
export function checkSampling(options: SamplingOptions): void {
  const check = (name: keyof SamplingOptions, test: (x: number) => boolean, want: string): void => {
    const value = options[name];
    if (value !== undefined && !(typeof value === "number" && test(value))) {
      throw new RangeError(`${name} must be ${want}, but is ${value}`);
    }
  };
  check("temperature", (x) => Number.isFinite(x) && x >= 0, "a number of at least 0");
  check("topK", (x) => Number.isSafeInteger(x) && x >= 0, "a whole number of at least 0");
  check("topP", (x) => x > 0 && x <= 1, "a number above 0 and at most 1");
  check("minP", (x) => x >= 0 && x <= 1, "a number from 0 to 1");
  check("repetitionPenalty", (x) => Number.isFinite(x) && x > 0, "a number above 0");
  check("seed", (x) => Number.isSafeInteger(x) && x >= 0, "a whole number of at least 0");
}

/**
 * Makes the scores of tokens that were seen smaller: divides positive ones by the penalty and multiplies the others by
 * it (Keskar et al., 2019; transformers' `RepetitionPenaltyLogitsProcessor`). In place.
 */
export function penalizeRepetition(scores: Float32Array, seen: Iterable<number>, penalty: number): void {
  if (penalty === 1) return;
  for (const token of new Set(seen)) {
    scores[token] = scores[token] < 0 ? scores[token] * penalty : scores[token] / penalty;
  }
}

/** The index of the largest score, the first of equals. */
export function argmax(scores: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

/**
 * The tokens that temperature (above 0), top-k, top-p and min-p leave, in transformers' order: each works on what the
 * one before it left. At least one token stays.
 *
 * @param logits f32 [vocabulary]
 */
export function candidates(logits: Float32Array, options: SamplingOptions): Candidates {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
  const most = logits[argmax(logits)];
  if (!Number.isFinite(most)) {
    throw new RangeError("the model's scores are not finite; its weights or adapter are broken, or training diverged");
  }
  // Relative to the largest, so that neither a tiny temperature nor exp() overflows.
  const scores = new Float64Array(logits.length);
  let tokens = new Int32Array(logits.length);
  for (let i = 0; i < logits.length; i++) {
    scores[i] = (logits[i] - most) / temperature;
    tokens[i] = i;
  }
  // Equals of the kth stay, as in transformers.
  if (topK > 0 && topK < scores.length) tokens = atLeast(scores, tokens, kthLargest(scores, topK));
  if (topP < 1) tokens = nucleus(scores, tokens, topP);
  if (minP > 0) tokens = atLeast(scores, tokens, Math.log(minP));
  return { tokens, scores: Float64Array.from(tokens, (token) => scores[token]) };
}

function atLeast(scores: Float64Array, tokens: Int32Array, least: number): Int32Array<ArrayBuffer> {
  const kept: number[] = [];
  for (let i = 0; i < tokens.length; i++) if (scores[tokens[i]] >= least) kept.push(tokens[i]);
  return Int32Array.from(kept);
}

/** Hoare's selection: what a descending sort would put at place k, in linear time. */
function kthLargest(scores: Float64Array, k: number): number {
  const values = scores.slice();
  let low = 0;
  let high = values.length - 1;
  while (low < high) {
    const pivot = values[(low + high) >> 1];
    let i = low;
    let j = high;
    while (i <= j) {
      while (values[i] > pivot) i++;
      while (values[j] < pivot) j--;
      if (i > j) break;
      [values[i], values[j]] = [values[j], values[i]];
      i++;
      j--;
    }
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else break;
  }
  return values[k - 1];
}

/**
 * The smallest set of likeliest tokens whose probability reaches p (Holtzman et al., 2020). As transformers does it,
 * a token goes when it and all less likely ones together have at most 1 − p; of equals the higher id goes first.
 */
function nucleus(scores: Float64Array, tokens: Int32Array, p: number): Int32Array<ArrayBuffer> {
  let total = 0;
  for (let i = 0; i < tokens.length; i++) total += Math.exp(scores[tokens[i]]);
  // Of n tokens, all that have (1 − p) / n or less have 1 − p or less together: they go without being sorted.
  const rest = atLeast(scores, tokens, Math.log(((1 - p) / tokens.length) * total));
  rest.sort((a, b) => scores[b] - scores[a] || a - b);
  let tail = total;
  for (const token of rest) tail -= Math.exp(scores[token]);
  let end = rest.length;
  for (; end > 1; end--) {
    tail += Math.exp(scores[rest[end - 1]]);
    if (tail > (1 - p) * total) break;
  }
  return rest.subarray(0, end).sort();
}

/** The candidate at `u` in [0, 1) of the cumulated probabilities. */
export function pick({ tokens, scores }: Candidates, u: number): number {
  let total = 0;
  for (let i = 0; i < scores.length; i++) total += Math.exp(scores[i]);
  let left = u * total;
  let last = tokens[0];
  for (let i = 0; i < tokens.length; i++) {
    const weight = Math.exp(scores[i]);
    left -= weight;
    if (left < 0) return tokens[i];
    // Rounding may leave a little after the end, and then a token of probability 0 must not be taken.
    if (weight > 0) last = tokens[i];
  }
  return last;
}

/** Chooses tokens from logits on the host; draw n uses the nth number of the seed's Philox stream. */
export class Sampler {
  readonly options: SamplingOptions;
  readonly #seed: readonly [number, number];
  #draws = 0;

  /** @throws RangeError naming an option that is out of its range */
  constructor(options: SamplingOptions) {
    checkSampling(options);
    this.options = options;
    const { seed } = options;
    this.#seed =
      seed === undefined
        ? (Array.from(crypto.getRandomValues(new Uint32Array(2))) as [number, number])
        : [seed >>> 0, Math.floor(seed / 2 ** 32)];
  }

  /** Does it take the likeliest token of the logits as they are? Then the device can find it. */
  get greedy(): boolean {
    return !this.options.temperature && (this.options.repetitionPenalty ?? 1) === 1;
  }

  /**
   * @param logits f32 [vocabulary]; changed
   * @param seen tokens of the prompt and the answer so far
   */
  async choose(logits: Float32Array, seen: Iterable<number>): Promise<number> {
    penalizeRepetition(logits, seen, this.options.repetitionPenalty ?? 1);
    if (!this.options.temperature) return argmax(logits);
    const draw = rand([1], { seed: this.#seed, stream: this.#draws++ }, { device: reference });
    const u = await draw.item();
    draw.dispose();
    return pick(candidates(logits, this.options), u);
  }
}
