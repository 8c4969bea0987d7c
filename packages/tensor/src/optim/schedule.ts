/** A learning-rate schedule: the factor on the peak rate for step `k` of `n` (counted from 1). */
export type Schedule = (k: number, n: number) => number;

/** Shapes of the decay after warm-up, by the names transformers uses. `t` runs from 0 at the first step towards 1. */
const DECAY = {
  linear: (t: number) => 1 - t,
  cosine: (t: number) => 0.5 * (1 + Math.cos(Math.PI * t)),
  constant: () => 1,
} as const;

/** Names that {@link schedule} takes. */
export type ScheduleName = keyof typeof DECAY;
/** All of them. */
export const SCHEDULES = Object.keys(DECAY) as ScheduleName[];

/**
 * Rises over the first `warmup` share (0 … 1) of the steps, then decays: step k of n without warm-up has the factor
 * decay((k−1)/n), as transformers' `get_scheduler`.
 */
export function schedule(name: ScheduleName, warmup = 0): Schedule {
  return (k, n) => {
    const rising = Math.ceil(warmup * n);
    if (k <= rising) return (k - 1) / Math.max(1, rising);
    return DECAY[name]((k - 1 - rising) / Math.max(1, n - rising));
  };
}
