/** What `train` says before it starts, and what it refuses to start (memory that can't be known before: axolotl #848). */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command, ROOT, temporaryFolder } from "../support/process.ts";
import { REAL_MODEL } from "../support/real-model.ts";

setDefaultTimeout(120_000);

describe("memory and time are told before training starts (axolotl #848)", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  beforeAll(async () => {
    home = await temporaryFolder();
    const rows = ["一", "二", "三", "四"].map((input) => ({
      instruction: "",
      input,
      output: `${input}楼有十二个房间。`.repeat(200),
    }));
    await writeFile(join(home.path, "rows.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
  });
  afterAll(() => home[Symbol.asyncDispose]());
  const train = (...args: string[]) =>
    command("train", ["--model", "demo", "--data", "rows.jsonl", "--out", "adapter", ...args], { cwd: home.path });

  test("--estimate says it and ends, with nothing written", async () => {
    const told = await train("--estimate");
    expect(told.status).toBe(0);
    expect(told.stderr).toMatch(/This will take about .+ and \d+ MB of memory/);
    const { stdout } = await train("--estimate", "--json");
    expect(JSON.parse(stdout)).toEqual({
      estimate: { seconds: expect.any(Number), peak_rss_bytes: expect.any(Number) },
    });
    expect(existsSync(join(home.path, "adapter"))).toBe(false);
    expect(existsSync(join(home.path, "runs"))).toBe(false);
  });

  test("estimate and measurement are recorded", async () => {
    const { stdout, status } = await train("--json", "--epochs", "2");
    expect(status).toBe(0);
    const result = JSON.parse(stdout);
    const record = JSON.parse(await readFile(join(home.path, "adapter/training.json"), "utf8"));
    expect(record.estimate).toEqual(result.estimate);
    expect(record.measured).toEqual({ seconds: result.seconds, peak_rss_bytes: expect.any(Number) });
  });

  test("a run that does not fit is refused with settings with which it does", async () => {
    const needs = async (...args: string[]): Promise<number> => {
      const { status, stderr } = await train("--memory-limit", "20MB", ...args);
      expect(status).toBe(1);
      return Number(
        /this run needs about (\d+) MB of memory and may use 20.0 MB; close other programs/.exec(stderr)![1],
      );
    };
    const long = ["--max-length", "2400", "--tokens-per-pass", "9600"];
    const [most, least] = [await needs(...long), await needs("--max-length", "16")];
    const limit = ["--memory-limit", `${Math.round((most + least) / 2)}MB`, "--estimate"];
    const refused = await train(...limit, ...long);
    expect(refused.status).toBe(1);
    const advice = /; try (--max-length \d+ --tokens-per-pass \d+)/.exec(refused.stderr)![1];
    expect((await train(...limit, ...advice.split(" "))).status).toBe(0);
  });
});

describe.skipIf(!REAL_MODEL)("on real weights", () => {
  test("the memory that is told is within 10 % of what is measured", async () => {
    await using home = await temporaryFolder();
    await cp(join(ROOT, "data"), join(home.path, "data"), { recursive: true });
    const args = ["--model", REAL_MODEL!, "--targets", "all", "--rank", "32", "--epochs", "1", "--json"];
    const { stdout } = await command("train", args, { cwd: home.path });
    const { estimate, peak_rss_bytes } = JSON.parse(stdout);
    expect(Math.abs(estimate.peak_rss_bytes / peak_rss_bytes - 1)).toBeLessThan(0.1);
  });
});
