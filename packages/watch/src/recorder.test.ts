import { afterAll, describe, expect, test } from "bun:test";
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EventSink, RunEvent } from "./events.ts";
import { beforeAndAfter, findRun, listRuns, RunError, readRun } from "./history.ts";
import { LOG_FILE } from "./jsonl.ts";
import { makeRunFolder, RunRecorder } from "./recorder.ts";
import { Smoothed } from "./smoothed.ts";
import { measures, START } from "./testing.ts";

const temporary = mkdtempSync(join(tmpdir(), "watch-"));
afterAll(() => rmSync(temporary, { recursive: true }));

let made = 0;
const runsFolder = (): string => join(temporary, `runs-${made++}`);

function record(folder = makeRunFolder(runsFolder()), sinks: EventSink[] = [], problems: string[] = []) {
  const recorder = new RunRecorder({ folder, sinks, onProblem: (problem) => problems.push(problem) });
  return { recorder, folder };
}
const END: Parameters<RunRecorder["end"]>[0] = {
  status: "done",
  peak_rss_bytes: 5,
  diagnosis: { verdict: "learned", reasons: ["so"], advice: [] },
};
const answers = (answer: string) => [{ question: "q", expected: "e", answer }];

async function problemOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(RunError);
  return (error as Error).message;
}

