import { type Job, nextJob, rungs } from "./halving.ts";
import { bestOf, type TrialResult } from "./result.ts";
import { bounds, drawsOf, type Settings, type Space } from "./space.ts";

/** What a search may use; it ends at whichever comes first. */
export interface Budget {
  /** Trainings: a trial that goes up a rung is one more. */
  readonly runs?: number;
  readonly seconds?: number;
}

/** A job with all that its training needs. */
export interface TrialJob extends Job {
  /** Epochs that the trial has had when the job is done. */
  readonly epochs: number;
  readonly settings: Settings;
}

export interface Search {
  readonly space: Space;
  readonly seed: number;
  /** One of so many trials goes up a rung, to so many times the epochs. */
  readonly factor: number;
  readonly budget: Budget;
  /** What an earlier search with the same space and seed found. */
  readonly results?: readonly TrialResult[];
  /** Seconds that it took. */
  readonly seconds?: number;
  /** Does a job. The signal aborts when the budget of time is used up, and when the search's does. What it throws ends the search. */
  run(job: TrialJob, signal: AbortSignal): Promise<TrialResult>;
  /** Jobs that may run at once now. */
  slots(results: readonly TrialResult[]): number;
  /** Called with all results and the time so far whenever one has come; the next jobs begin when it is done. */
  onResult(results: readonly TrialResult[], seconds: number): Promise<void> | void;
  signal?: AbortSignal;
}

/** How often the number of slots is asked for while nothing happens: workers come and go. */
const LOOK_MS = 2000;

/**
 * Searches until the budget is used up or the space has no more. With one slot the same seed gives the same trials in the
 * same order; with more, what goes up depends on which trial ends first.
 *
 * @throws what `run` and `onResult` throw, after the other jobs have been stopped; the signal's reason
 */
export async function search(options: Search): Promise<{ results: TrialResult[]; seconds: number }> {
  const { space, seed, budget, signal } = options;
  const epochs = rungs(bounds(space.epochs), options.factor);
  const results = [...(options.results ?? [])];
  const started = performance.now();
  const spent = (): number => (options.seconds ?? 0) + (performance.now() - started) / 1000;
  const left = (): number => (budget.seconds ?? Number.POSITIVE_INFINITY) - spent();
  const stop = new AbortController();
  const stopped = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const draws = drawsOf(space, seed);
  const running = new Map<string, { job: Job; done: Promise<void> }>();
  let failure: { readonly error: unknown } | undefined;

  const start = (job: Job): void => {
    const key = `${job.trial}/${job.rung}`;
    const whole = { ...job, epochs: epochs[job.rung], settings: draws(job.trial)! };
    const work = async (): Promise<void> => {
      try {
        const result = await options.run(whole, stopped);
        results.push(result);
        running.delete(key);
        await options.onResult(results, spent());
      } catch (error) {
        running.delete(key);
        // What time's end has cut short is no failure.
        if (!(stop.signal.aborted && failure === undefined && !signal?.aborted)) failure ??= { error };
        stop.abort();
      }
    };
    running.set(key, { job, done: work() });
  };

  for (;;) {
    while (!stopped.aborted && running.size < options.slots(results)) {
      const jobs = [...running.values()].map(({ job }) => job);
      const runsLeft = (budget.runs ?? Number.POSITIVE_INFINITY) - results.length - jobs.length;
      const begun = 1 + Math.max(-1, ...[...results, ...jobs].map(({ trial }) => trial));
      const trials = draws(begun) ? begun + 1 : begun;
      const jobsLeft = Math.min(runsLeft, timeFor(epochs, results, left()));
      const job = nextJob({
        ...{ results, running: jobs, rungCount: epochs.length, factor: options.factor, trials, jobsLeft },
      });
      if (job === undefined || (results.length > 0 && secondsOf(epochs, results, job) > left())) break;
      start(job);
    }
    if (running.size === 0) break;
    // Without any result a budget that was too short is overdrawn: a search that ends with nothing helps nobody.
    if (left() <= 0 && results.length > 0) stop.abort();
    const wait = Math.min(LOOK_MS, results.length > 0 ? Math.max(1, 1000 * left()) : LOOK_MS);
    await Promise.race([...[...running.values()].map(({ done }) => done), Bun.sleep(wait)]);
  }
  signal?.throwIfAborted();
  if (failure) throw failure.error;
  return { results, seconds: spent() };
}

/** What a job is likely to take, by the slowest of those that have ended. */
function secondsOf(epochs: readonly number[], results: readonly TrialResult[], { rung }: Job): number {
  const own = (at: number): number => epochs[at] - (at > 0 ? epochs[at - 1] : 0);
  const known = results.filter((result) => result.status === "done");
  return own(rung) * Math.max(0, ...known.map((result) => result.seconds / own(result.rung)));
}

/** Rungs that the best trial can still go up in the time that is left, once that is about what its way to the top takes. */
function timeFor(epochs: readonly number[], results: readonly TrialResult[], left: number): number {
  const best = bestOf(results);
  if (best === undefined || left === Number.POSITIVE_INFINITY) return Number.POSITIVE_INFINITY;
  let [needed, fits] = [0, 0];
  for (let rung = best.rung + 1; rung < epochs.length; rung++) {
    needed += secondsOf(epochs, results, { trial: best.trial, rung });
    if (needed <= left) fits++;
  }
  const bottom = secondsOf(epochs, results, { trial: 0, rung: 0 });
  return needed + bottom <= left || needed === 0 ? Number.POSITIVE_INFINITY : Math.max(1, fits);
}
