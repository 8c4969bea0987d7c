import { describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { effects } from "./effects.ts";
import { nextJob, rungs } from "./halving.ts";
import { renderSearch } from "./report/report.ts";
import { bestOf, compareResults, finalResults, type TrialResult } from "./result.ts";
import { type Search, search, type TrialJob } from "./search.ts";
import { DEFAULT_SPACE, DIMENSIONS, drawsOf, type Settings, type Space, spaceSchema } from "./space.ts";
import { newState, readState, writeState } from "./state.ts";

const result = (rest: Partial<TrialResult>): TrialResult => ({
  ...{ trial: 0, rung: 0, status: "done", epochs: 1, steps: 1, seconds: 1, samples: [] },
  ...rest,
});

/** A landscape with its best rate at 1e-3 and rank 8, and a cliff at high rates; more epochs come nearer to it. */
function landscape({ rank, lr }: Settings, epochs: number): Partial<TrialResult> {
  if (lr > 2e-2) return { status: "failed" };
  const off = Math.abs(Math.log10(lr / 1e-3)) + 0.2 * Math.abs(Math.log2(rank / 8));
  const loss = off + 3 / epochs;
  return { loss, answered: loss < 0.6 ? 1 : 0 };
}
const SPACE: Space = {
  ...DEFAULT_SPACE,
  rank: { values: [2, 4, 8, 16] },
  lr: { min: 1e-5, max: 1e-1 },
  epochs: { min: 1, max: 9 },
};
const run = async ({ trial, rung, epochs, settings }: TrialJob): Promise<TrialResult> =>
  result({ trial, rung, epochs, ...landscape(settings, epochs) });
const base: Search = {
  space: SPACE,
  seed: 0,
  factor: 3,
  budget: { runs: 30 },
  run,
  slots: () => 1,
  onResult: () => {},
};

describe("a space", () => {
  test("takes one number, several, or a range, as text and from YAML", () => {
    expect(spaceSchema.parse({ rank: "4,8", alpha: 32, lr: "1e-4..3e-3", repeat: [1, 4], epochs: "2..18" })).toEqual({
      rank: { values: [4, 8] },
      alpha: { values: [32] },
      lr: { min: 1e-4, max: 3e-3 },
      repeat: { values: [1, 4] },
      epochs: { min: 2, max: 18 },
    });
    expect(DIMENSIONS.lr.parse("1e-3..1e-3")).toEqual({ values: [1e-3] });
  });
  const wrong: [keyof typeof DIMENSIONS, unknown, string][] = [
    ["rank", "4,,8", "whole numbers from 1 to 4096: one, several such as 4,8,16, or a range"],
    ["rank", "0..4", "whole numbers from 1"],
    ["rank", "1.5", "whole numbers from 1"],
    ["lr", "3e-3..1e-3", "numbers above 0"],
    ["lr", "fast", "numbers above 0"],
    ["lr", "-1", "numbers above 0"],
    ["alpha", [], "numbers above 0"],
    ["alpha", true, "numbers above 0"],
    ["epochs", "1,3", "the fewest and the most epochs"],
  ];
  test.each(wrong)("%s %p is refused", (name, text, told) => {
    expect(DIMENSIONS[name].safeParse(text).error?.issues[0].message).toContain(told);
  });

  test("draws distinct settings inside it, by seed and number alone", () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(20), (seed, count) => {
        const drawn = Array.from({ length: count }, (_, i) => drawsOf(SPACE, seed)(i)!);
        expect(new Set(drawn.map((one) => JSON.stringify(one))).size).toBe(count);
        for (const { rank, lr } of drawn) {
          expect([2, 4, 8, 16]).toContain(rank);
          expect(lr >= 1e-5 && lr <= 1e-1).toBe(true);
        }
        if (count > 1) expect(drawsOf(SPACE, seed)(count - 1)).toEqual(drawn[count - 1]);
      }),
      { numRuns: 50 },
    );
    expect(drawsOf(SPACE, 0)(0)).not.toEqual(drawsOf(SPACE, 1)(0));
  });
  test("a range is drawn evenly over its factors", () => {
    const below = Array.from({ length: 200 }, (_, i) => drawsOf(SPACE, 3)(i)!.lr).filter((lr) => lr < 1e-3).length;
    expect(below).toBeGreaterThan(80);
    expect(below).toBeLessThan(120);
  });
  test("a space that is used up has no more", () => {
    const one = { values: [1] };
    const space = { ...SPACE, alpha: one, lr: { values: [1, 2] }, repeat: one, rank: { values: [1, 2, 3] } };
    expect(drawsOf(space, 0)(5)).toBeDefined();
    expect(drawsOf(space, 0)(6)).toBeUndefined();
  });
});

