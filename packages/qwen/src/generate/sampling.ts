import { rand, reference } from "@tslm/tensor";
import { Narrowing } from "./filters.ts";
import { addBias, penalizePresence, penalizeRepetition } from "./penalties.ts";

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
  /** Only tokens whose surprise is nearest to the expected one, together of this probability; 1, the default, keeps all. */
  readonly typicalP?: number;
  /** Above 1, tokens that stand in the prompt or the answer already become less likely. Default 1. */
  readonly repetitionPenalty?: number;
  /** Taken from the scores of tokens that stand in the answer already. Default 0. */
  readonly presencePenalty?: number;
  /** Taken from the scores of tokens for each time they stand in the answer already. Default 0. */
  readonly frequencyPenalty?: number;
  /** Added to the scores of tokens, by id. */
  readonly logitBias?: Readonly<Record<number, number>>;
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
  check("typicalP", (x) => x > 0 && x <= 1, "a number above 0 and at most 1");
  check("presencePenalty", Number.isFinite, "a number");
  check("frequencyPenalty", Number.isFinite, "a number");
  for (const [token, bias] of Object.entries(options.logitBias ?? {})) {
    if (!/^\d+$/.test(token) || !Number.isFinite(bias)) {
      throw new RangeError(`logitBias must give numbers to token ids, but has ${token}: ${bias}`);
    }
  }
  check("repetitionPenalty", (x) => Number.isFinite(x) && x > 0, "a number above 0");
  check("seed", (x) => Number.isSafeInteger(x) && x >= 0, "a whole number of at least 0");
}

/** The index of the largest score, the first of equals. */
export function argmax(scores: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

const narrowing = new Narrowing();

/**
 * The tokens that temperature (above 0), top-k, top-p, min-p and typical p leave, in transformers' order: each works on what
 * the one before it left. At least one token stays.
 *
 * @param logits f32 [vocabulary]
 * @returns views that the next call overwrites
 */
export function candidates(logits: Float32Array, options: SamplingOptions): Candidates {
  const { tokens, scores, count } = narrow(logits, options);
  return { tokens: tokens.subarray(0, count), scores: scores.subarray(0, count) };
}

function narrow(logits: Float32Array, options: SamplingOptions): Narrowing {
  const { temperature = 1, topK = 0, topP = 1, minP = 0, typicalP = 1 } = options;
  const most = logits[argmax(logits)];
  if (most === Number.NEGATIVE_INFINITY) throw new RangeError("no token may come next: all scores are −∞");
  if (!Number.isFinite(most)) {
    throw new RangeError("the model's scores are not finite; its weights or adapter are broken, or training diverged");
  }
  narrowing.begin(logits, most, temperature);
  if (topK > 0) narrowing.top(topK);
  if (topP < 1) narrowing.nucleus(topP);
  if (minP > 0) narrowing.atLeast(Math.log(minP));
  if (typicalP < 1) narrowing.typical(typicalP);
  return narrowing;
}

/** The candidate at `u` in [0, 1) of the cumulated probabilities. */
export function pick(logits: Float32Array, options: SamplingOptions, u: number): number {
  return narrow(logits, options).pick(u);
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
    const { temperature, repetitionPenalty = 1, presencePenalty, frequencyPenalty, logitBias } = this.options;
    return !temperature && repetitionPenalty === 1 && !presencePenalty && !frequencyPenalty && !logitBias;
  }

  /**
   * @param logits f32 [vocabulary]; changed
   * @param seen tokens of the prompt and the answer so far
   * @param from where the answer begins in them
   */
  async choose(logits: Float32Array, seen: readonly number[], from = 0): Promise<number> {
    const { temperature, repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, logitBias } = this.options;
    if (logitBias) addBias(logits, logitBias);
    penalizeRepetition(logits, seen, repetitionPenalty);
    penalizePresence(logits, seen, from, { presence: presencePenalty, frequency: frequencyPenalty });
    if (!temperature) return argmax(logits);
    const draw = rand([1], { seed: this.#seed, stream: this.#draws++ }, { device: reference });
    const u = await draw.item();
    draw.dispose();
    return pick(logits, this.options, u);
  }
}
