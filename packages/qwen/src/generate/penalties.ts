/** Marks of tokens that were met in a pass, by token; used again. */
let counts = new Int32Array(0);

/** Calls back once for each token in a list, with how often it stands there. */
function forEachCount(
  vocabulary: number,
  tokens: readonly number[],
  from: number,
  callback: (token: number, count: number) => void,
): void {
  if (counts.length < vocabulary) counts = new Int32Array(vocabulary);
  for (let i = from; i < tokens.length; i++) counts[tokens[i]]++;
  for (let i = from; i < tokens.length; i++) {
    const token = tokens[i];
    const count = counts[token];
    if (count === 0) continue;
    counts[token] = 0;
    callback(token, count);
  }
}

/**
 * Makes the scores of tokens that were seen smaller: divides positive ones by the penalty and multiplies the others by
 * it (Keskar et al., 2019; transformers' `RepetitionPenaltyLogitsProcessor`). In place.
 */
export function penalizeRepetition(scores: Float32Array, seen: readonly number[], penalty: number): void {
  if (penalty === 1) return;
  // In f32, as the scores are: the same bits as PyTorch's.
  const factor = Math.fround(penalty);
  forEachCount(scores.length, seen, 0, (token) => {
    scores[token] = scores[token] < 0 ? scores[token] * factor : scores[token] / factor;
  });
}

/**
 * Takes from the score of each token of the answer so far `presence`, and `frequency` for each time it stands there; as in
 * OpenAI's interface. In place.
 *
 * @param from where the answer begins in `tokens`
 */
export function penalizePresence(
  scores: Float32Array,
  tokens: readonly number[],
  from: number,
  { presence, frequency }: { readonly presence: number; readonly frequency: number },
): void {
  if (presence === 0 && frequency === 0) return;
  forEachCount(scores.length, tokens, from, (token, count) => {
    scores[token] -= presence + frequency * count;
  });
}

/** Adds to scores by token. In place. */
export function addBias(scores: Float32Array, bias: Readonly<Record<number, number>>): void {
  for (const token in bias) if (Number(token) < scores.length) scores[Number(token)] += bias[token];
}

/** Sets the scores of all tokens to −∞ that a constraint does not allow; see `TokenConstraint.allowed`. In place. */
export function maskScores(scores: Float32Array, allowed: Uint32Array): void {
  for (let first = 0; first < scores.length; first += 32) {
    const word = allowed[first >> 5] ?? 0;
    if (word === 0xffffffff) continue;
    const end = Math.min(first + 32, scores.length);
    if (word === 0) scores.fill(Number.NEGATIVE_INFINITY, first, end);
    else for (let i = first; i < end; i++) if ((word & (1 << (i & 31))) === 0) scores[i] = Number.NEGATIVE_INFINITY;
  }
}
