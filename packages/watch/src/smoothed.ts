/** How much of the past a smoothed loss keeps at each step. */
export const SMOOTHING = 0.9;

/**
 * An exponential moving average that starts without a bias to 0: the weights of all values so far add up to 1, as in Adam's moments
 * (Kingma & Ba, 2015, section 3) and TensorBoard's smoothing.
 */
export class Smoothed {
  readonly #keep: number;
  #sum = 0;
  #weight = 0;

  constructor(keep = SMOOTHING) {
    this.#keep = keep;
  }

  /** Takes a value and gives the average. */
  add(value: number): number {
    this.#sum = this.#keep * this.#sum + (1 - this.#keep) * value;
    this.#weight = this.#keep * this.#weight + 1 - this.#keep;
    return this.#sum / this.#weight;
  }
}