describe("the order of results", () => {
  const ordered = [
    result({ answered: 1, validation_loss: 2, loss: 9 }),
    result({ answered: 1, validation_loss: 3, loss: 0.1 }),
    result({ answered: 0.5, loss: 0.1 }),
    result({ answered: 0, loss: 0.01 }),
    result({ answered: 1, loss: 0.001, verdict: "collapse" }),
    result({ answered: 1, loss: 0.001, status: "failed" }),
  ];
  test("facts first, then validation loss, else training loss; what broke is last and is never the best", () => {
    expect(ordered.toReversed().sort(compareResults)).toEqual(ordered);
    expect(bestOf(ordered.slice(4))).toBeUndefined();
  });
});

describe("successive halving", () => {
  test("rungs", () => {
    expect(rungs({ min: 2, max: 18 }, 3)).toEqual([2, 6, 18]);
    expect(rungs({ min: 2, max: 10 }, 3)).toEqual([2, 6, 10]);
    expect(rungs({ min: 4, max: 4 }, 3)).toEqual([4]);
  });
  test("goes up when it is the best of its share, else begins at the bottom", () => {
    const results = [3, 1, 2].map((loss, trial) => result({ trial, loss }));
    const state = { results, running: [], rungCount: 3, factor: 3, trials: 99, jobsLeft: 50 };
    expect(nextJob(state)).toEqual({ trial: 1, rung: 1 });
    expect(nextJob({ ...state, running: [{ trial: 1, rung: 1 }] })).toEqual({ trial: 3, rung: 0 });
    expect(nextJob({ ...state, results: results.slice(0, 2) })).toEqual({ trial: 2, rung: 0 });
    expect(nextJob({ ...state, jobsLeft: 0 })).toBeUndefined();
  });
  test("the last jobs of a budget bring the best to the top", () => {
    const results = [3, 1].map((loss, trial) => result({ trial, loss }));
    expect(nextJob({ results, running: [], rungCount: 3, factor: 3, trials: 99, jobsLeft: 2 })).toEqual({
      trial: 1,
      rung: 1,
    });
  });
  test("the last jobs of a budget go to what can still reach the top, not to what is better but too far below", () => {
    const results = [0, 1].map((rung) => result({ trial: 0, rung, loss: 2 })).concat(result({ trial: 1, loss: 1 }));
    const state = { results, running: [], rungCount: 3, factor: 3, trials: 99 };
    expect(nextJob({ ...state, jobsLeft: 1 })).toEqual({ trial: 0, rung: 2 });
    expect(nextJob({ ...state, jobsLeft: 2 })).toEqual({ trial: 1, rung: 1 });
  });
  test("what failed or broke never goes up", () => {
    const results = [result({ trial: 0, status: "failed" }), result({ trial: 1, verdict: "collapse", loss: 0 })];
    expect(nextJob({ results, running: [], rungCount: 2, factor: 2, trials: 2, jobsLeft: 9 })).toBeUndefined();
  });
});

