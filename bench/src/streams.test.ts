import { expect, test } from "bun:test";
import { join } from "node:path";
import { sameBeginning, summary } from "./streams-work.ts";

const ROOT = join(import.meta.dir, "..", "..");

test("every number of streams gets a row of each contender; what is not here says so", async () => {
  const command = ["bun", join(import.meta.dir, "streams.ts"), "--json", "--model", join(ROOT, "models", "demo")];
  const child = Bun.spawn([...command, "--streams", "1,5", "--tokens", "6", "--contenders", "bf16,llama.cpp"], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [printed, said] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  expect(said).toContain("llama.cpp skipped: it needs --gguf FILE");
  const rows = printed
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(rows.map(({ contender, streams }) => [contender, streams])).toEqual([
    ["bf16", 1],
    ["bf16", 5],
  ]);
  for (const { tokens_per_s, first_token_ms, between_tokens_ms } of rows) {
    expect(tokens_per_s).toBeGreaterThan(0);
    expect(first_token_ms.p50).toBeGreaterThan(0);
    expect(between_tokens_ms.p50).toBeLessThanOrEqual(between_tokens_ms.p99);
  }
  expect(rows[0].repeated_prompt).toMatchObject({ tokens: 400, reused: 399 });
});

test("percentiles and the share of common tokens", () => {
  expect(summary([4, 1, 3, 2])).toEqual({ p50: 2, p99: 4 });
  const answers = [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
  ];
  expect(sameBeginning(answers, answers)).toBe(1);
  expect(sameBeginning(answers, [answers[0], [5, 0, 7, 8]])).toBe(0.63);
});
