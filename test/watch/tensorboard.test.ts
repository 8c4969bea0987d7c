import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { makeRunFolder, RunRecorder, type RunStart, readRun } from "../../packages/watch/src/index.ts";
import { command, temporaryFolder } from "../support/process.ts";
import { tensorBoardPython } from "../support/tensorboard.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// The first time, TensorBoard is installed.
setDefaultTimeout(120_000);

interface Found {
  version: number;
  /** By tag: time, step, value. */
  scalars: Record<string, [number, number, number][]>;
  texts: Record<string, [number, string][]>;
}

const python = await tensorBoardPython();

describe.skipIf(python === undefined)("TensorBoard's own reader finds what was written", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  beforeAll(async () => {
    home = await temporaryFolder();
  });
  afterAll(() => home[Symbol.asyncDispose]());

  async function read(folder: string): Promise<Found> {
    const script = join(import.meta.dir, "../support/read_events.py");
    const child = Bun.spawn([python!, script, folder], { stdout: "pipe", stderr: "pipe" });
    const [out, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    if ((await child.exited) !== 0) throw new Error(errors);
    return JSON.parse(out);
  }

  test("of a training: every number of every step, the settings, and the answers", async () => {
    const model = join(home.path, "tiny");
    await writeTinyModel(model);
    const rows = join(home.path, "rows.jsonl");
    const examples = ["一", "two"].map((input) => ({ instruction: "Say it.", input, output: `${input}!` }));
    await Bun.write(rows, examples.map((example) => JSON.stringify(example)).join("\n"));
    const options = ["--model", model, "--data", rows, "--out", join(home.path, "out"), "--epochs", "4"];
    const { status, stderr } = await command("train", [...options, "--grad-accum", "1", "--sample-every", "3"]);
    if (status !== 0) throw new Error(stderr);
    const [name] = readdirSync(join(home.path, "runs"));
    const { steps, samples } = await readRun(join(home.path, "runs", name));
    expect(steps).toHaveLength(8);

    const { version, scalars, texts } = await read(join(home.path, "runs", name));
    expect(version).toBe(2);
    const expected = {
      "train/loss": "loss",
      "train/smoothed_loss": "smoothed_loss",
      "train/mean_token_accuracy": "token_accuracy",
      "train/grad_norm": "grad_norm",
      "train/learning_rate": "lr",
      "train/epoch": "epoch",
      "train/tokens_per_second": "tokens_per_second",
      "train/memory_bytes": "memory_bytes",
    } as const;
    expect(Object.keys(scalars).sort()).toEqual(Object.keys(expected).sort());
    for (const [tag, field] of Object.entries(expected)) {
      const wanted = steps.map((step) => [Date.parse(step.time) / 1000, step.step, Math.fround(step[field]!)]);
      expect(scalars[tag]).toEqual(wanted as never);
    }
    const question = samples[0].answers[0].question;
    expect(texts[`samples/${question}`]).toEqual(samples.map(({ step, answers }) => [step, answers[0].answer]));
    expect(samples.map(({ step }) => step)).toEqual([0, 3, 6, 8]);
    expect(texts.args[0][1]).toContain("| epochs | 4 |");
    expect(texts.diagnosis[0][1]).toMatch(/^\*\*\w+\*\*/);
  });

  test("of a run that was resumed: each step once, as it was done last", async () => {
    const folder = makeRunFolder(join(home.path, "resumed"));
    const start: RunStart = {
      ...{ model: { name: "m" }, data: { file: "d" }, options: {}, adapter: "a", total_steps: 4 },
      device: { name: "cpu", isa: "avx2", threads: 1 },
    };
    const measures = (step: number, loss: number) => ({
      ...{ step, epoch: 1, loss, grad_norm: 1, lr: 1, tokens: 1, seconds: 1 },
    });
    const first = new RunRecorder({ folder });
    first.start(start);
    for (let step = 1; step <= 3; step++) first.step(measures(step, 10 + step));
    await first.close();
    // Files are read in the order of their names, which begin with the second of the process's start.
    const [name] = readdirSync(folder).filter((file) => file.startsWith("events"));
    await rename(
      join(folder, name),
      join(
        folder,
        name.replace(/\d+/, (second) => String(Number(second) - 5)),
      ),
    );
    const second = new RunRecorder({ folder });
    second.resume(2, first.events);
    for (let step = 3; step <= 4; step++) second.step(measures(step, 20 + step));
    second.validation({ step: 4, loss: 5 });
    await second.close();
    const { scalars } = await read(folder);
    expect(scalars["train/loss"].map(([, step, value]) => [step, value])).toEqual([
      [1, 11],
      [2, 12],
      [3, 23],
      [4, 24],
    ]);
    expect(scalars["eval/loss"].map(([, step, value]) => [step, value])).toEqual([[4, 5]]);
  });
});
