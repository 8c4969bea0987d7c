/**
 * Runs that end before their end, and go on. `KILLS=200 bun test test/cli/resume.test.ts -t SIGKILL` kills more often than
 * the few times of an ordinary test run and prints how often; with QWEN_REAL_MODEL set, `REAL_KILLS=3` kills a run on
 * the real weights too.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readRun } from "../../packages/watch/src/index.ts";
import { checkpointsIn, type Kills, type KillTime, lastingResult, trainThroughKills } from "../support/killed-run.ts";
import { CAN_MOUNT, command, ROOT, start, temporaryFolder, tinyDisk } from "../support/process.ts";
import { REAL_MODEL } from "../support/real-model.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

setDefaultTimeout(120_000);

const KILLS = Number(process.env.KILLS ?? 10);
const REAL_KILLS = Number(process.env.REAL_KILLS ?? 0);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let [tiny, other, rows, held] = ["", "", "", ""];
beforeAll(async () => {
  home = await temporaryFolder();
  [tiny, other, rows, held] = ["tiny", "other", "rows.jsonl", "held.jsonl"].map((name) => join(home.path, name));
  await writeTinyModel(tiny);
  await writeTinyModel(other, { seed: 2 });
  const row = (input: string) => JSON.stringify({ instruction: "Say it.", input, output: `${input}!` });
  await writeFile(rows, ["one", "two", "three", "four", "two", "five"].map(row).join("\n"));
  await writeFile(held, ["six", "two"].map(row).join("\n"));
  await mkdir(join(home.path, "data/input"), { recursive: true });
  await cp(join(ROOT, "data/input/lora_train_data.csv"), join(home.path, "data/input/lora_train_data.csv"));
});
afterAll(() => home[Symbol.asyncDispose]());

const train = (...args: string[]) => command("train", args, { cwd: home.path });
const onTiny = (out: string, ...args: string[]) => [
  "--model",
  tiny,
  "--data",
  rows,
  "--out",
  join(home.path, out),
  ...args,
];
async function trainJson(...args: string[]) {
  const { status, stdout, stderr } = await train(...args, "--json");
  if (status !== 0) throw new Error(stderr);
  return { ...JSON.parse(stdout), stderr };
}

/** What the first run in a folder has written down so far. */
async function logOf(runs: string): Promise<string> {
  const [run] = await readdir(runs).catch(() => []);
  return run === undefined ? "" : readFile(join(runs, run, "log.jsonl"), "utf8").catch(() => "");
}

