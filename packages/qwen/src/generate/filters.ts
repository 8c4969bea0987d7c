/**
 * The tokens that may come next while filters narrow them: ids by rising number and, beside each, its score relative to the
 * likeliest one's. The arrays are as long as the vocabulary and used again for every token, so that choosing allocates
 * nothing.
 */
export class Narrowing {
  count = 0;
  tokens = new Int32Array(0);
  scores = new Float64Array(0);
  #values = new Float64Array(0);
  #weights = new Float64Array(0);

  /** Begins with all tokens that are not at −∞. */
  begin(logits: Float32Array, most: number, temperature: number): void {
    if (this.tokens.length < logits.length) {
      this.tokens = new Int32Array(logits.length);
      this.scores = new Float64Array(logits.length);
      this.#values = new Float64Array(logits.length);
      this.#weights = new Float64Array(logits.length);
    }
    const { tokens, scores } = this;
    let count = 0;
    for (let i = 0; i < logits.length; i++) {
      const logit = logits[i];
      if (logit === Number.NEGATIVE_INFINITY) continue;
      tokens[count] = i;
      // Relative to the largest, so that neither a tiny temperature nor exp() overflows.
      scores[count++] = (logit - most) / temperature;
    }
    this.count = count;
  }

  /** Only those with at least this score. */
  atLeast(least: number): void {
    const { tokens, scores, count } = this;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      if (!(scores[i] >= least)) continue;
      tokens[kept] = tokens[i];
      scores[kept++] = scores[i];
    }
    this.count = kept;
  }

  /** Only the k best, and equals of the kth, as transformers keeps them. */
  top(k: number): void {
    if (k >= this.count) return;
    this.atLeast(k <= HEAP ? kthByHeap(this.scores, this.count, k) : this.#kthLargest(k));
  }

  /**
   * The smallest set of likeliest tokens whose probability reaches p (Holtzman et al., 2020). As transformers does it,
   * a token goes when it and all less likely ones together have at most 1 − p; of equals the higher id goes first.
   */
  nucleus(p: number): void {
    const { scores, tokens, count } = this;
    const total = this.#weigh();
    const limit = (1 - p) * total;
    // Of n tokens, all that have (1 − p) / n or less have 1 − p or less together: they go unlooked at.
    const least = limit / count;
    let rest = 0;
    let below = total;
    for (let i = 0; i < count; i++) {
      const weight = this.#weights[i];
      if (!(weight > least)) continue;
      this.#values[rest] = scores[i];
      this.#weights[rest++] = weight;
      below -= weight;
    }
    const found = smallestReaching(this.#values, this.#weights, rest, Math.max(0, below), (sum) => sum > limit);
    // Of the equals at the edge, as many as fit go.
    let equals = 0;
    for (let i = 0; i < count; i++) if (scores[i] === found.value) equals++;
    const going = Math.min(equals - 1, Math.floor((limit - found.below) / weightOf(found.value)));
    let staying = equals - Math.max(0, going);
    let kept = 0;
    for (let i = 0; i < count; i++) {
      if (scores[i] < found.value || (scores[i] === found.value && staying-- <= 0)) continue;
      tokens[kept] = tokens[i];
      scores[kept++] = scores[i];
    }
    this.count = kept;
  }

  /**
   * Locally typical tokens (Meister et al., 2023): those whose surprise −ln p is nearest to the expected one, the entropy,
   * as many as reach the probability; as transformers' `TypicalLogitsWarper`, with equals of the last.
   */
  typical(probability: number): void {
    const { scores, tokens, count } = this;
    const total = this.#weigh();
    let mean = 0;
    for (let i = 0; i < count; i++) if (this.#weights[i] > 0) mean += this.#weights[i] * scores[i];
    mean /= total;
    // |−ln p − entropy|: the logarithm of the total is in both and goes.
    for (let i = 0; i < count; i++) this.#values[i] = Math.abs(scores[i] - mean);
    const wanted = probability * total;
    const { value } = smallestReaching(this.#values, this.#weights, count, 0, (sum) => sum >= wanted);
    let kept = 0;
    for (let i = 0; i < count; i++) {
      if (Math.abs(scores[i] - mean) > value) continue;
      tokens[kept] = tokens[i];
      scores[kept++] = scores[i];
    }
    this.count = kept;
  }

  /** The token at `u` in [0, 1) of the cumulated probabilities. */
  pick(u: number): number {
    const { tokens, count } = this;
    const weights = this.#weights;
    let left = u * this.#weigh();
    let last = tokens[0];
    for (let i = 0; i < count; i++) {
      left -= weights[i];
      if (left < 0) return tokens[i];
      // Rounding may leave a little after the end, and then a token of probability 0 must not be taken.
      if (weights[i] > 0) last = tokens[i];
    }
    return last;
  }

  /** Probabilities but for their sum, which is returned. */
  #weigh(): number {
    const { scores, count } = this;
    const weights = this.#weights;
    let total = 0;
    for (let i = 0; i < count; i++) total += weights[i] = weightOf(scores[i]);
    return total;
  }

  /** Hoare's selection: what a descending sort would put at place k, in linear time. */
  #kthLargest(k: number): number {
    const values = this.#values;
    values.set(this.scores.subarray(0, this.count));
    let low = 0;
    let high = this.count - 1;
    while (low < high) {
      const pivot = values[(low + high) >> 1];
      let i = low;
      let j = high;
      while (i <= j) {
        while (values[i] > pivot) i++;
        while (values[j] < pivot) j--;
        if (i > j) break;
        const value = values[i];
        values[i++] = values[j];
        values[j--] = value;
      }
      if (k - 1 <= j) high = j;
      else if (k - 1 >= i) low = i;
      else break;
    }
    return values[k - 1];
  }
}

/** exp, where it is not lost in a sum of 1 or more. */
function weightOf(score: number): number {
  return score < -60 ? 0 : Math.exp(score);
}

/** Up to so many the best are found with a heap, in one pass. */
const HEAP = 256;
const heap = new Float64Array(HEAP);

/** The kth largest of the first `count` values; the heap's root is the smallest of the k largest so far. */
function kthByHeap(values: Float64Array, count: number, k: number): number {
  const sink = (value: number): void => {
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= k) break;
      if (child + 1 < k && heap[child + 1] < heap[child]) child++;
      if (heap[child] >= value) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = value;
  };
  heap.fill(Number.NEGATIVE_INFINITY, 0, k);
  for (let i = 0; i < count; i++) if (values[i] > heap[0]) sink(values[i]);
  return heap[0];
}

