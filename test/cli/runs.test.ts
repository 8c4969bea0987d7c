import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { readRun } from "../../packages/watch/src/index.ts";
import { command, start, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

describe("runs", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  let ids: string[];
  const cwd = () => ({ cwd: home.path });
  const train = (...options: string[]) => {
    const files = ["--model", "tiny", "--data", "rows.jsonl", "--grad-accum", "1"];
    return [...files, ...options];
  };
  const runs = (...args: string[]) => command("runs", args, cwd());
  const folders = (place: string) => readdirSync(join(home.path, place)).map((name) => join(home.path, place, name));
  const weights = (out: string) => readFile(join(home.path, out, "adapter_model.safetensors"));

  beforeAll(async () => {
    home = await temporaryFolder();
    await writeTinyModel(join(home.path, "tiny"));
    const examples = ["one", "two"].map((input) => ({ instruction: "Say it.", input, output: `${input}!` }));
    await Bun.write(join(home.path, "rows.jsonl"), examples.map((example) => JSON.stringify(example)).join("\n"));
    const first = await command("train", train("--out", "model/a", "--epochs", "2"), cwd());
    const samples = ["--sample", "two", "--sample", "new?", "--sample-every", "1"];
    const second = await command(
      "train",
      train("--out", "model/b", "--epochs", "2", "--lr", "2e-4", ...samples),
      cwd(),
    );
    const third = await command("train", train("--out", "model/c", "--rank", "4", "--validation-split", "0.5"), cwd());
    for (const { status, stderr } of [first, second, third]) expect({ status, stderr }).toMatchObject({ status: 0 });
    expect(second.stderr).toMatch(/^Step 1: two → /m);
    expect(second.stderr).toMatch(/^Step 3: new\? → /m);
    expect(third.stderr).toContain("The run's curves and answers:  model/runs/");
    ids = readdirSync(join(home.path, "model/runs")).sort();
  });
  afterAll(() => home[Symbol.asyncDispose]());

  test("samples on the way change nothing: the adapter is the same to the bit", async () => {
    expect((await weights("model/a")).equals(await weights("model/b"))).toBe(true);
    const { samples } = await readRun(join(home.path, "model/runs", ids[1]));
    expect(samples.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4]);
    expect(samples[0].answers).toMatchObject([{ question: "two", expected: "two!" }, { question: "new?" }]);
  });

  test("are listed, with the settings in which they differ", async () => {
    const { status, stdout, stderr } = await runs();
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const lines = stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(4);
    expect(lines[0]).toMatch(/^Run +Outcome +Steps +Loss +Validation +Accuracy +Time +Settings that differ$/);
    expect(lines[1]).toMatch(/^\d{8}-\d{6}\S* +\w+ +4\/4 +\d\.\d{3} → \d\.\d{3} +– +\d+% +\d+ s +rank 8, epochs 2/);
    expect(lines[3]).toMatch(/ 3\/3 .* \d\.\d{3} +\d+% .*rank 4, epochs 3/);
  });

  test("one is shown whole, by the beginning of its name or as the last", async () => {
    const { stdout } = await runs("show", ids[1]);
    expect(stdout).toMatch(new RegExp(`^run +${ids[1]}$`, "m"));
    expect(stdout).toMatch(/^--epochs +2$/m);
    expect(stdout).toMatch(/│ two +│/);
    expect(stdout).toContain(`Report: ${join("model/runs", ids[1], "report.html")}`);
    expect(existsSync(join(home.path, "model/runs", ids[1], "report.html"))).toBe(true);
    const last = JSON.parse((await runs("show", "last", "--json")).stdout);
    expect(last).toMatchObject({ id: ids[2], status: "done", total_steps: 3, options: { rank: 4 } });
    expect(last.steps).toHaveLength(3);
    expect(last.validations).toHaveLength(3);
  });

  test("several are compared side by side", async () => {
    const { stdout } = await runs("compare", ids[0], ids[2]);
    expect(stdout).toMatch(/^rank +8 +4$/m);
    expect(stdout).toMatch(/^steps +4\/4 +3\/3$/m);
    expect(stdout).not.toMatch(/^batch/m);
    const { runs: both } = JSON.parse((await runs("compare", ids[0], ids[2], "--json")).stdout);
    expect(both.map(({ id }: { id: string }) => id)).toEqual([ids[0], ids[2]]);
    const listed = (await runs("--json")).stdout.trim().split("\n");
    expect(listed.map((line) => JSON.parse(line).id)).toEqual(ids);
  });

  const wrong: [string, string[], number, string][] = [
    ["a name that no run has", ["show", "x"], 1, "error: no run is called x; there are "],
    ["no name", ["show"], 2, "error: show takes 1 names of runs, not 0; bun run runs lists them"],
    ["one to compare", ["compare", "last"], 2, "error: compare takes 2 to 6 names of runs, not 1"],
    ["another action", ["delete"], 2, "Allowed choices are list, show, compare"],
    ["a folder without runs", ["show", "last", "--runs", "none"], 1, "error: there are no runs in none; name their"],
  ];
  test.each(wrong)("%s is told", async (_, args, status, message) => {
    const ended = await runs(...args);
    expect(ended).toMatchObject({ status, stdout: "", stderr: expect.stringContaining(message) });
  });
  test("a folder without runs is none to list", async () => {
    expect(await runs("--runs", "none")).toMatchObject({
      status: 0,
      stderr: expect.stringContaining("no runs in none"),
    });
  });

  test("a run that fails is written down with what went wrong", async () => {
    const { status, stderr } = await command("train", train("--out", "bad/a", "--lr", "1e38", "--epochs", "9"), cwd());
    expect(status).toBe(1);
    const run = await readRun(folders("bad/runs")[0]);
    expect(run.status).toBe("failed");
    expect(stderr).toContain(`error: ${run.end!.error}`);
    expect(existsSync(join(run.folder, "report.html"))).toBe(true);
  });

  test("a run that is interrupted, too", async () => {
    const running = start("train", train("--out", "cut/a", "--epochs", "50000"), cwd());
    await running.printed("Training ");
    running.process.kill("SIGINT");
    expect((await running.ended()).status).toBe(130);
    expect((await readRun(folders("cut/runs")[0])).status).toBe("interrupted");
  });

  test("where a run cannot be written down, that is said and it is trained nevertheless", async () => {
    await mkdir(join(home.path, "odd"));
    await Bun.write(join(home.path, "odd/file"), "");
    const { status, stderr } = await command("train", train("--out", "odd/a", "--runs", "odd/file"), cwd());
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: expect.stringContaining("warning: the run is not written down any more: "),
    });
    expect(await weights("odd/a")).toBeDefined();
  });

  test("a port that is in use is told before the model is loaded", async () => {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
    const { port } = server;
    const ended = await command("train", train("--out", "p/a", "--ui", "--ui-port", String(port)), cwd());
    await server.stop(true);
    expect(ended.status).toBe(1);
    expect(ended.stderr).toBe(
      `error: port ${port} is in use; choose another with --ui-port, or leave it out and a free one is taken\n`,
    );
  });
});