/** The same numbers from 0 up to but not including 1 every time (Park & Miller, 1988). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

const random = randomNumbers(1 + (Number(process.env.KILL_SEED ?? 0) % 1e6));

describe("killed by SIGKILL at any moment and resumed, a run ends bit for bit where the undisturbed one ends", () => {
  test(`${KILLS} kills on the demo model, also in the middle of saves`, async () => {
    const model = ["--model", "demo", "--recipe", "tuned", "--epochs", "8", "--seed", "3"];
    const args = [...model, "--validation-split", "0.2", "--eval-every", "3", "--save-every", "1"];
    await trainJson(...args, "--out", join(home.path, "undisturbed"));
    const expected = await lastingResult(join(home.path, "undisturbed"));
    expect(expected.last).toBe("step-16");
    const count: Kills = { kills: 0, inSaves: 0, runs: 0 };
    const next = (): KillTime | undefined => {
      if (count.kills >= KILLS) return undefined;
      return random() < 0.5 ? { after: "loading", at: 350 * random() } : { after: "save", at: 25 * random() };
    };
    while (count.kills < KILLS) {
      const out = join(home.path, `killed-${count.runs}`);
      const { stdout } = await trainThroughKills(out, args, home.path, next, count);
      expect(await lastingResult(out)).toEqual(expected);
      // The run is written down as one, without what was done twice.
      const { steps, status } = await readRun(JSON.parse(stdout).run);
      expect([status, steps.map(({ step }) => step)]).toEqual(["done", Array.from({ length: 16 }, (_, i) => i + 1)]);
    }
    if (process.env.KILLS !== undefined) console.log(`demo: ${JSON.stringify(count)}`);
    expect(count.kills).toBe(KILLS);
    expect(count.inSaves).toBeGreaterThan(0);
  }, 3_600_000);

  test.skipIf(!REAL_MODEL || REAL_KILLS === 0)(
    `${REAL_KILLS} kills on real weights`,
    async () => {
      const args = ["--model", REAL_MODEL!, "--epochs", "2", "--max-length", "48", "--save-every", "1", "--seed", "3"];
      await trainJson(...args, "--out", join(home.path, "real"));
      const expected = await lastingResult(join(home.path, "real"));
      const count: Kills = { kills: 0, inSaves: 0, runs: 0 };
      const next = (): KillTime | undefined =>
        count.kills >= REAL_KILLS ? undefined : { after: "save", at: count.kills % 2 === 0 ? 0 : 1500 * random() };
      await trainThroughKills(join(home.path, "real-killed"), args, home.path, next, count);
      expect(await lastingResult(join(home.path, "real-killed"))).toEqual(expected);
      console.log(`real weights: ${JSON.stringify(count)}`);
      expect(count.kills).toBe(REAL_KILLS);
    },
    3_600_000,
  );
});

describe("--resume", () => {
  test("goes on after Ctrl-C with the run's own settings, and removes the checkpoints when the adapter is there", async () => {
    const options = ["--epochs", "40", "--lr", "1e-3", "--rank", "4", "--targets", "all", "--loss", "completion"];
    const whole = await trainJson(...onTiny("whole", ...options));
    const runs = join(home.path, "runs-of-part");
    const running = start("train", onTiny("part", ...options, "--runs", runs), { cwd: home.path });
    await running.printed("trainable params");
    while (!(await logOf(runs)).includes('"event":"step","time"')) await Bun.sleep(5);
    running.process.kill("SIGINT");
    expect((await running.ended()).status).toBe(130);
    const saved = Number((await checkpointsIn(join(home.path, "part")))[0].slice(5));
    const { resumed_from, stderr } = await trainJson("--resume", join(home.path, "part"));
    expect(resumed_from).toBe(saved);
    expect(stderr).toContain(`Going on from step ${saved} of 80, saved in `);
    const [a, b] = await Promise.all(["whole", "part"].map((name) => lastingResult(join(home.path, name))));
    expect(b).toEqual(a);
    expect(whole.steps.length).toBe(80);
    expect(await readdir(join(home.path, "part"))).not.toContain("checkpoints");
  });

  describe("refuses", () => {
    let out = "";
    beforeAll(async () => {
      out = join(home.path, "finished");
      await trainJson(...onTiny("finished", "--epochs", "2", "--save-every", "1", "--validation", held));
    });
    const refuses = async (sentence: string, ...args: string[]): Promise<void> => {
      const { status, stderr } = await train("--resume", out, ...args);
      expect(stderr).toContain(sentence);
      expect(status).toBe(1);
    };
    test("other settings, by name", () =>
      refuses("step-4 cannot be gone on from: --lr is 0.001 now and was 0.0002; leave it out", "--lr", "1e-3"));
    test("more epochs where they would change every step's rate", () =>
      refuses('--epochs is 4 now and was 2; with the schedule "linear"', "--epochs", "4"));
    test("another base model", () =>
      refuses("the base model is not the one that the run began with", "--model", other));
    test("other data", () => refuses("the training data is not the one that the run began with", "--data", held));
    test("other validation data", () => refuses("the validation data is not the one", "--validation", rows));
    test("where there is nothing, instead of beginning again (unsloth-zoo #751)", async () => {
      const { status, stderr } = await train("--resume", "--out", join(home.path, "nothing"));
      expect(stderr).toContain("nothing: there is no checkpoint in it, so there is nothing to go on from; begin anew");
      expect(status).toBe(1);
      expect(await readdir(home.path)).not.toContain("nothing");
    });
    test("and leaves everything as it was", async () => {
      expect((await checkpointsIn(out)).sort()).toEqual(["step-3", "step-4"]);
    });
  });

  test("a new run in the folder says that it replaces what could be gone on with", async () => {
    const { stderr } = await trainJson(...onTiny("finished", "--epochs", "1"));
    expect(stderr).toContain(
      "holds checkpoints of an earlier run, up to step 4; this run begins anew and replaces them.",
    );
    expect(await readdir(join(home.path, "finished"))).not.toContain("checkpoints");
  });

  test("--epochs may be raised with the constant schedule", async () => {
    const options = ["--scheduler", "constant", "--save-every", "100"];
    const whole = await trainJson(...onTiny("five", "--epochs", "5", ...options));
    await trainJson(...onTiny("three", "--epochs", "3", ...options));
    const more = await trainJson("--resume", join(home.path, "three"), "--epochs", "5");
    const losses = (result: { steps: { loss: number }[] }) => result.steps.map(({ loss }) => loss);
    expect(losses(more)).toEqual(losses(whole));
    const bytes = (name: string) => readFile(join(home.path, name, "adapter_model.safetensors"));
    expect((await bytes("three")).equals(await bytes("five"))).toBe(true);
  });
});

describe("validation", () => {
  test("a split keeps rows that ask the same together, and the best step's weights", async () => {
    const options = [
      "--validation-split",
      "0.4",
      "--epochs",
      "60",
      "--lr",
      "0.5",
      "--early-stop",
      "4",
      "--scheduler",
      "constant",
    ];
    const result = await trainJson(...onTiny("split", ...options));
    // "two" stands there twice: held out are the two of them, or two others.
    expect(result.data).toMatchObject({ examples: 6, validation: 2, sequences: 4 });
    const losses = result.steps.flatMap((s: { validation_loss?: number }) => s.validation_loss ?? []);
    expect(result.best.validation_loss).toBe(Math.min(...losses));
    expect(result.adapter_step).toBe(result.best.step);
    expect(result.stopped).toBe("early-stop");
    const record = JSON.parse(await readFile(join(home.path, "split/training.json"), "utf8"));
    expect(record).toMatchObject({ best: result.best, stopped: "early-stop", step: result.best.step });
    expect(record.steps.map((s: { validation_loss?: number }) => s.validation_loss)).toEqual(
      result.steps.map((s: { validation_loss?: number }) => s.validation_loss),
    );
  });
  test("a file: leaks are told, and people are told which step was kept", async () => {
    const { status, stderr } = await train(...onTiny("file", "--validation", held, "--epochs", "1"));
    expect(stderr).toContain("warning: 1 of 2 rows of ");
    expect(stderr).toMatch(
      /Validation loss \d\.\d+ at the end; lowest \d\.\d+ after step 2, whose weights the adapter has/,
    );
    expect(status).toBe(0);
  });
  test("--stop-when-learned ends when the sample is answered with the data's facts", async () => {
    const options = ["--model", "demo", "--recipe", "tuned", "--epochs", "60", "--stop-when-learned"];
    const result = await trainJson(...options, "--out", join(home.path, "learned"));
    expect(result.stopped).toBe("learned");
    expect(result.steps.length).toBeLessThan(60);
    expect(result.samples[0].after).toContain("15GB");
  });
});

describe("a good adapter is not replaced", () => {
  test("by a run that changed nothing (mlx-lm #49) or diverged", async () => {
    await trainJson(...onTiny("good", "--epochs", "1"));
    const bytes = () => readFile(join(home.path, "good/adapter_model.safetensors"));
    const before = await bytes();
    const unmoved = await train(...onTiny("good", "--lr", "1e-30"));
    expect(unmoved.stderr).toContain("error: training changed nothing: the adapter is what it was before.");
    expect(unmoved.status).toBe(1);
    const diverged = await train(
      ...onTiny("good", "--lr", "1e38", "--clip", "0", "--epochs", "1", "--grad-accum", "6"),
    );
    expect(diverged.stderr).toContain("error: training diverged: ");
    expect(diverged.status).toBe(1);
    expect((await bytes()).equals(before)).toBe(true);
  });
});

test("two trainings into one folder: the second is refused while the first works, and not when it was killed", async () => {
  const args = onTiny("contested", "--epochs", "5000", "--save-every", "1");
  const first = start("train", args, { cwd: home.path });
  while ((await checkpointsIn(join(home.path, "contested"))).length === 0) await Bun.sleep(5);
  const second = await train(...args);
  expect(second.stderr).toEndWith(
    `error: another training or search is writing into ${join(home.path, "contested")} now; wait until it has ended (bun run runs shows it), or give another --out\n`,
  );
  expect([second.status, first.process.exitCode]).toEqual([1, null]);
  first.process.kill("SIGKILL");
  await first.ended();
  const third = start("train", ["--resume", join(home.path, "contested")], { cwd: home.path });
  await third.printed("Going on from step ");
  third.process.kill("SIGKILL");
  expect((await third.ended()).stderr).not.toContain("Waiting for");
});

describe("a checkpoint that cannot be saved", () => {
  test.skipIf(!CAN_MOUNT)(
    "on a full disk (mounted by root): the last good one is told, and the run goes on elsewhere",
    async () => {
      await using disk = await tinyDisk(500);
      const out = join(disk.path, "adapter");
      const options = ["--model", tiny, "--data", rows, "--rank", "40", "--epochs", "4", "--save-every", "1"];
      const { status, stderr } = await train(...options, "--out", out);
      const [last] = (await checkpointsIn(out)).sort().slice(-1);
      expect(stderr).toContain(
        "cannot be written: the disk is full; free some space or choose another place; the last good",
      );
      expect(stderr).toContain(
        `${join(out, "checkpoints", last)}, is of step ${last.slice(5)}: go on from it with  bun run train --resume ${out}\n`,
      );
      expect(status).toBe(1);
      await trainJson(...options, "--out", join(home.path, "room"));
      const { adapter } = await trainJson("--resume", out, "--out", join(home.path, "moved"));
      expect(adapter).toBe(join(home.path, "moved"));
      const bytes = (name: string) => readFile(join(home.path, name, "adapter_model.safetensors"));
      expect((await bytes("moved")).equals(await bytes("room"))).toBe(true);
    },
  );

  test.skipIf(!CAN_MOUNT)(
    "when only the adapter does not fit (mounted by root): the run goes on elsewhere",
    async () => {
      // Room for two checkpoints of 164 kB.
      await using disk = await tinyDisk(352);
      const [out, runs, moved] = [join(disk.path, "adapter"), join(home.path, "runs"), join(home.path, "fits")];
      const options = ["--model", tiny, "--data", rows, "--rank", "40", "--epochs", "2", "--save-every", "2"];
      const { status, stderr } = await train(...options, "--out", out, "--runs", runs);
      expect(stderr).toContain(
        `error: ${out}: cannot be written: the disk is full; free some space or choose another place; `,
      );
      expect(stderr).toContain("step-4, is of step 4: go on from it with  bun run train --resume ");
      expect(status).toBe(1);
      expect(await readdir(out)).toEqual(["checkpoints"]);
      const { steps, resumed_from } = await trainJson("--resume", out, "--out", moved, "--runs", runs);
      expect([steps.length, resumed_from]).toEqual([4, 4]);
      expect(await readdir(moved)).toContain("adapter_model.safetensors");
    },
  );

  test("in a folder that vanished: it is made again", async () => {
    const out = join(home.path, "vanishing");
    const running = start("train", onTiny("vanishing", "--epochs", "60", "--save-every", "2"), { cwd: home.path });
    while ((await checkpointsIn(out)).length === 0) await Bun.sleep(5);
    await rm(out, { recursive: true, force: true }).catch(() => {});
    expect((await running.ended()).status).toBe(0);
    expect((await readdir(out)).sort()).toContain("adapter_config.json");
  });
});
