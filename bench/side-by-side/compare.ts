// Times contenders in turn: everything is verified first, then every task goes round all contenders several times.
import type { Contender, Job } from "./contenders/contender.ts";
import { TASKS, type TaskName, verify } from "./tasks.ts";

export interface Row {
  name: string;
  threads: number | string;
  /** Milliseconds of the best round's mean; or why there is none. */
  ms: { [T in TaskName]: number | string };
}

const ROUNDS = 5;
/** Milliseconds of work, then of rest, before a job is timed: engines compile anew, in the background, what they find hot. */
const WARM_UP = { work: 500, rest: 100 };

/** Mean milliseconds of as many runs as `budget` milliseconds hold. */
async function time(job: Job, budget: number): Promise<number> {
  const started = performance.now();
  let [runs, spent] = [0, 0];
  do {
    await job.run();
    runs++;
    spent = performance.now() - started;
  } while (spent < budget);
  return spent / runs;
}

/** @param budget milliseconds for one contender's task in one round */
export async function compare(
  contenders: readonly Contender[],
  budget = 150,
  only: readonly TaskName[] = TASKS,
): Promise<Row[]> {
  const rows = contenders.map(({ name, threads }): Row => ({ name, threads, ms: {} as Row["ms"] }));
  for (const task of only) {
    const jobs: (Job | undefined)[] = [];
    for (const [i, contender] of contenders.entries()) {
      try {
        const job = await contender.prepare(task);
        verify(task, contender.name, await job.result());
        await time(job, WARM_UP.work);
        await new Promise((resolve) => setTimeout(resolve, WARM_UP.rest));
        jobs[i] = job;
      } catch (error) {
        rows[i].ms[task] = `failed: ${(error as Error).message.slice(0, 200)}`;
      }
    }
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, job] of jobs.entries()) {
        if (!job) continue;
        const ms = await time(job, budget);
        rows[i].ms[task] = Math.min(ms, (rows[i].ms[task] as number | undefined) ?? Number.POSITIVE_INFINITY);
      }
    }
  }
  return rows;
}

/** The rows as a Markdown table, milliseconds. */
export function table(rows: readonly Row[]): string {
  const cell = (ms: number | string): string => (typeof ms === "number" ? ms.toPrecision(3) : ms);
  const lines = rows.map(
    ({ name, threads, ms }) => `| ${name} | ${threads} | ${TASKS.map((t) => cell(ms[t])).join(" | ")} |`,
  );
  return [
    `| ms | threads | ${TASKS.join(" | ")} |`,
    `| --- | --- | ${TASKS.map(() => "---").join(" | ")} |`,
    ...lines,
  ].join("\n");
}
