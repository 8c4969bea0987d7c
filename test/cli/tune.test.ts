/**
 * The search for settings. `KILLS=50 bun test test/cli/tune.test.ts` kills it and its workers more often than the few times of an
 * ordinary test run, in a longer search, and prints how often.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readState, type TrialResult } from "../../packages/tune/src/index.ts";
import { command, type Running, start, temporaryFolder } from "../support/process.ts";
import { REDIS_SERVER, type RedisServer, startRedis } from "../support/redis.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

setDefaultTimeout(600_000);

const KILLS = Number(process.env.KILLS ?? 3);
/** A killed worker's training waits for its lock to end, which takes seconds. */
const WORKER_KILLS = Number(process.env.KILLS ?? 1);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let [tiny, rows] = ["", ""];
/** What an undisturbed search of one training at a time finds. */
let whole: TrialResult[];
/** A training is a process of about a second: two at the bottom and one that goes up are enough to lose something of. */
const [RUNS, EPOCHS] = process.env.KILLS === undefined ? [3, "1..2"] : [6, "1..4"];
const SEARCH = ["--runs", String(RUNS), "--epochs", EPOCHS, "--reduction-factor", "2", "--parallel", "1"];
const search = (out: string): string[] => ["--model", tiny, "--data", rows, "--out", join(home.path, out), ...SEARCH];

/** What does not depend on time and memory. */
const lasting = (results: readonly TrialResult[]) => results.map(({ seconds: _, memory_bytes: __, ...rest }) => rest);
const resultsOf = async (out: string) => (await readState(join(home.path, `${out}.tune`)))?.results ?? [];
const weights = (out: string) => readFile(join(home.path, out, "adapter_model.safetensors"));

beforeAll(async () => {
  home = await temporaryFolder();
  [tiny, rows] = ["tiny", "rows.jsonl"].map((name) => join(home.path, name));
  await writeTinyModel(tiny);
  const row = (input: string) => JSON.stringify({ instruction: "Say it.", input, output: `${input}!` });
  await writeFile(rows, ["one", "two", "three", "four", "five"].map(row).join("\n"));
  const { status, stderr } = await command("tune", search("whole"));
  if (status !== 0) throw new Error(stderr);
  whole = await resultsOf("whole");
});
afterAll(() => home[Symbol.asyncDispose]());

/** Processes of trials below the folder of these tests. */
function trialProcesses(): string[] {
  const ids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return ids.filter((id) => {
    try {
      const words = readFileSync(`/proc/${id}/cmdline`, "utf8");
      return words.includes("trial-process.ts") && words.includes(home.path);
    } catch {
      return false;
    }
  });
}

