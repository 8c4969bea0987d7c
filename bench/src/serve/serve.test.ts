import { expect, test } from "bun:test";
import { join } from "node:path";
import { percentiles, type Row, ratiosOf, sameBeginning } from "./figures.ts";
import { type Ask, measure } from "./measure.ts";
import { questionOf } from "./work.ts";

const ROOT = join(import.meta.dir, "..", "..", "..");

test("servers and engine get a row for every number of streams, then ratios; what is not here says so", async () => {
  const command = ["bun", join(ROOT, "bench/src/serve.ts"), "--json", "--model", "demo", "--threads", "1"];
  const child = Bun.spawn(
    [...command, "--streams", "1,5", "--tokens", "6", "--contenders", "bf16,engine:bf16,llama.cpp"],
    { stdout: "pipe", stderr: "pipe" },
  );
  const [printed, said] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  expect(said).toContain("llama.cpp skipped: it needs --gguf FILE");
  expect(await child.exited).toBe(0);
  const lines = printed
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const rows: Row[] = lines.slice(0, 4);
  expect(rows.map(({ contender, streams, same_alone }) => [contender, streams, same_alone])).toEqual([
    ["bf16", 1, undefined],
    ["engine:bf16", 1, undefined],
    ["bf16", 5, true],
    ["engine:bf16", 5, true],
  ]);
  for (const { tokens_per_s, first_token_ms, between_tokens_ms } of rows) {
    expect(tokens_per_s).toBeGreaterThan(0);
    expect(first_token_ms.p50).toBeGreaterThan(0);
    expect(between_tokens_ms.p50).toBeLessThanOrEqual(between_tokens_ms.p99);
  }
  const { tokens, reused } = rows[0].repeated_prompt!;
  expect(reused).toBe(tokens - 1);
  expect(lines.slice(4)).toEqual(ratiosOf(rows).map((ratio) => ({ ...ratio })));
});

test("an answer that is another one in the mix is found", async () => {
  let running = 0;
  const asked = (depends: (question: string) => boolean): Ask =>
    async function* (question, tokens) {
      running++;
      await Bun.sleep(1);
      yield { text: depends(question) && running > 1 ? "mixed" : "alone" };
      await Bun.sleep(1);
      running--;
      yield { text: "", usage: { promptTokens: 3, cachedTokens: 0, completionTokens: tokens } };
    };
  const last = await measure(
    asked((question) => question === questionOf(3)),
    { streams: 4, tokens: 5 },
  );
  expect(last).toMatchObject({ differentAlone: [3], promptTokens: 12, completionTokens: 20 });
  expect(
    (
      await measure(
        asked(() => false),
        { streams: 4, tokens: 5 },
      )
    ).differentAlone,
  ).toEqual([]);
});

test("ratios", () => {
  const row = (contender: Row["contender"], streams: number, rate: number, ms: number): Row => ({
    ...{ contender, streams, prompt_tokens: 1, tokens_per_s: rate },
    first_token_ms: { p50: ms, p99: 2 * ms },
    between_tokens_ms: { p50: 1, p99: 2 },
  });
  const known = { repeated_prompt: { tokens: 400, reused: 399, first_token_ms: 500, again_ms: 50 } };
  const rows = [
    { ...row("bf16", 1, 20, 100), ...known },
    row("llama.cpp", 1, 25, 50),
    row("bf16", 16, 90, 400),
    row("engine:bf16", 16, 100, 300),
    row("llama.cpp", 16, 30, 500),
  ];
  expect(ratiosOf(rows)).toEqual([
    { ratio: "tokens/s, 1 stream, bf16 to llama.cpp", value: 0.8 },
    { ratio: "first token, p50, 1 stream, llama.cpp to bf16", value: 0.5 },
    { ratio: "first token, p99, 1 stream, llama.cpp to bf16", value: 0.5 },
    { ratio: "first token of 400, bf16, new to known", value: 10, wanted: 5 },
    { ratio: "tokens/s, 16 streams, bf16 to llama.cpp", value: 3, wanted: 1.5 },
    { ratio: "first token, p50, 16 streams, llama.cpp to bf16", value: 1.25, wanted: 1 },
    { ratio: "first token, p99, 16 streams, llama.cpp to bf16", value: 1.25, wanted: 1 },
    { ratio: "tokens/s, bf16, 16 streams to one", value: 4.5, wanted: 4 },
    { ratio: "tokens/s, bf16, 16 streams, over HTTP to the engine alone", value: 0.9 },
  ]);
});

test("percentiles and the share of common text", () => {
  expect(percentiles([4, 1, 3, 2])).toEqual({ p50: 2, p99: 4 });
  expect(sameBeginning(["abcd", "efgh"], ["abcd", "efgh"])).toBe(1);
  expect(sameBeginning(["abcd", "efgh"], ["abcd", "exgh"])).toBe(0.63);
});
