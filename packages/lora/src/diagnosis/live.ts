/** Steps before which nothing is called hopeless. */
const EARLY = 8;
/** Losses in a row that must all be far too high. */
const ROW = 5;

/**
 * Is a run that goes on to be given up: is its loss for good far above where it began? Undefined where it is not; else
 * the reason, a sentence.
 */
export function hopelessness(losses: readonly number[]): string | undefined {
  if (losses.length < EARLY) return undefined;
  const [first] = losses;
  const last = losses.slice(-ROW);
  const limit = 1.5 * first + 1;
  // On the way down again it may still come right.
  const isFalling = last.every((loss, i) => i === 0 || loss < last[i - 1]);
  if (isFalling || !last.every((loss) => loss > limit)) return undefined;
  const mean = last.reduce((sum, loss) => sum + loss, 0) / ROW;
  return `The loss began at ${first.toFixed(2)} and stays at ${mean.toFixed(2)}; it will not come back.`;
}