describe("a run's log", () => {
  test("is read back as it was written: an event a line, there at once", async () => {
    const { recorder, folder } = record();
    const lines = () => readFileSync(join(folder, LOG_FILE), "utf8").trim().split("\n").length;
    recorder.start(START);
    recorder.samples(0, answers("before"));
    expect(lines()).toBe(2);
    for (let step = 1; step <= 6; step++) {
      recorder.step(measures(step));
      expect(lines()).toBe(2 + step);
    }
    recorder.validation({ step: 6, loss: 0.5 });
    recorder.checkpoint(6, "somewhere");
    recorder.samples(6, answers("after"));
    recorder.end(END);
    await recorder.close();

    const run = await readRun(folder);
    expect(run.start).toMatchObject({ ...START, format: 1, pid: process.pid, id: run.id });
    expect(run.steps).toHaveLength(6);
    expect(run.steps[2]).toMatchObject({ ...measures(3), tokens_per_second: 200, memory_bytes: expect.any(Number) });
    expect(run.validations).toMatchObject([{ step: 6, loss: 0.5 }]);
    expect(run.checkpoints).toMatchObject([{ step: 6, folder: "somewhere" }]);
    expect(run.end).toMatchObject(END);
    expect(run.status).toBe("done");
    expect(beforeAndAfter(run)).toEqual([{ question: "q", expected: "e", before: "before", after: "after" }]);
  });

  test("of a run that was resumed tells every step once, with the losses smoothed as without a break", async () => {
    const { recorder, folder } = record();
    recorder.start(START);
    for (let step = 1; step <= 4; step++) recorder.step(measures(step));
    recorder.samples(4, answers("lost"));
    recorder.end({ ...END, status: "interrupted" });
    await recorder.close();
    const seen: RunEvent[] = [];
    appendFileSync(join(folder, LOG_FILE), '{"event":"step","ti');
    const { recorder: second } = record(folder, [{ write: (event) => seen.push(event), close() {} }]);
    second.resume(2, recorder.events);
    expect(seen.map(({ event }) => event)).toEqual([...recorder.events.map(({ event }) => event), "resume"]);
    second.step(measures(3));
    await second.close();
    // Twice: step 3 is done again.
    const { recorder: third } = record(folder);
    third.resume(2, second.events);
    for (let step = 3; step <= 6; step++) third.step(measures(step));
    await third.close();

    const run = await readRun(folder);
    expect(run.steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(run.samples).toEqual([]);
    expect(run.end).toBeUndefined();
    expect(run.status).toBe("running");
    const { recorder: whole } = record();
    whole.start(START);
    const smoothed = [1, 2, 3, 4, 5, 6].map((step) => whole.step(measures(step)).smoothed_loss);
    await whole.close();
    expect(run.steps.map(({ smoothed_loss }) => smoothed_loss)).toEqual(smoothed);
  });

  test("may end in the middle of a line, and hold events of a newer program", async () => {
    const { recorder, folder } = record();
    recorder.start(START);
    recorder.step(measures(1));
    await recorder.close();
    appendFileSync(join(folder, LOG_FILE), '{"event":"telepathy","time":"later"}\n{"event":"step","ti');
    expect((await readRun(folder)).steps).toHaveLength(1);
  });

  test("that is broken is refused with its line", async () => {
    const { recorder, folder } = record();
    recorder.start(START);
    await recorder.close();
    const path = join(folder, LOG_FILE);
    const good = readFileSync(path, "utf8");
    writeFileSync(path, `${good}rubbish\n`);
    expect(await problemOf(readRun(folder))).toBe(`${path}, line 2: is not JSON; the file was changed or is damaged`);
    writeFileSync(path, `${good}{"event":"step","time":"2026-01-01T00:00:00Z","step":-1}\n`);
    expect(await problemOf(readRun(folder))).toStartWith(`${path}, line 2: step: `);
    writeFileSync(path, good.replace('"format":1', '"format":2'));
    expect(await problemOf(readRun(folder))).toContain("this program reads format 1, a newer one may read it");
    writeFileSync(path, "");
    expect(await problemOf(readRun(folder))).toContain("does not begin with the start of a run");
  });

  test("without an end belongs to a run that goes on, or was killed", async () => {
    const { recorder, folder } = record();
    recorder.start(START);
    await recorder.close();
    expect((await readRun(folder)).status).toBe("running");
    const path = join(folder, LOG_FILE);
    const gone = Bun.spawnSync(["true"]).pid;
    writeFileSync(path, readFileSync(path, "utf8").replace(`"pid":${process.pid}`, `"pid":${gone}`));
    expect((await readRun(folder)).status).toBe("killed");
  });
});

describe("runs", () => {
  test("of one second have folders of their own", () => {
    const runs = runsFolder();
    const now = new Date(2026, 0, 31, 14, 25, 1);
    const names = [1, 2, 3].map(() => makeRunFolder(runs, now));
    expect(names.map((name) => name.slice(runs.length + 1))).toEqual([
      "20260131-142501",
      "20260131-142501-2",
      "20260131-142501-3",
    ]);
  });

  test("are listed oldest first and found by the beginning of their names; what is no run is passed over", async () => {
    const runs = runsFolder();
    expect(await listRuns(runs)).toEqual({ runs: [], problems: [] });
    for (const minute of [5, 3]) {
      const { recorder } = record(makeRunFolder(runs, new Date(2026, 0, 1, 9, minute)));
      recorder.start(START);
      await recorder.close();
      await Bun.sleep(2); // so that they begin at different times
    }
    makeRunFolder(runs);
    const broken = makeRunFolder(runs, new Date(2020, 0, 1));
    writeFileSync(join(broken, LOG_FILE), "rubbish\n");
    const list = await listRuns(runs);
    expect(list.runs.map(({ id }) => id)).toEqual(["20260101-090500", "20260101-090300"]);
    expect(list.problems).toEqual([
      `${join(broken, LOG_FILE)}, line 1: is not JSON; the file was changed or is damaged`,
    ]);
    expect(findRun(list.runs, "20260101-0905").id).toBe("20260101-090500");
    expect(findRun(list.runs, "last").id).toBe("20260101-090300");
    expect(() => findRun(list.runs, "20260101")).toThrow("2 runs are called 20260101; there are 20260101-090500");
    expect(() => findRun(list.runs, "x")).toThrow(
      "no run is called x; there are 20260101-090500, 20260101-090300, and",
    );
    expect(() => findRun([], "last")).toThrow("no run is called last; there are none");
  });
});

test("what cannot be written is told once, and the others get everything", async () => {
  const seen: RunEvent[] = [];
  const problems: string[] = [];
  const full: EventSink = {
    write() {
      throw new Error("the disk is full");
    },
    close() {},
  };
  const { recorder, folder } = record(undefined, [full, { write: (event) => seen.push(event), close() {} }], problems);
  recorder.start(START);
  recorder.step(measures(1));
  await recorder.close();
  expect(problems).toEqual(["the disk is full"]);
  expect(seen.map(({ event }) => event)).toEqual(["start", "step"]);
  expect((await readRun(folder)).steps).toHaveLength(1);
});

test("without a folder nothing is written", async () => {
  const before = readdirSync(temporary);
  const recorder = new RunRecorder({});
  recorder.start(START);
  recorder.end(END);
  await recorder.close();
  expect(recorder.events).toHaveLength(2);
  expect(readdirSync(temporary)).toEqual(before);
  expect(existsSync(LOG_FILE)).toBe(false);
});

test("smoothing: the first value is itself, equal values stay, and the weights are those of the definition", () => {
  const same = new Smoothed();
  for (let i = 0; i < 5; i++) expect(same.add(3)).toBeCloseTo(3, 12);
  const smoothed = new Smoothed(0.9);
  expect(smoothed.add(1)).toBeCloseTo(1, 12);
  expect(smoothed.add(2)).toBeCloseTo((0.9 * 0.1 * 1 + 0.1 * 2) / (0.9 * 0.1 + 0.1), 12);
});