/**
 * Of values with weights, the smallest one such that it and all smaller ones weigh enough together, by selection: no sort.
 * Both arrays' first `count` places are put in another order.
 *
 * @param below weight of smaller values that are not in the array
 * @returns the value, and the weight of all smaller ones
 */
function smallestReaching(
  values: Float64Array,
  weights: Float64Array,
  count: number,
  below: number,
  isEnough: (weight: number) => boolean,
): { value: number; below: number } {
  const swap = (i: number, j: number): void => {
    const [value, weight] = [values[i], weights[i]];
    values[i] = values[j];
    weights[i] = weights[j];
    values[j] = value;
    weights[j] = weight;
  };
  let low = 0;
  let high = count;
  for (;;) {
    const pivot = values[(low + high) >> 1];
    let smaller = low;
    let larger = high;
    let [weightBelow, weightAt] = [0, 0];
    for (let i = low; i < larger; ) {
      if (values[i] < pivot) {
        weightBelow += weights[i];
        swap(i++, smaller++);
      } else if (values[i] > pivot) swap(i, --larger);
      else weightAt += weights[i++];
    }
    if (smaller > low && isEnough(below + weightBelow)) {
      high = smaller;
      continue;
    }
    below += weightBelow;
    // Rounding may leave the last one a little short.
    if (isEnough(below + weightAt) || larger >= high) return { value: pivot, below };
    below += weightAt;
    low = larger;
  }
}
