/** How many values lie from `from` to `to`, both included. */
export interface Bucket {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

export interface Lengths {
  readonly min: number;
  readonly median: number;
  readonly mean: number;
  readonly max: number;
  readonly histogram: readonly Bucket[];
}

const MOST_BUCKETS = 12;

/** Statistics of lengths, of which there must be one at least. */
export function lengthsOf(lengths: readonly number[]): Lengths {
  const sorted = Float64Array.from(lengths).sort();
  const [n, min, max] = [sorted.length, sorted[0], sorted[sorted.length - 1]];
  const median = (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2;
  const mean = sorted.reduce((sum, x) => sum + x, 0) / n;
  const width = bucketWidth(max - min + 1);
  const first = Math.floor(min / width);
  const counts = new Array<number>(Math.floor(max / width) - first + 1).fill(0);
  for (const length of sorted) counts[Math.floor(length / width) - first]++;
  const histogram = counts.map((count, i) => ({
    from: (first + i) * width,
    to: (first + i + 1) * width - 1,
    count,
  }));
  return { min, median, mean, max, histogram };
}

/** The smallest of 1, 2, 5, 10, 20, … that needs few buckets for so wide a range. */
function bucketWidth(range: number): number {
  for (let power = 1; ; power *= 10) {
    for (const step of [1, 2, 5]) if (range / (step * power) <= MOST_BUCKETS - 1) return step * power;
  }
}
