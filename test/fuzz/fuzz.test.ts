import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { temporaryFolder } from "../support/process.ts";
import { nodeCommand } from "./c-library.ts";
import { bytesOf, fuzzTarget, loadTarget, targetNames } from "./fuzz.ts";

setDefaultTimeout(120_000);

const names = await targetNames();
const node = nodeCommand();
if ("missing" in node) console.warn(`skipped: ${node.missing}`);

/** Inputs that once were a fault, each mended since. */
function regressions(name: string): { file: string; data: Uint8Array }[] {
  const folder = join(import.meta.dir, "regressions", name);
  if (!existsSync(folder)) return [];
  return readdirSync(folder).map((file) => ({ file, data: readFileSync(join(folder, file)) }));
}

describe("what is known is read without a fault", () => {
  test.each(names)("%s", async (name) => {
    const target = await loadTarget(name);
    for (const seed of await target.seeds()) await target.fuzz(bytesOf(seed));
    for (const { data } of regressions(name)) await target.fuzz(data);
  });
});

/** Inputs that each target is given here: a second or two. By hand it is minutes: see README.md. */
const RUNS: Record<string, number> = { bodies: 2000, csv: 500, jsonl: 500, regex: 1000, schema: 500, tokenizer: 1000 };

describe.skipIf("missing" in node)("led by coverage", async () => {
  const home = await temporaryFolder();
  afterAll(() => rm(home.path, { recursive: true, force: true }));

  test.each(names)("%s: no fault, and inputs were found that reach more than the seeds", async (name) => {
    const { runs, coverage, faults, log } = await fuzzTarget(name, { runs: RUNS[name] ?? 4000, work: home.path });
    expect({ faults, log: faults.length > 0 ? log.slice(-3000) : "" }).toEqual({ faults: [], log: "" });
    expect(runs).toBeGreaterThanOrEqual(RUNS[name] ?? 4000);
    expect(coverage[1]).toBeGreaterThan(coverage[0]);
  });

  test("a check that is left out is found: bytes of a tensor that end beyond the file", async () => {
    const change = {
      file: /io\/header\.ts$/,
      by: (code: string) =>
        code.replace("if (end > fileLength - start)", "if (false)").replace("if (end !== fileLength)", "if (false)"),
    };
    const { faults, log } = await fuzzTarget("safetensors", {
      runs: 200_000,
      work: join(home.path, "planted"),
      change,
    });
    expect(faults).toHaveLength(1);
    expect(log).toContain("Uncaught Exception");
    await expect(loadTarget("safetensors").then(({ fuzz }) => fuzz(readFileSync(faults[0])))).resolves.toBeUndefined();
  });
});
