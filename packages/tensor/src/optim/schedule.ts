/** A learning-rate schedule: the factor on the peak rate for step `k` of `n` (counted from 1). */
export type Schedule = (k: number, n: number) => number;

/** Half a wave from 1 to 0. */
const fall = (t: number): number => 0.5 * (1 + Math.cos(Math.PI * t));

/** Shapes of the decay after warm-up, by the names transformers uses. `t` runs from 0 at the first step towards 1. */
const DECAY = {
  linear: (t: number) => 1 - t,
  cosine: fall,
  constant: () => 1,
  /** Falls `cycles` times and starts again at the top. */
  cosine_with_restarts: (t: number, cycles: number) => (t >= 1 ? 0 : fall((cycles * t) % 1)),
} as const;

/** Names that {@link schedule} takes. */
export type ScheduleName = keyof typeof DECAY;
/** All of them. */
export const SCHEDULES = Object.keys(DECAY) as ScheduleName[];

/** Settings of a {@link schedule} besides its shape. */
export interface ScheduleOptions {
  /** Share of the steps, 0 … 1, over which the rate rises. Default 0. */
  warmup?: number;
  /** The same as a number of steps, which wins over the share. */
  warmupSteps?: number;
  /** The lowest factor after the warm-up, 0 … 1. Default 0. */
  minFactor?: number;
  /** Of `cosine_with_restarts`. Default 1. */
  cycles?: number;
}

/**
 * Rises from 0 over the warm-up, then decays from 1 to `minFactor`: step k of n without warm-up has the factor
 * decay((k−1)/n), as transformers' `get_scheduler`; the lowest factor as its `cosine_with_min_lr`.
 */
export function schedule(name: ScheduleName, options: ScheduleOptions = {}): Schedule {
  const { warmup = 0, warmupSteps, minFactor = 0, cycles = 1 } = options;
  return (k, n) => {
    const rising = warmupSteps ?? Math.ceil(warmup * n);
    if (k <= rising) return (k - 1) / Math.max(1, rising);
    const factor = DECAY[name]((k - 1 - rising) / Math.max(1, n - rising), cycles);
    return factor * (1 - minFactor) + minFactor;
  };
}