describe("a search", () => {
  test("finds about the best of a landscape, and trains few trials long", async () => {
    const { results } = await search({ ...base, budget: { runs: 60 } });
    const best = bestOf(results)!;
    const settings = drawsOf(SPACE, 0)(best.trial)!;
    expect(best).toMatchObject({ answered: 1, epochs: 9 });
    expect(Math.abs(Math.log10(settings.lr / 1e-3))).toBeLessThan(0.35);
    const at = (rung: number) => results.filter((one) => one.rung === rung).length;
    expect(at(0)).toBeGreaterThan(2 * at(1));
    expect(at(1)).toBeGreaterThan(2 * at(2));
    expect(
      effects(SPACE, results, (trial) => drawsOf(SPACE, 0)(trial)!).find(({ setting }) => setting === "lr")?.groups
        .length,
    ).toBe(3);
  });

  test("whatever seed, budget and slots: no job twice, no rung skipped, the budget kept, the best at the top", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 2, max: 4 }),
        async (seed, runs, slots, factor) => {
          let [running, most] = [0, 0];
          const { results } = await search({
            ...base,
            ...{ seed, factor, budget: { runs }, slots: () => slots },
            async run(job) {
              most = Math.max(most, ++running);
              await Promise.resolve();
              running--;
              return run(job);
            },
          });
          expect(results.length).toBe(runs);
          expect(most).toBeLessThanOrEqual(slots);
          const keys = results.map(({ trial, rung }) => `${trial}/${rung}`);
          expect(new Set(keys).size).toBe(keys.length);
          for (const { trial, rung } of results) if (rung > 0) expect(keys).toContain(`${trial}/${rung - 1}`);
          const top = rungs({ min: 1, max: 9 }, factor).length - 1;
          // One that works must be there while enough runs are left for its way up.
          if (slots === 1 && runs > top && bestOf(results.slice(0, runs - top)))
            expect(results.some(({ rung }) => rung === top)).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("cut anywhere and gone on, with what was finished, it comes to the same", async () => {
    const whole = (await search(base)).results;
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 30 }), async (cut) => {
        let done = cut;
        const counted = (job: TrialJob) => {
          done++;
          return run(job);
        };
        const { results } = await search({ ...base, run: counted, results: whole.slice(0, cut) });
        expect(results).toEqual(whole);
        expect(done).toBe(whole.length);
      }),
      { numRuns: 20 },
    );
  });

  test("time: what runs at its end is stopped and does not count; the first result is waited for", async () => {
    const slow = (ms: number) => async (job: TrialJob, signal: AbortSignal) => {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(resolve, ms);
        signal.addEventListener("abort", () => {
          clearTimeout(timer);
          reject(signal.reason);
        });
      });
      return { ...(await run(job)), seconds: ms / 1000 };
    };
    const short = await search({ ...base, budget: { seconds: 0.01 }, run: slow(50) });
    expect(short.results.length).toBe(1);
    const longer = await search({ ...base, budget: { seconds: 0.5 }, run: slow(20) });
    expect(longer.results.length).toBeGreaterThan(3);
    expect(longer.seconds).toBeLessThan(5);
  });

  test("an error ends it, with the others stopped; an abort too", async () => {
    const stopped: number[] = [];
    const failing = (job: TrialJob, signal: AbortSignal): Promise<TrialResult> =>
      job.trial === 1
        ? Promise.reject(new Error("the disk is full"))
        : new Promise((_, reject) =>
            signal.addEventListener("abort", () => {
              stopped.push(job.trial);
              reject(signal.reason);
            }),
          );
    await expect(search({ ...base, slots: () => 3, run: failing })).rejects.toThrow("the disk is full");
    expect(stopped.sort()).toEqual([0, 2]);
    const abort = new AbortController();
    const going = search({ ...base, run: failing, signal: abort.signal });
    abort.abort(new Error("Ctrl-C"));
    await expect(going).rejects.toThrow("Ctrl-C");
  });
});

test("finalResults: the last rung of each trial, the best first", () => {
  const results = [
    result({ trial: 0, loss: 1 }),
    result({ trial: 1, loss: 3 }),
    result({ trial: 0, rung: 1, loss: 0.5 }),
  ];
  expect(finalResults(results).map(({ trial, rung }) => [trial, rung])).toEqual([
    [0, 1],
    [1, 0],
  ]);
});

test("a state is read as it was written; a broken or newer one is refused", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tune-"));
  try {
    expect(await readState(folder)).toBeUndefined();
    const state = newState({
      id: "x",
      seed: 1,
      factor: 3,
      space: SPACE,
      budget: { runs: 3 },
      fixed: [
        ["--loss", "full"],
        ["--no-shuffle", null],
      ],
      data: "",
    });
    state.results.push(result({ answered: 0.5 }));
    await writeState(folder, state);
    expect(await readState(folder)).toEqual(state);
    await Bun.write(join(folder, "tune.json"), JSON.stringify({ ...state, format: 2 }));
    await expect(readState(folder)).rejects.toThrow("tune.json: format is 2; this program reads format 1");
    await Bun.write(join(folder, "tune.json"), "{");
    await expect(readState(folder)).rejects.toThrow("is no JSON");
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("the page holds the search and loads nothing", () => {
  const settings = drawsOf(SPACE, 0)(0)!;
  const one = { ...result({ loss: 1, error: "</script><b>" }), settings };
  const html = renderSearch({ best: one, adapter: "model/x", trials: [one], results: [one], trainings: 1, seconds: 2 });
  expect(html).toContain("default-src 'none'");
  expect(html).not.toContain("</script><b>");
  expect(html).toContain("uPlot");
  expect(html.match(/(?:src|href)="(?!data:)/g)).toBeNull();
});