describe("tune", () => {
  test("searches within its budget, goes up with the best, and keeps its adapter", async () => {
    const out = join(home.path, "demo");
    const { status, stdout, stderr } = await command("tune", [
      ...["--model", "demo", "--out", out, "--runs", "4", "--epochs", "1..4", "--reduction-factor", "2", "--json"],
    ]);
    expect([status, stderr]).toEqual([0, expect.stringContaining("Trial 1: rank ")]);
    const { best, trials, trainings, command: told, effects } = JSON.parse(stdout);
    expect(trainings).toBe(4);
    expect(best).toMatchObject({ status: "done", verdict: "learned", answered: 1, trial: trials[0].trial });
    expect(best.samples[0].after).toContain("15GB");
    expect(effects.map(({ setting }: { setting: string }) => setting)).toEqual(["rank", "alpha", "lr", "repeat"]);
    const { rank, lr } = best.settings;
    expect(told).toContain(`--rank ${rank} `);
    expect(told).toContain(`--lr ${lr} `);
    const record = JSON.parse(await readFile(join(out, "training.json"), "utf8"));
    expect(record.options).toMatchObject({ rank, lr, epochs: best.epochs });
    const again = await command("tune", ["--model", "demo", "--out", out]);
    expect([again.status, again.stderr]).toEqual([
      1,
      expect.stringContaining("holds a search of 4 trainings; go on with it by --resume"),
    ]);
  });

  test("a trial that goes up goes on from where it stood", async () => {
    const [trial] = whole.filter(({ rung }) => rung > 0);
    const { steps } = whole.find((one) => one.trial === trial.trial && one.rung === 0)!;
    const log = readdirSync(join(home.path, "whole.tune/runs"))
      .map((run) => readFileSync(join(home.path, "whole.tune/runs", run, "log.jsonl"), "utf8"))
      .find((text) => text.includes('"event":"resume"'))!;
    expect(log).toContain(`"event":"resume"`);
    expect(log).toContain(`"step":${steps}`);
  });

  test(`killed by SIGKILL at ${KILLS} moments, it loses no finished trial, leaves no process, and finds the same`, async () => {
    let [kills, finished] = [0, 0];
    for (let round = 0; ; round++) {
      const out = `killed-${round}`;
      for (let isNew = true; ; isNew = false) {
        const isBegun = existsSync(join(home.path, `${out}.tune`, "tune.json"));
        const before = isBegun ? await resultsOf(out) : [];
        const running = start("tune", isBegun ? ["--resume", join(home.path, out), "--parallel", "1"] : search(out));
        // From the first training of a process to its third.
        if (kills < KILLS) await Promise.race([Bun.sleep(1100 + ((kills * 617) % 1600)), running.process.exited]);
        else await running.ended();
        const isOver = running.process.exitCode !== null;
        if (isOver) {
          expect([running.process.exitCode, isNew ? "" : running.stderr()]).toEqual([0, expect.any(String)]);
          break;
        }
        running.process.kill("SIGKILL");
        await running.ended();
        kills++;
        const after = await resultsOf(out);
        expect(lasting(after.slice(0, before.length))).toEqual(lasting(before));
        finished += after.length - before.length;
        for (let i = 0; i < 200 && trialProcesses().length > 0; i++) await Bun.sleep(25);
        expect(trialProcesses()).toEqual([]);
      }
      expect(lasting(await resultsOf(out))).toEqual(lasting(whole));
      expect((await weights(out)).equals(await weights("whole"))).toBe(true);
      if (kills >= KILLS) break;
    }
    if (process.env.KILLS !== undefined) console.log(`tune: ${kills} kills, ${finished} trainings finished before one`);
    expect(kills).toBeGreaterThanOrEqual(KILLS);
  });

  test("a training does not outlive the search that was killed", async () => {
    const long = [
      "--model",
      tiny,
      "--data",
      rows,
      "--out",
      join(home.path, "long"),
      "--epochs",
      "50000",
      "--runs",
      "1",
    ];
    const running = start("tune", long);
    for (let i = 0; i < 400 && trialProcesses().length === 0; i++) await Bun.sleep(25);
    await Bun.sleep(1000);
    expect(trialProcesses().length).toBe(1);
    running.process.kill("SIGKILL");
    await running.ended();
    for (let i = 0; i < 200 && trialProcesses().length > 0; i++) await Bun.sleep(25);
    expect(trialProcesses()).toEqual([]);
  });

  test("a finished search goes on with a larger budget; other options beside --resume are refused", async () => {
    const out = join(home.path, "whole");
    const { status } = await command("tune", ["--resume", out, "--runs", String(RUNS + 1)]);
    expect(status).toBe(0);
    const results = await resultsOf("whole");
    expect(lasting(results.slice(0, RUNS))).toEqual(lasting(whole));
    expect(results.length).toBe(RUNS + 1);
    const refused = await command("tune", ["--resume", out, "--rank", "4"]);
    expect([refused.status, refused.stderr]).toEqual([1, expect.stringContaining("--rank belongs to a new search")]);
  });

  test("a search in which everything diverges says so, and leaves an adapter that was there", async () => {
    const out = join(home.path, "diverged");
    const { status, stderr } = await command("tune", [
      ...[
        "--model",
        tiny,
        "--data",
        rows,
        "--out",
        out,
        "--runs",
        "1",
        "--lr",
        "1e38",
        "--clip",
        "0",
        "--parallel",
        "1",
      ],
      ...["--grad-accum", "1"],
    ]);
    expect(stderr).toMatch(/Trial 1: .* · nan · /);
    expect(stderr).toContain("no training came to an adapter that can be kept");
    expect(status).toBe(1);
    expect(existsSync(out)).toBe(false);
  });

  test("a space in a file: its mistakes are told with their line", async () => {
    const file = join(home.path, "space.yaml");
    await writeFile(file, "rank: [4, 8]\nlr: 3e-3..1e-3\n");
    const { status, stderr } = await command("tune", [...search("space"), "--space", file]);
    expect(stderr).toContain(
      "space.yaml, line 2, column 5: lr must be numbers above 0: one, several such as 4,8,16, or a range",
    );
    expect(status).toBe(2);
  });
});

