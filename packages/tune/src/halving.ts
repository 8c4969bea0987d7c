import { compareResults, isUsable, type TrialResult } from "./result.ts";

/** A trial to train up to the epochs of a rung. */
export interface Job {
  readonly trial: number;
  readonly rung: number;
}

/** Epochs of each rung: the fewest, and `factor` times as many from rung to rung, up to the most. */
export function rungs({ min, max }: { min: number; max: number }, factor: number): number[] {
  const epochs: number[] = [];
  for (let at = min; at < max; at = Math.ceil(at * factor)) epochs.push(at);
  return [...epochs, max];
}

/** What the choice of the next job depends on. */
export interface HalvingState {
  /** Finished jobs, each once. */
  readonly results: readonly TrialResult[];
  /** Jobs under way. */
  readonly running: readonly Job[];
  readonly rungCount: number;
  /** One of so many goes up a rung. */
  readonly factor: number;
  /** Trials that the space holds. */
  readonly trials: number;
  /** The budget has room for this many rungs more: the last go to what is best so far, so that something reaches the top. */
  readonly jobsLeft: number;
}

/**
 * The job to do next, by asynchronous successive halving (ASHA; Li et al., "A System for Massively Parallel Hyperparameter
 * Tuning", 2020, algorithm 2): where one is among the best 1/factor of its rung it goes up, from the highest rung down;
 * otherwise a new trial begins at the bottom. Nobody waits for a rung to be full.
 *
 * @returns undefined where nothing can begin now
 */
export function nextJob({ results, running, rungCount, factor, trials, jobsLeft }: HalvingState): Job | undefined {
  if (jobsLeft <= 0) return undefined;
  const has = (list: readonly Job[], trial: number, rung: number): boolean =>
    list.some((job) => job.trial === trial && job.rung === rung);
  const isTaken = (trial: number, rung: number): boolean => has(results, trial, rung) || has(running, trial, rung);

  const final = finish();
  if (final) return final;
  for (let rung = rungCount - 2; rung >= 0; rung--) {
    const done = results.filter((result) => result.rung === rung).sort(compareResults);
    const best = done.slice(0, Math.floor(done.length / factor));
    const found = best.find((result) => isUsable(result) && !isTaken(result.trial, rung + 1));
    if (found) return { trial: found.trial, rung: rung + 1 };
  }
  for (let trial = 0; trial < trials; trial++) if (!isTaken(trial, 0)) return { trial, rung: 0 };
  // The space is used up: the best that waits goes up.
  return promotable()[0];

  /** Trials that could go up from where they are, the best first. */
  function promotable(): Job[] {
    const waiting = results.filter(
      (result) => isUsable(result) && result.rung < rungCount - 1 && !isTaken(result.trial, result.rung + 1),
    );
    return waiting.sort(compareResults).map(({ trial, rung }) => ({ trial, rung: rung + 1 }));
  }

  /** The next rung of the best of those that can still reach the top, once the budget has no room for more than its way up. */
  function finish(): Job | undefined {
    if (results.some(({ rung }) => rung === rungCount - 1) || running.some(({ rung }) => rung === rungCount - 1)) {
      return undefined;
    }
    const best = promotable().find(({ rung }) => rungCount - rung <= jobsLeft);
    if (best === undefined || jobsLeft > rungCount - best.rung) return undefined;
    return running.some(({ rung }) => rung >= best.rung) ? undefined : best;
  }
}
