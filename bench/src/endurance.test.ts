import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flatness, type Sample } from "./endurance-rule.ts";

/** Runs the program on the demo model for some lines; `beside` is loaded into its process first. */
async function run(args: readonly string[], beside?: string) {
  const folder = mkdtempSync(join(tmpdir(), "endurance-"));
  const preload = join(folder, "beside.ts");
  writeFileSync(preload, beside ?? "");
  const command = ["bun", "--preload", preload, join(import.meta.dir, "endurance.ts"), "--model", "demo", "--json"];
  const child = Bun.spawn([...command, "--threads", "1", ...args], { stdout: "pipe", stderr: "pipe" });
  const [printed, said, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  rmSync(folder, { recursive: true });
  const samples = printed
    .trim()
    .split("\n")
    .map((line): Sample => JSON.parse(line));
  return { samples, said, status };
}

test.each([
  ["answers", ["--minutes", "0.04", "--every", "0.2"]],
  ["training", ["--steps", "120", "--every", "0.1"]],
])("%s: a line in every stretch, and a verdict on them", async (_, args) => {
  const { samples, said, status } = await run(args);
  expect(samples.length).toBeGreaterThan(4);
  for (const [i, sample] of samples.entries()) {
    expect(sample.tokens).toBeGreaterThan(samples[i - 1]?.tokens ?? 0);
    expect(sample.rss_anonymous_bytes).toBeGreaterThan(1e7);
    expect(sample.rss_file_bytes).toBeGreaterThan(0);
    expect(sample.tensors).toBe(samples[0].tensors);
  }
  // Seconds are too short for memory to settle: the verdict may be either, but it must be that of the lines.
  const { flat, says } = flatness(samples);
  expect(status).toBe(flat ? 0 : 1);
  expect(said).toContain(says);
});

test("a process that loses memory ends with status 1, and says how much", async () => {
  const leak = "const lost = []; setInterval(() => lost.push(new Uint8Array(8e6).fill(1)), 20);";
  const { said, status } = await run(["--minutes", "0.04", "--every", "0.2"], leak);
  expect(status).toBe(1);
  expect(said).toMatch(/Memory grew: anonymous resident memory went from [\d.]+ MB to [\d.]+ MB/);
});

const series = (bytes: (i: number) => number, tensors: (i: number) => number = () => 9): Sample[] =>
  Array.from({ length: 30 }, (_, i) => ({
    ...{ seconds: 60 * i, tokens: i, tokens_per_s: 1, rss_file_bytes: 0, heap_bytes: 0, tensor_bytes: 4 },
    ...{ rss_anonymous_bytes: bytes(i), tensors: tensors(i) },
  }));

test.each([
  ["a start that grows, then waves", series((i) => (i < 3 ? 1e8 * i : 4e8 + 5e7 * Math.sin(i))), true],
  ["a single peak", series((i) => (i === 20 ? 9e8 : 3e8)), true],
  ["2 MB a minute", series((i) => 3e8 + 2e6 * i), false],
  [
    "one tensor more",
    series(
      () => 3e8,
      (i) => (i < 25 ? 9 : 10),
    ),
    false,
  ],
  ["too few lines", series(() => 3e8).slice(0, 4), false],
])("flat or not: %s", (_, samples, flat) => expect(flatness(samples).flat).toBe(flat));