const why = REDIS_SERVER === undefined ? " (skipped: no redis-server; apt-get install redis-server)" : "";
describe.skipIf(REDIS_SERVER === undefined)(`tune over a queue${why}`, () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis(home.path);
  });
  afterAll(() => redis?.[Symbol.asyncDispose]());

  const worker = async (): Promise<Running> => {
    const running = start("worker", ["--queue", redis.url, "--lock-seconds", "2", "--threads", "1"], {
      env: { TMPDIR: home.path },
    });
    await running.printed("Waiting for trials");
    return running;
  };
  const kill = async (running: Running): Promise<void> => {
    running.process.kill("SIGKILL");
    await running.ended();
  };
  const trained = (workers: readonly Running[]): number =>
    workers.reduce((sum, one) => sum + (one.stderr().match(/: done in/g)?.length ?? 0), 0);

  test("workers killed in the middle of a training lose none; each counts once; it finds what one machine finds", async () => {
    const workers = [await worker(), await worker()];
    const running = start("tune", [...search("queue"), "--queue", redis.url]);
    let kills = 0;
    const deaths = new Map<string, number>();
    const ended = running.ended();
    while (kills < WORKER_KILLS && running.process.exitCode === null) {
      // Whoever has one under way, somewhere in it.
      const busy = workers.find((one) => (one.stderr().match(/: rank/g)?.length ?? 0) > trained([one]));
      const trial =
        busy
          ?.stderr()
          .match(/Trial \d+: rank.*/g)
          ?.at(-1) ?? "";
      // One that ten have died with is given up.
      if ((deaths.get(trial) ?? 0) >= 6) {
        await Bun.sleep(10);
        continue;
      }
      if (busy) await Bun.sleep((kills * 173) % 500);
      if (busy && (busy.stderr().match(/: rank/g)?.length ?? 0) > trained([busy])) {
        await kill(busy);
        deaths.set(trial, (deaths.get(trial) ?? 0) + 1);
        workers.splice(workers.indexOf(busy), 1, await worker());
        kills++;
      }
      await Bun.sleep(10);
    }
    const { status, stderr } = await ended;
    await Promise.all(workers.map(kill));
    expect([status, stderr]).toEqual([0, expect.stringContaining("Workers: 2")]);
    expect(lasting(await resultsOf("queue"))).toEqual(lasting(whole));
    expect((await weights("queue")).equals(await weights("whole"))).toBe(true);
    expect(kills).toBeGreaterThan(0);
    if (process.env.KILLS !== undefined) console.log(`workers: ${kills} kills`);
  });

  test("tune killed while a worker trains takes the answer when it goes on; a queue that forgets everything is told, and given it again", async () => {
    const one = await worker();
    const first = start("tune", [...search("asker"), "--queue", redis.url]);
    await one.printed("Trial 1: rank");
    await kill(first);
    await one.printed("Trial 1: done");
    const second = start("tune", ["--resume", join(home.path, "asker"), "--queue", redis.url]);
    await one.printed("Trial 2: rank");
    await redis.kill();
    await second.printed("is lost; trying again");
    await one.printed("is lost; trying again");
    await redis.start();
    const { status, stderr } = await second.ended();
    await kill(one);
    expect([status, stderr]).toEqual([0, expect.stringContaining("is back")]);
    expect(one.stderr().match(/Trial 1: rank \d+, rate \S+, 1 epochs/g)?.length).toBe(1);
    expect(lasting(await resultsOf("asker"))).toEqual(lasting(whole));
  });

  test("a queue that does not answer is told in a sentence", async () => {
    for (const [name, args] of [
      ["tune", search("nobody")],
      ["worker", []],
    ] as const) {
      const { status, stderr } = await command(name, [...args, "--queue", "redis://:secret@127.0.0.1:9"]);
      expect(stderr).toContain("redis://127.0.0.1:9: no queue answers there");
      expect(stderr).not.toContain("secret");
      expect(status).toBe(1);
    }
  });
});
